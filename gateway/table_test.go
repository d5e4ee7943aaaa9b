package gateway

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tollgate/gateway/upstream"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

func apiProduct(id, host, path string) directory.Product {
	return directory.Product{ID: id, Kind: directory.KindAPI, Host: host, Path: path, Upstreams: []directory.Upstream{{ID: "u", URL: "http://127.0.0.1:1/" + id}}}
}

// TestMatchPath: the longest prefix that ends at a segment owns a path, products
// of the host first.
func TestMatchPath(t *testing.T) {
	t.Parallel()
	g := testGateway(Config{})
	err := g.Swap(&directory.Snapshot{Version: 1, Products: []directory.Product{
		apiProduct("A", "", "/a"), apiProduct("AB", "", "/a/b/"), apiProduct("HA", "Host.Example", "/a"), apiProduct("HX", "host.example", "/x/y"), apiProduct("X", "", "/x"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		host, path, want string
		ambiguous        bool
	}{
		{"", "/a", "A", false},
		{"h", "/a/", "A", false},
		{"h:80", "/a/c/d", "A", false},
		{"h", "/ab", "", false},
		{"h", "/", "", false},
		{"h", "/b", "", false},
		{"h", "/a/b", "AB", false},
		{"h", "/a/b/c", "AB", false},
		{"h", "/a/bc", "A", false},
		{"h", "/A", "", false},
		{"host.example", "/a/b", "HA", false},
		{"HOST.example:8080", "/a", "HA", false},
		{"host.example", "/x/y/z", "HX", false},
		{"host.example", "/x", "X", false},
		{"other.host.example", "/x/y", "X", false},
		{"[::1]:80", "/x/y", "X", false},
		{"host.example.", "/x/y", "X", false},
		{"h", "/a//x", "A", false},
		{"h", "/a/%63", "A", false},
		{"h", "/a%2Fb", "", false},
		{"h", "//a", "", false},
		{"h", "/a//b", "", true},
		{"h", "/a/%62/c", "", true},
		{"h", "/a/b%2f%2fc", "", true},
		{"h", "/a/%2fb", "", true},
		{"host.example", "/x/%79", "", true},
		{"h", "/x/%79", "X", false}, // the host's product is not in question
	} {
		p, ok := g.table.Load().matchPath([]byte(tt.host), []byte(tt.path))
		got := ""
		if p != nil && ok {
			got = p.ID
		}
		if ok == tt.ambiguous || got != tt.want {
			t.Errorf("%s%s: %q, ambiguous %v; want %q, %v", tt.host, tt.path, got, !ok, tt.want, tt.ambiguous)
		}
	}
}

// TestFamilyOf: another spelling of a route is that route.
func TestFamilyOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		path string
		want family
		form form
	}{
		{"/chat/completions", familyChat, formModel},
		{"/chat/completions/", familyChat, formModel},
		{"/chat//completions", familyChat, formModel},
		{"//chat/completions", familyChat, formModel},
		{"/chat%2Fcompletions", familyChat, formModel},
		{"/chat/complet%69ons", familyChat, formModel},
		{"/Chat/Completions", familyChat, formModel},
		{"/CHAT/%43ompletions//", familyChat, formModel},
		{"/chat/completions/x", familyChat, formNone},
		{"/chat", familyOther, formJSON},
		{"/xchat/completions", familyOther, formJSON},
		{"", familyOther, formJSON},
		{"/", familyOther, formJSON},
		{"/completions", familyCompletions, formModel},
		{"/embeddings", familyEmbeddings, formModel},
		{"/responses", familyResponses, formModel},
		{"/responses/compact", familyResponses, formModel},
		{"/responses/r1/cancel", familyResponses, formNone},
		{"/responses/r1", familyResponses, formNone},
		{"/Responses/r1", familyResponses, formNone},
		{"/models", familyModels, formNone},
		{"/models/a%2Fb", familyModels, formNone},
		{"/modelsx", familyOther, formJSON},
		{"/files", familyFiles, formNone},
		{"/messages", familyMessages, formModel},
		{"/messages/count_tokens", familyMessages, formCount},
		{"/responses/input_tokens", familyResponses, formCount},
		{"/messages/batches/b1", familyBatches, formNone},
		{"/files/f1/content", familyFiles, formNone},
		{"/Files/", familyFiles, formNone},
		{"/filesx", familyOther, formJSON},
		{"/audio/transcriptions", familyTranscriptions, formParts},
		{"/audio/translations", familyTranslations, formParts},
		{"/audio/speech", familySpeech, formModel},
		{"/audio", familyOther, formJSON},
		{"/images/generations", familyImages, formJSON},
		{"/images//Edits", familyImages, formParts},
		{"/moderations", familyModerations, formJSON},
		{"/rerank", familyRerank, formJSON},
		{"/realtime", familyRealtime, formNone},
		{"/realtime/client_secrets", familyRealtime, formNone},
		{"/vector_stores/v/search", familyVectorStores, formNone},
	} {
		if f, m := familyOf([]byte(tt.path)); f != tt.want || m != tt.form {
			t.Errorf("%q: %s %v, want %s %v", tt.path, familyNames[f], m, familyNames[tt.want], tt.form)
		}
	}
}

func TestSplitLLM(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ path, infer, rest string }{
		{"/v1/infers/ID/v1/chat/completions", "ID", "/chat/completions"},
		{"/v1/infers/ID/v1", "ID", ""},
		{"/v1/infers/ID/v1/", "ID", "/"},
		{"/v1/infers/ID", "ID", "<nil>"},
		{"/v1/infers/ID/v2/x", "ID", "<nil>"},
		{"/v1/infers/ID/v1x", "ID", "<nil>"},
		{"/v1/infers/", "", "<nil>"},
		{"/v1/chat/completions", "", "/chat/completions"},
		{"/v1", "", ""},
		{"/v1/", "", "/"},
		{"/v1/infers", "", "/infers"},
	} {
		r, llm := splitLLM([]byte(tt.path))
		rest := string(r.rest)
		if r.rest == nil {
			rest = "<nil>"
		}
		if !llm || string(r.infer) != tt.infer || rest != tt.rest {
			t.Errorf("%s: %v %q %q", tt.path, llm, r.infer, rest)
		}
	}
	for _, path := range []string{"/", "/v2/x", "/v1x", "/V1/x", "/%761/x", "//v1/x"} {
		if _, llm := splitLLM([]byte(path)); llm {
			t.Errorf("%s is taken for an LLM path", path)
		}
	}
}

