package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// TestBillingItems: items and the parameter profile are data of the product,
// checked, shown as they were sent, and in the directory (LLM-41, EXT-3).
func TestBillingItems(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	seller := h.sellers[0].token
	item := func(unit string, more map[string]any) map[string]any {
		it := map[string]any{"unit": unit, "from": "answer", "path": "usage.n"}
		for k, v := range more {
			it[k] = v
		}
		return it
	}
	product := func(change map[string]any) map[string]any {
		body := map[string]any{"kind": "llm", "name": "n", "models": []any{map[string]any{"name": "m"}}}
		for k, v := range change {
			body[k] = v
		}
		return body
	}
	for name, tt := range map[string]struct {
		change            map[string]any
		location, message string
	}{
		"path":           {map[string]any{"billing_items": []any{item("image", map[string]any{"path": "a..b"})}}, "body.billing_items[0].path", "empty keys"},
		"route":          {map[string]any{"billing_items": []any{item("image", nil), item("image", map[string]any{"routes": []any{"chat"}})}}, "body.billing_items[1].routes", "one of other"},
		"fixed":          {map[string]any{"billing_items": []any{item("token", map[string]any{"from": "fixed"})}}, "body.billing_items[0].path", "fixed"},
		"amount":         {map[string]any{"billing_items": []any{item("token", map[string]any{"amount": 3})}}, "body.billing_items[0].amount", "fixed items"},
		"an API product": {map[string]any{"kind": "api", "path": "/x", "models": []any{}, "billing_items": []any{item("image", nil)}}, "body.billing_items", "LLM products only"},
	} {
		p := h.call(seller, http.MethodPost, "/products", product(tt.change)).want(422, "INVALID").problem()
		found := false
		for _, e := range p.Errors {
			found = found || e.Location == tt.location && strings.Contains(e.Message, tt.message)
		}
		if !found {
			t.Errorf("%s: %+v", name, p.Errors)
		}
	}
	items := []any{
		item("image", map[string]any{"routes": []any{"images", "/agents/run"}}),
		item("second", map[string]any{"path": "t.#.ms", "per": 1000}),
		map[string]any{"unit": "token", "from": "fixed", "amount": 5, "routes": []any{"files"}},
	}
	id := h.call(seller, http.MethodPost, "/products", product(map[string]any{
		"billing_items": items, "parameters": "vllm", "objects": "shared", "upstreams": []any{map[string]any{"url": "https://a.example.com"}},
	})).want(201).text("id")
	h.call(seller, http.MethodPost, "/products/"+id+"/publish", nil).want(200)
	want := []directory.Item{
		{Unit: usage.Image, Routes: []string{"images", "/agents/run"}, From: directory.ItemAnswer, Path: "usage.n"},
		{Unit: usage.Second, From: directory.ItemAnswer, Path: "t.#.ms", Per: 1000},
		{Unit: usage.Token, Routes: []string{"files"}, From: directory.ItemFixed, Amount: 5},
	}
	published := func() directory.Product {
		for _, p := range h.snapshot(0).Products {
			if p.ID == id {
				return p
			}
		}
		t.Fatal("the product is not in the directory")
		return directory.Product{}
	}
	if p := published(); cmp.Diff(want, p.Items) != "" || p.Parameters != directory.ParametersVLLM || p.Objects != directory.ObjectsShared {
		t.Errorf("%s %q", cmp.Diff(want, p.Items), p.Parameters)
	}
	// Packages of what is measured are for sale, and buyers see what is measured.
	for _, unit := range []string{"image", "second", "character"} {
		h.call(seller, http.MethodPost, "/products/"+id+"/specs", map[string]any{
			"name": unit, "mode": "used_up_stop", "price": "1", "quotas": []any{map[string]any{"unit": unit, "amount": 9}},
		}).want(201)
	}
	// A change of something else keeps them; they can be taken away.
	h.call(seller, http.MethodPatch, "/products/"+id, map[string]any{"name": "other"}, "If-Match", "*").want(200)
	if p := published(); cmp.Diff(want, p.Items) != "" {
		t.Errorf("a change of the name: %v", p.Items)
	}
	h.call(seller, http.MethodPatch, "/products/"+id, map[string]any{"billing_items": []any{}, "parameters": "", "objects": ""}, "If-Match", "*").want(200)
	if p := published(); len(p.Items) != 0 || p.Parameters != "" || p.Objects != "" {
		t.Errorf("still %v %q", p.Items, p.Parameters)
	}
}
