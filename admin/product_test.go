package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
)

func TestProductInputIsChecked(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{PublicUpstreamsOnly: true})
	upstream := func(url string) map[string]any {
		return map[string]any{"upstreams": []any{map[string]any{"url": url}}}
	}
	header := func(name, value string) map[string]any {
		return map[string]any{"upstreams": []any{map[string]any{"url": "https://a.example.com", "headers": []any{map[string]any{"name": name, "value": value}}}}}
	}
	// f posts an API product at /ok with changes, and wants a fault at a place
	// whose text holds the remedy.
	f := func(name string, change map[string]any, location, remedy string) {
		t.Helper()
		body := map[string]any{"kind": "api", "name": "n", "path": "/ok"}
		for k, v := range change {
			if v == nil {
				delete(body, k)
			} else {
				body[k] = v
			}
		}
		p := h.call(h.sellers[0].token, http.MethodPost, "/products", body).want(422, "INVALID").problem()
		for _, e := range p.Errors {
			if e.Location == location && strings.Contains(e.Message, remedy) {
				return
			}
		}
		t.Errorf("%s: errors %v, want one at %s with %q", name, p.Errors, location, remedy)
	}
	f("no path", map[string]any{"path": nil}, "body.path", "must name a path")
	f("root without a host", map[string]any{"path": "/"}, "body.path", "must name a path")
	f("root with a host", map[string]any{"path": "/", "host": "a.example.com"}, "body.path", "leave path empty")
	f("slash at the end", map[string]any{"path": "/a/"}, "body.path", "no slash at the end")
	f("no slash at the start", map[string]any{"path": "a"}, "body.path", "such as /weather")
	f("double slash", map[string]any{"path": "/a//b"}, "body.path", "single slashes")
	f("percent-encoding", map[string]any{"path": "/a%2Fb"}, "body.path", "no percent-encoding")
	f("dot segment", map[string]any{"path": "/a/../b"}, "body.path", ". or ..")
	f("query", map[string]any{"path": "/a?b"}, "body.path", "must be a path")
	f("wildcard", map[string]any{"path": "/a/{id}"}, "body.path", "must be a path")
	f("the gateway's own LLM paths", map[string]any{"path": "/v1"}, "body.path", "the gateway itself")
	f("below them", map[string]any{"path": "/v1/infers"}, "body.path", "the gateway itself")
	f("below them with a host", map[string]any{"path": "/v1/x", "host": "a.example.com"}, "body.path", "the gateway itself")
	f("health", map[string]any{"path": "/healthz"}, "body.path", "the gateway itself")
	f("host with a port", map[string]any{"host": "a.example.com:80"}, "body.host", "without a port")
	f("host in upper case", map[string]any{"host": "A.example.com"}, "body.host", "lower case")
	f("lower-case method", map[string]any{"methods": []any{"get"}}, "body.methods[0]", "upper case")
	f("CONNECT", map[string]any{"methods": []any{"CONNECT"}}, "body.methods[0]", "cannot be published")
	f("method twice", map[string]any{"methods": []any{"GET", "GET"}}, "body.methods[1]", "twice")
	f("models of an API product", map[string]any{"models": []any{map[string]any{"name": "m"}}}, "body.models", "LLM products only")
	f("no models", map[string]any{"kind": "llm", "path": nil}, "body.models", "at least one model")
	f("path of an LLM product", map[string]any{"kind": "llm", "models": []any{map[string]any{"name": "m"}}}, "body.path", "API products only")
	f("AppCodes for an LLM product (AUTH-14)", map[string]any{"kind": "llm", "path": nil, "simple_auth": true, "models": []any{map[string]any{"name": "m"}}}, "body.simple_auth", "AUTH-14")
	f("model twice", map[string]any{"kind": "llm", "path": nil, "models": []any{map[string]any{"name": "m"}, map[string]any{"name": "m"}}}, "body.models[1].name", "twice")
	f("upstream scheme", upstream("ftp://a.example.com"), "body.upstreams[0].url", "http or https")
	f("upstream without a host", upstream("http:///a"), "body.upstreams[0].url", "http or https")
	f("credentials in the upstream's address", upstream("https://user:hunter2@a.example.com"), "body.upstreams[0].url", "header of the upstream")
	f("query in the upstream's address", upstream("https://a.example.com?k=v"), "body.upstreams[0].url", "query")
	f("port out of range", upstream("https://a.example.com:70000"), "body.upstreams[0].url", "65535")
	f("cloud metadata", upstream("http://169.254.169.254/latest"), "body.upstreams[0].url", "own link")
	f("cloud metadata as IPv6", upstream("http://[::ffff:169.254.169.254]/"), "body.upstreams[0].url", "own link")
	f("any address", upstream("http://0.0.0.0:1"), "body.upstreams[0].url", "own link")
	f("private network where that is refused", upstream("http://10.0.0.1"), "body.upstreams[0].url", "public")
	f("loopback where that is refused", upstream("http://localhost:1"), "body.upstreams[0].url", "public")
	f("header name", header("X Key", "v"), "body.upstreams[0].headers[0].name", "header name")
	f("header injection", header("X-Key", "v\r\nX-Other: w"), "body.upstreams[0].headers[0].value", "one line")
	f("hop-by-hop header", header("Transfer-Encoding", "chunked"), "body.upstreams[0].headers[0].name", "set by the gateway")
	f("a mask for a value", header("X-Key", "***"), "body.upstreams[0].headers[0].value", "not a mask")
	f("mock switch by a seller", map[string]any{"forward_mock": true}, "body.forward_mock", "operators only")
	f("unknown member", map[string]any{"paht": "/x"}, "body.paht", "unexpected property")
	f("control characters", map[string]any{"name": "a\u0000b"}, "body.name", "control characters")

	// What an operator may and a seller may not.
	h.call(h.operator, http.MethodPost, "/products", map[string]any{
		"kind": "api", "name": "n", "path": "/demo", "seller_id": h.sellers[0].id, "forward_mock": true,
		"upstreams": []any{map[string]any{"url": "http://127.0.0.1:1"}},
	}).want(201)
	h.call(h.operator, http.MethodPost, "/products", map[string]any{"kind": "api", "name": "n", "path": "/x", "seller_id": h.buyers[0].id}).want(422, "INVALID")
	h.call(h.operator, http.MethodPost, "/products", map[string]any{"kind": "api", "name": "n", "path": "/x"}).want(422, "INVALID")
}