// TestFaultyRows: a row that cannot be used is left out and reported; the others
// serve.
func TestFaultyRows(t *testing.T) {
	t.Parallel()
	g := testGateway(Config{})
	hash := func(s string) []byte { return directory.Hash([]byte("p"), s) }
	withHeader := func(id, name, value string) directory.Product {
		p := apiProduct(id, "", "/"+id)
		p.Upstreams[0].Headers = []directory.KV{{Name: name, Value: value}}
		return p
	}
	withURL := func(id, url string) directory.Product {
		p := apiProduct(id, "", "/"+id)
		p.Upstreams[0].URL = url
		return p
	}
	two := apiProduct("two", "", "/two")
	two.Upstreams = append(two.Upstreams, two.Upstreams[0])
	many := apiProduct("many", "", "/many")
	for i := range 65 {
		many.Upstreams = append(many.Upstreams, directory.Upstream{ID: fmt.Sprint(i), URL: "http://h"})
	}
	llm := directory.Product{ID: "llm", Kind: directory.KindLLM, InferID: "I", Models: []directory.Model{{Name: "m"}}}
	twin := llm
	twin.ID = "twin"
	lone := llm
	lone.ID, lone.InferID = "lone", ""
	snap := &directory.Snapshot{
		Version: 7, Pepper: []byte("p"),
		Products: []directory.Product{
			apiProduct("good", "", "/good"), llm,
			apiProduct("good", "", "/good2"), apiProduct("taken", "", "/good/"), apiProduct("root", "", "/"), apiProduct("none", "", ""), apiProduct("relative", "", "x"),
			apiProduct("v1", "", "/v1/x"), apiProduct("health", "", "/healthz"), apiProduct("dots", "", "/a/../b"), apiProduct("query", "", "/a?b"), apiProduct("escape", "", "/a%20b"), apiProduct("double", "", "/a//b"),
			apiProduct("host", "http://h", "/h"), twin, lone,
			withURL("scheme", "ftp://h"), withURL("nohost", "http://"), withURL("user", "http://u:p@h"), withURL("urlquery", "http://h/?a"), withURL("broken", "http://[::1"),
			withHeader("hname", "X Y", "1"), withHeader("hvalue", "X-Y", "1\r\nX-Z: 2"), withHeader("hours", "X-Request-Id", "1"), withHeader("hframe", "Content-Length", "1"), withHeader("hhop", "connection", "close"), withHeader("hhost", "Host", "x"),
			two, many,
		},
		Subscriptions: []directory.Subscription{{ID: "S", Account: "B", Product: "good", Units: []usage.Unit{usage.Call}}, {ID: "S2", Account: "B", Product: "good"}, {ID: "S3", Account: "B", Product: "nothing", Units: []usage.Unit{usage.Call}}},
		Applications:  []directory.Application{{ID: "APP", Account: "B", Bound: []string{"good"}}},
		AppKeys: []directory.AppKey{
			{ID: "AK", Application: "APP", Key: "k", Secret: "s"}, {ID: "nosecret", Application: "APP", Key: "k2"}, {ID: "nokey", Application: "APP", Secret: "s"}, {ID: "noapp", Application: "X", Key: "k3", Secret: "s"}, {ID: "again", Application: "APP", Key: "k", Secret: "t"},
		},
		AppCodes: []directory.AppCode{{ID: "AC", Application: "APP", Hash: hash("c")}, {ID: "short", Application: "APP", Hash: []byte("x")}, {ID: "lost", Application: "X", Hash: hash("d")}, {ID: "same", Application: "APP", Hash: hash("c")}},
		APIKeys:  []directory.APIKey{{ID: "K", Account: "B", Hash: hash("a")}, {ID: "stub", Account: "B"}, {ID: "copy", Account: "C", Hash: hash("a")}},
	}
	err := g.Swap(snap)
	if err == nil {
		t.Fatal("no fault was reported")
	}
	var got []string
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		what, _, _ := strings.Cut(e.Error(), ":")
		got = append(got, what)
		if strings.Contains(e.Error(), "u:p") {
			t.Errorf("a password in %v", e)
		}
	}
	var want []string
	for _, id := range []string{"good", "taken", "root", "none", "relative", "v1", "health", "dots", "query", "escape", "double", "host", "twin", "lone", "scheme", "nohost", "user", "urlquery", "broken", "hname", "hvalue", "hours", "hframe", "hhop", "hhost", "two", "many"} {
		want = append(want, "product "+id)
	}
	want = append(want, "API key stub", "API key copy", "AppKey nosecret", "AppKey nokey", "AppKey noapp", "AppKey again", "AppCode short", "AppCode lost", "AppCode same")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	tab := g.table.Load()
	if len(tab.products) != 2 || len(tab.apiKeys) != 1 || len(tab.appKeys) != 1 || len(tab.appCodes) != 1 || len(tab.accounts["B"].subs) != 1 || g.Version() != 7 {
		t.Errorf("%d products, %d keys, %d AppKeys, %d AppCodes, %v", len(tab.products), len(tab.apiKeys), len(tab.appKeys), len(tab.appCodes), tab.accounts["B"])
	}
	if string(tab.appKeys["k"].secret) != "s" || tab.keyOf([32]byte(hash("a"))).account.id != "B" {
		t.Error("a second row took the place of the first")
	}
}

