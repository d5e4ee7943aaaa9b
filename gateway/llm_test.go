package gateway_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// TestModels: LLM-4. The list is what the key may use; it is the gateway's own
// answer and costs nothing.
func TestModels(t *testing.T) {
	t.Parallel()
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Products[1].Models = append(s.Products[1].Models, directory.Model{Name: "org/m+1"})
		s.APIKeys = append(s.APIKeys, directory.APIKey{ID: "K-ALL", Account: "BUYER", Hash: directory.Hash([]byte(pepper), "sk-all")})
	})
	list := func(path, key string) []string {
		t.Helper()
		r := f.do("GET", path, "", "Authorization", "Bearer "+key)
		var v struct {
			Object string
			Data   []struct{ ID, Object string }
		}
		if err := json.Unmarshal([]byte(r.body), &v); err != nil || r.StatusCode != 200 || v.Object != "list" || r.Header.Get("X-Request-Id") == "" {
			t.Fatalf("%d %s %v", r.StatusCode, r.body, err)
		}
		var ids []string
		for _, m := range v.Data {
			ids = append(ids, m.ID)
		}
		return ids
	}
	for _, tt := range []struct {
		path, key string
		want      []string
	}{
		{"/v1/models", "sk-all", []string{"demo-chat", "alias", "org/m+1"}},
		{"/v1/models", callKey, []string{"demo-chat", "alias"}},
		{"/v1/infers/" + tokenInfer + "/v1/models", "sk-all", []string{"demo-chat", "alias", "org/m+1"}},
		{"/v1/infers/" + callInfer + "/v1/models", "sk-all", []string{"demo-chat", "alias"}},
	} {
		if got := list(tt.path, tt.key); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.path, got, tt.want)
		}
	}
	for path, status := range map[string]int{"/v1/models/alias": 200, "/v1/models/org%2Fm+1": 200, "/v1/models/org/m+1": 200, "/v1/models/none": 404, "/v1/infers/" + callInfer + "/v1/models/org%2Fm+1": 404} {
		r := f.do("GET", path, "", "Authorization", "Bearer sk-all")
		if r.StatusCode != status || status == 404 && r.openAI(t).Code != "model_not_found" {
			t.Errorf("%s: %d %s", path, r.StatusCode, r.body)
		}
	}
	if r := f.do("HEAD", "/v1/models", "", "Authorization", "Bearer sk-all"); r.StatusCode != 200 || r.ContentLength <= 0 {
		t.Errorf("HEAD: %d, length %d", r.StatusCode, r.ContentLength)
	}
	if n := f.mock.Stats().Total; n != 0 || len(f.records) != 0 {
		t.Errorf("%d requests went upstream, %d were charged", n, len(f.records))
	}
}

// TestModelAlias: the upstream gets the name it knows, the record keeps the one
// the caller used.
func TestModelAlias(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	for i, name := range []string{"alias", "demo-chat"} {
		r := f.chat(strings.Replace(hello, `"demo-chat"`, ` "`+name+`" `, 1), "X-Mock-Record", "1")
		if r.StatusCode != 200 {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		if got, want := f.last(t).Body, strings.Replace(hello, `"demo-chat"`, ` "demo-chat" `, 1); got != want {
			t.Errorf("the upstream got %s, want %s", got, want)
		}
		if rec := f.record(i); rec.Model != name {
			t.Errorf("recorded %q", rec.Model)
		}
	}
	// An absurd name is neither repeated whole nor kept.
	long := strings.Repeat("x", 100_000)
	if r := f.chat(strings.Replace(hello, "demo-chat", long, 1)); r.StatusCode != 404 || len(r.body) > 1000 || r.openAI(t).Code != "model_not_found" || r.openAI(t).Param != nil {
		t.Errorf("%d, %d bytes: %.300s", r.StatusCode, len(r.body), r.body)
	}
}

// TestEveryRouteIsMetered: peers 2.10 point 7. What the gateway does not know
// passes, and is counted like any other call.
func TestEveryRouteIsMetered(t *testing.T) {
	t.Parallel()
	f := startAt(t, fixedAnswer(t, "application/json", "{}").url, nil)
	for i, tt := range []struct{ method, path, body, api string }{
		{"POST", "/v1/files", "x", "files"},
		{"GET", "/v1/files/f1", "", "files"},
		{"DELETE", "/v1/files/f1", "", "files"},
		{"POST", "/v1/audio/speech", `{"model":"demo-chat","input":"x"}`, "audio.speech"},
		{"POST", "/v1/", "x", "other"},
		{"POST", "/v1", "x", "other"},
		{"GET", "/v1/responses/r1", "", "responses"},
		{"POST", "/v1/responses/r1/cancel", "", "responses"},
		{"POST", "/v1/embeddings", `{"model":"demo-chat","input":"x"}`, "embeddings"},
		{"POST", "/v1/completions", `{"model":"demo-chat","prompt":"x"}`, "completions"},
		{"POST", "/v1/chat//completions", hello, "chat.completions"},
		{"POST", "/v1/Chat/complet%69ons/", hello, "chat.completions"},
		{"GET", "/v1/chat/completions/c1", "", "chat.completions"},
		{"POST", "/v1/audio/speech", `{"model":"alias","input":"x"}`, "audio.speech"},
		{"POST", "/v1/moderations", `{"input":"x"}`, "moderations"},
		{"POST", "/v1/rerank", `{"query":"x"}`, "rerank"},
		{"POST", "/v1/batches", `{}`, "batches"},
		{"GET", "/v1/batches/b1", "", "batches"},
		{"POST", "/v1/uploads/u1/parts", "x", "uploads"},
		{"GET", "/v1/vector_stores/v1/files", "", "vector_stores"},
		{"POST", "/v1/fine_tuning/jobs", "{}", "other"},
	} {
		r := f.do(tt.method, tt.path, tt.body, "Authorization", "Bearer "+callKey)
		if r.StatusCode != 200 || r.Header.Get("X-Tollgate-Charged") != "call=1" {
			t.Errorf("%s %s: %d %v %s", tt.method, tt.path, r.StatusCode, r.Header, r.body)
			continue
		}
		if rec := f.record(i); rec.API != tt.api || !rec.Has(usage.Counted) {
			t.Errorf("%s %s: %+v", tt.method, tt.path, rec)
		}
	}
	if r := f.do("DELETE", "/v1/models/ft-1", "", "Authorization", "Bearer "+callKey); r.StatusCode != 405 || r.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("the upstream's models could be changed: %d %v", r.StatusCode, r.Header)
	}
	// A spelling a lenient upstream serves is no way around asking for usage.
	f = start(t, nil)
	r := f.do("POST", "/v1/chat//completions", helloStream, "Authorization", "Bearer "+tokenKey, "X-Mock-Record", "1")
	if r.StatusCode != 200 || !strings.Contains(f.last(t).Body, "include_usage") {
		t.Errorf("%d, the upstream got %s", r.StatusCode, f.last(t).Body)
	}
}