func TestRoutesDoNotOverlap(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		create := func(seller int, host, path string) *answer {
			t.Helper()
			return h.call(h.sellers[seller].token, http.MethodPost, "/products", map[string]any{"kind": "api", "name": "n", "host": host, "path": path})
		}
		create(0, "", "/demo/weather").want(201)
		create(0, "a.example.com", "").want(409, "ROUTE_TAKEN") // would take /demo/weather there
		create(0, "a.example.com", "/only").want(201)
		for _, c := range []struct{ host, path string }{
			{"", "/demo/weather"},              // the same
			{"", "/demo/weather/v2"},           // below
			{"", "/demo"},                      // above
			{"b.example.com", "/demo/weather"}, // would take it away at that host
			{"a.example.com", "/only/x"},
			{"", "/only"},
		} {
			create(1, c.host, c.path).want(409, "ROUTE_TAKEN")
		}
		create(1, "", "/demo/weather2").want(201) // a neighbour, not below
		create(1, "b.example.com", "/only").want(201)
		other := create(1, "", "/free").want(201)
		h.call(h.sellers[1].token, http.MethodPatch, "/products/"+other.text("id"), map[string]any{"path": "/demo/weather"}, "If-Match", other.header.Get("ETag")).want(409, "ROUTE_TAKEN")
		h.call(h.sellers[1].token, http.MethodPatch, "/products/"+other.text("id"), map[string]any{"path": "/free/more"}, "If-Match", other.header.Get("ETag")).want(200)
	})
}