// TestSwapKeepsTargets: what stays at its URL keeps its connections; what goes
// is retired, and given up once nobody uses it.
func TestSwapKeepsTargets(t *testing.T) {
	t.Parallel()
	g := testGateway(Config{})
	swap := func(version int64, products ...directory.Product) map[string]*upstream.Target {
		t.Helper()
		if err := g.Swap(&directory.Snapshot{Version: version, Products: products}); err != nil {
			t.Fatal(err)
		}
		out := map[string]*upstream.Target{}
		for id, p := range g.table.Load().products {
			out[id] = p.upstream[0].Target
		}
		return out
	}
	same := apiProduct("C", "", "/c")
	same.Upstreams[0].URL = "http://127.0.0.1:1/A"
	first := swap(1, apiProduct("A", "", "/a"), apiProduct("B", "", "/b"), same)
	if first["A"] != first["C"] {
		t.Error("one URL has two targets")
	}
	second := swap(2, apiProduct("A", "", "/a2"), apiProduct("D", "", "/d"))
	if second["A"] != first["A"] {
		t.Error("the target of A was not kept")
	}
	if len(g.retired) != 1 || g.retired[0] != first["B"] {
		t.Errorf("retired: %v", g.retired)
	}
	// A product that changes its kind under the same id must not meet the
	// metrics of the other kind.
	llm := directory.Product{ID: "A", Kind: directory.KindLLM, InferID: "I", Upstreams: []directory.Upstream{{ID: "u", URL: "http://127.0.0.1:1/A"}}}
	swap(3, llm)
	g.table.Load().products["A"].metrics.countRequest(familyResponses, usage.AuthAPIKey, 200)
	swap(4)
	if len(g.retired) != 1 || len(g.table.Load().products) != 0 {
		t.Errorf("retired: %v", g.retired)
	}
}
