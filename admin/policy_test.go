package admin

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
)

// TestPolicies sets limits and address lists by the API and finds them in the
// directory; whoever does not own a thing cannot limit it.
func TestPolicies(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		seller, buyer := h.sellers[0].token, h.buyers[0].token
		g := h.llmProduct(0)
		sub := h.buy(0, g.spec)
		key := h.call(buyer, http.MethodPost, "/api-keys", map[string]any{}).want(201).text("id")
		app := h.call(buyer, http.MethodPost, "/applications", map[string]any{"name": "a"}).want(201).text("id")
		version := h.snapshot(0).Version

		set := func(token, path, body string) *answer { return h.call(token, http.MethodPut, path+"/policy", body) }
		product := `{"requests_per_minute":600,"each":{"tokens_per_minute":1000},"deny":["192.0.2.0/24"]}`
		for _, tc := range []struct{ token, path, body string }{
			{seller, "/products/" + g.product.ID, product},
			{seller, "/subscriptions/" + sub, `{"requests_per_second":5}`},
			{buyer, "/applications/" + app, `{"concurrency":3,"allow":["10.0.0.0/8","2001:db8::1"]}`},
			{h.operator, "/api-keys/" + key, `{"concurrency":-1}`},
		} {
			set(tc.token, tc.path, tc.body).want(200)
			if got := string(h.call(tc.token, http.MethodGet, tc.path+"/policy", nil).want(200).raw); !strings.Contains(got, strings.Trim(tc.body, "{}")) {
				t.Errorf("%s: %s, want %s", tc.path, got, tc.body)
			}
		}
		snap := h.snapshot(version)
		found := map[string]*directory.Policy{}
		for _, p := range snap.Products {
			found[p.ID] = p.Policy
		}
		for _, s := range snap.Subscriptions {
			found[s.ID] = s.Policy
		}
		for _, a := range snap.Applications {
			found[a.ID] = a.Policy
		}
		for _, k := range snap.APIKeys {
			found[k.ID] = k.Policy
		}
		for id, want := range map[string]directory.Policy{
			g.product.ID: {Limits: directory.Limits{RequestsPerMinute: 600}, Each: directory.Limits{TokensPerMinute: 1000}, Deny: []string{"192.0.2.0/24"}},
			sub:          {Limits: directory.Limits{RequestsPerSecond: 5}},
			app:          {Limits: directory.Limits{Concurrency: 3}, Allow: []string{"10.0.0.0/8", "2001:db8::1"}},
			key:          {Limits: directory.Limits{Concurrency: -1}},
		} {
			if d := cmp.Diff(&want, found[id]); d != "" {
				t.Errorf("%s: %s", id, d)
			}
		}

		for _, tc := range []struct {
			name, token, path string
			status            int
		}{
			{"another seller's product", h.sellers[1].token, "/products/" + g.product.ID, 404},
			{"another buyer's key", h.buyers[1].token, "/api-keys/" + key, 404},
			{"another buyer's application", h.buyers[1].token, "/applications/" + app, 404},
			{"a buyer its own subscription", buyer, "/subscriptions/" + sub, 403},
			{"another seller's subscription", h.sellers[1].token, "/subscriptions/" + sub, 404},
		} {
			if a := set(tc.token, tc.path, `{"concurrency":1}`); a.status != tc.status {
				t.Errorf("%s: %d, want %d: %s", tc.name, a.status, tc.status, a.raw)
			}
		}
		for _, bad := range []string{
			`{"concurrency":-2}`, `{"requests_per_minute":2147483648}`, `{"allow":["10.0.0.0/33"]}`, `{"deny":["host"]}`,
			`{"deny":["10.0.0.1","10.0.0.1"]}`, `{"each":{"concurrency":1}}`, `{"speed":1}`,
		} {
			set(buyer, "/api-keys/"+key, bad).want(422)
		}
		set(seller, "/subscriptions/"+sub, `{"allow":["10.0.0.0/8"]}`).want(422)

		set(buyer, "/api-keys/"+key, `{}`).want(200) // ends it
		for _, k := range h.snapshot(snap.Version).APIKeys {
			if k.ID == key && k.Policy != nil {
				t.Errorf("an ended policy is in force: %+v", k.Policy)
			}
		}
	})
}

// A buyer may tighten the platform's bound for its credentials, and not lift
// it; what an operator granted it may keep.
func TestBuyersStayWithinThePlatformsLimits(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		h.cfg.CredentialLimits = directory.Limits{Concurrency: 100}
		buyer := h.buyers[0].token
		key := h.call(buyer, http.MethodPost, "/api-keys", map[string]any{}).want(201).text("id")
		for _, tc := range []struct {
			token, body string
			want        int
		}{
			{buyer, `{"concurrency":-1}`, 422},
			{buyer, `{"concurrency":101}`, 422},
			{buyer, `{"concurrency":100}`, 200},
			{buyer, `{"concurrency":7,"requests_per_minute":5000}`, 200},
			{h.operator, `{"concurrency":500}`, 200},
			{buyer, `{"concurrency":500}`, 200},
			{buyer, `{"concurrency":501}`, 422},
			{h.operator, `{"concurrency":-1}`, 200},
			{buyer, `{"concurrency":2000}`, 200},
		} {
			h.call(tc.token, http.MethodPut, "/api-keys/"+key+"/policy", tc.body).want(tc.want)
		}
	})
}