func TestOnlyOneOfManyGetsAPath(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		const n = 8
		results := make(chan error, n)
		for i := range n {
			go func() {
				_, err := h.CreateProduct(t.Context(), ProductInput{Seller: h.sellers[i%2].id, Kind: directory.KindAPI, Name: "n", Path: "/race" + strings.Repeat("/x", i%3)})
				results <- err
			}()
		}
		won := 0
		for range n {
			if err := <-results; err == nil {
				won++
			} else if err != ErrRouteTaken {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d of %d overlapping products were made, want 1", won, n)
		}
	})
}

func TestUpdateNeedsWhatWasRead(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/etag")
		path := "/products/" + g.product.ID
		token := h.sellers[0].token
		read := h.call(token, http.MethodGet, path, nil).want(200)
		etag := read.header.Get("ETag")
		patch := func(match string, body any) *answer {
			t.Helper()
			if match == "" {
				return h.call(token, http.MethodPatch, path, body)
			}
			return h.call(token, http.MethodPatch, path, body, "If-Match", match)
		}
		patch("", map[string]any{"name": "x"}).want(428, "IF_MATCH_REQUIRED")
		patch(`"999"`, map[string]any{"name": "x"}).want(412, "STALE")
		patch("W/"+etag, map[string]any{"name": "x"}).want(412, "STALE") // weak tags never match
		changed := patch(`"999", `+etag, map[string]any{"name": "x", "on_disconnect": "cancel"}).want(200)
		if changed.text("name") != "x" || changed.text("on_disconnect") != "cancel" || changed.header.Get("ETag") == etag {
			t.Errorf("changed to %s, ETag %s", changed.raw, changed.header.Get("ETag"))
		}
		patch(etag, map[string]any{"name": "y"}).want(412, "STALE")
		patch("*", map[string]any{"name": "z"}).want(200)
		patch("*", map[string]any{"kind": "llm"}).want(422, "INVALID")

		// Of many who read the same, one changes it.
		etag = h.call(token, http.MethodGet, path, nil).header.Get("ETag")
		revision, results := int64(0), make(chan error, 6)
		fmt.Sscanf(etag, `"%d"`, &revision)
		for i := range 6 {
			go func() {
				name := fmt.Sprint("racer ", i)
				_, err := h.UpdateProduct(t.Context(), g.product.ID, revision, ProductPatch{Name: &name})
				results <- err
			}()
		}
		won := 0
		for range 6 {
			if err := <-results; err == nil {
				won++
			} else if err != ErrStale {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d changes of one revision were made, want 1", won)
		}
	})
}

func TestUpstreamSecretsAreKeptAndMasked(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/secret")
		id, token := g.product.ID, h.sellers[0].token
		read := h.call(token, http.MethodGet, "/products/"+id, nil).want(200)
		var p wireProduct
		read.into(&p)
		if d := cmp.Diff([]wireHeader{{"X-Upstream-Key", Masked}}, p.Upstreams[0].Headers); d != "" {
			t.Fatal(d)
		}
		var stored string
		h.ok(h.db.QueryRow(t.Context(), "SELECT headers FROM admin_upstreams WHERE product = $1", id).Scan(&stored))
		if strings.Contains(stored, "upstream-secret-value") || strings.Contains(stored, "X-Upstream-Key") {
			t.Errorf("the database shows %s", stored)
		}

		// A mask keeps the value; a new header comes beside it.
		p.Upstreams[0].Headers = append(p.Upstreams[0].Headers, wireHeader{"X-New", "new-secret"})
		h.call(token, http.MethodPatch, "/products/"+id, map[string]any{"upstreams": p.Upstreams}, "If-Match", "*").want(200)
		got, err := h.Product(t.Context(), id)
		h.ok(err)
		want := []directory.KV{{Name: "X-Upstream-Key", Value: "upstream-secret-value"}, {Name: "X-New", Value: "new-secret"}}
		if d := cmp.Diff(want, got.Upstreams[0].Headers); d != "" {
			t.Error(d)
		}
		if got.Upstreams[0].ID != g.product.Upstreams[0].ID {
			t.Error("the upstream got another id")
		}

		// It cannot be sent elsewhere by somebody who cannot read it.
		moved := p.Upstreams[0]
		moved.URL = "https://attacker.example.com"
		h.call(token, http.MethodPatch, "/products/"+id, map[string]any{"upstreams": []any{moved}}, "If-Match", "*").want(422, "INVALID")
		// Nor taken from an upstream of another product, or kept from none.
		foreign := h.apiProduct(1, "/foreign").product.Upstreams[0].ID
		for _, u := range []map[string]any{
			{"id": foreign, "url": "http://127.0.0.1:9/base", "headers": []any{map[string]any{"name": "X-Upstream-Key", "value": Masked}}},
			{"url": "http://127.0.0.1:9/base", "headers": []any{map[string]any{"name": "X-Upstream-Key", "value": Masked}}},
		} {
			h.call(token, http.MethodPatch, "/products/"+id, map[string]any{"upstreams": []any{u}}, "If-Match", "*").want(422, "INVALID")
		}

		// A buyer sees neither upstreams nor what models are called there.
		llm := h.llmProduct(0)
		for _, path := range []string{"/products/" + id, "/products/" + llm.product.ID, "/products"} {
			a := h.call(h.buyers[0].token, http.MethodGet, path, nil).want(200)
			if strings.Contains(string(a.raw), "upstream") {
				t.Errorf("GET %s shows upstreams to a buyer: %s", path, a.raw)
			}
		}
	})
}

func TestPublishing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		token := h.sellers[0].token
		a := h.call(token, http.MethodPost, "/products", map[string]any{"kind": "llm", "name": "n", "models": []any{map[string]any{"name": "m"}}}).want(201)
		id := a.text("id")
		if infer := a.text("infer_id"); len(infer) != 36 || a.text("base_url") != "/v1/infers/"+infer+"/v1" { // LLM-1, LLM-2
			t.Errorf("infer id %q, base %q", infer, a.text("base_url"))
		}
		h.call(h.buyers[0].token, http.MethodGet, "/products/"+id, nil).want(404, "NOT_FOUND")
		h.call(token, http.MethodPost, "/products/"+id+"/publish", nil).want(409, "NOT_PUBLISHABLE")
		drained := []any{map[string]any{"url": "https://m.example.com", "weight": 0}}
		h.call(token, http.MethodPatch, "/products/"+id, map[string]any{"upstreams": drained}, "If-Match", "*").want(200)
		h.call(token, http.MethodPost, "/products/"+id+"/publish", nil).want(409, "NOT_PUBLISHABLE")
		h.call(token, http.MethodPatch, "/products/"+id, map[string]any{"upstreams": []any{map[string]any{"url": "HTTPS://M.example.com/v1/"}}}, "If-Match", "*").want(200)
		h.call(token, http.MethodPost, "/products/"+id+"/publish", nil).want(200)
		h.call(token, http.MethodPatch, "/products/"+id, map[string]any{"upstreams": drained}, "If-Match", "*").want(409, "NOT_PUBLISHABLE")
		h.call(h.buyers[0].token, http.MethodGet, "/products/"+id, nil).want(200)

		snap := h.snapshot(0)
		if len(snap.Products) != 1 || snap.Products[0].Upstreams[0].URL != "https://m.example.com/v1" || snap.Products[0].Upstreams[0].Weight != 1 {
			t.Errorf("snapshot has %+v", snap.Products)
		}
	})
}
