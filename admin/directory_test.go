package admin

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/admin/seal"
	"tollgate/billing"
	"tollgate/internal/directory"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
)

// TestEveryChangeIsInTheNextSnapshot makes each change that gateways must see,
// by the API, and looks for it in the next snapshot, under a higher version.
func TestEveryChangeIsInTheNextSnapshot(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		seller, buyer := h.sellers[0].token, h.buyers[0].token
		last := h.snapshot(0)
		var prod, llmProd, app, key, sub string
		find := func(s *directory.Snapshot, id string) *directory.Product {
			if i := slices.IndexFunc(s.Products, func(p directory.Product) bool { return p.ID == id }); i >= 0 {
				return &s.Products[i]
			}
			return nil
		}
		state := func(s *directory.Snapshot) directory.SubscriptionState {
			for _, x := range s.Subscriptions {
				if x.ID == sub {
					return x.State
				}
			}
			return ""
		}
		post := func(token, path string, body any) *answer { return h.call(token, http.MethodPost, path, body) }
		upstreams := []any{map[string]any{"url": "http://127.0.0.1:9"}}
		steps := []struct {
			name string
			do   func()
			see  func(s *directory.Snapshot) bool
		}{
			{"product made, not published", func() {
				prod = post(seller, "/products", map[string]any{"kind": "api", "name": "n", "path": "/a", "simple_auth": true, "methods": []any{"GET"}, "strip_path": true, "upstreams": upstreams}).want(201).text("id")
			}, func(s *directory.Snapshot) bool { return find(s, prod) == nil }},
			{
				"product published", func() { post(seller, "/products/"+prod+"/publish", nil).want(200) },
				func(s *directory.Snapshot) bool {
					p := find(s, prod)
					return p != nil && p.Path == "/a" && p.SimpleAuth && p.StripPath && cmp.Equal(p.Methods, []string{"GET"}) && p.OnDisconnect == "drain" && len(p.Upstreams) == 1
				},
			},
			{"product changed", func() {
				h.call(seller, http.MethodPatch, "/products/"+prod, map[string]any{"path": "/b", "simple_auth": false}, "If-Match", "*").want(200)
			}, func(s *directory.Snapshot) bool { p := find(s, prod); return p.Path == "/b" && !p.SimpleAuth }},
			{"LLM product", func() {
				llmProd = post(seller, "/products", map[string]any{"kind": "llm", "name": "n", "upstreams": upstreams, "models": []any{map[string]any{"name": "m", "upstream": "u"}}}).want(201).text("id")
				post(seller, "/products/"+llmProd+"/publish", nil).want(200)
			}, func(s *directory.Snapshot) bool {
				p := find(s, llmProd)
				return p != nil && len(p.InferID) == 36 && cmp.Equal(p.Models, []directory.Model{{Name: "m", Upstream: "u"}})
			}},
			{"purchase (PKG-27)", func() {
				spec := post(seller, "/products/"+prod+"/specs", map[string]any{"name": "p", "mode": "per_call", "price": "0", "quotas": []any{map[string]any{"unit": "call", "amount": 9}}}).want(201).text("id")
				sub = post(buyer, "/orders", map[string]any{"spec_id": spec}).want(201).text("subscription_id")
			}, func(s *directory.Snapshot) bool {
				return state(s) == directory.SubscriptionActive && len(s.Applications) == 1 && s.Applications[0].Name == MarketplaceApp &&
					cmp.Equal(s.Applications[0].Bound, []string{prod}) && len(s.AppKeys) == 1 && s.AppKeys[0].Application == s.Applications[0].ID
			}},
			{"subscription frozen", func() {
				post(h.operator, "/subscriptions/"+sub+"/freeze", map[string]any{"reason": "r"}).want(200)
			}, func(s *directory.Snapshot) bool { return state(s) == directory.SubscriptionFrozen }},
			{"subscription unfrozen", func() {
				post(h.operator, "/subscriptions/"+sub+"/unfreeze", map[string]any{"reason": "r"}).want(200)
			}, func(s *directory.Snapshot) bool { return state(s) == directory.SubscriptionActive }},
			{
				"application made", func() { app = post(buyer, "/applications", map[string]any{"name": "a"}).want(201).text("id") },
				func(s *directory.Snapshot) bool { return len(s.Applications) == 2 && len(s.AppKeys) == 2 },
			},
			{
				"application bound", func() { h.call(buyer, http.MethodPut, "/applications/"+app+"/bindings/"+prod, nil).want(204) },
				func(s *directory.Snapshot) bool { return cmp.Equal(s.Applications[1].Bound, []string{prod}) },
			},
			{
				"AppCode made", func() { post(buyer, "/applications/"+app+"/app-codes", map[string]any{}).want(201) },
				func(s *directory.Snapshot) bool { return len(s.AppCodes) == 1 && s.AppCodes[0].Application == app },
			},
			{
				"secret reset", func() { post(buyer, "/applications/"+app+"/secret/reset", nil).want(200) },
				func(s *directory.Snapshot) bool { return s.AppKeys[1].Secret != last.AppKeys[1].Secret },
			},
			{
				"application unbound", func() { h.call(buyer, http.MethodDelete, "/applications/"+app+"/bindings/"+prod, nil).want(204) },
				func(s *directory.Snapshot) bool { return len(s.Applications[1].Bound) == 0 },
			},
			{"AppCode deleted", func() {
				id := last.AppCodes[0].ID
				h.call(buyer, http.MethodDelete, "/applications/"+app+"/app-codes/"+id, nil).want(204)
			}, func(s *directory.Snapshot) bool { return len(s.AppCodes) == 0 }},
			{
				"application deleted", func() { h.call(buyer, http.MethodDelete, "/applications/"+app, nil).want(204) },
				func(s *directory.Snapshot) bool { return len(s.Applications) == 1 && len(s.AppKeys) == 1 },
			},
			{
				"API key made", func() { key = post(buyer, "/api-keys", map[string]any{}).want(201).text("id") },
				func(s *directory.Snapshot) bool { return len(s.APIKeys) == 1 },
			},
			{"API key narrowed", func() {
				h.call(buyer, http.MethodPatch, "/api-keys/"+key, map[string]any{"products": []any{llmProd}}).want(200)
			}, func(s *directory.Snapshot) bool { return cmp.Equal(s.APIKeys[0].Products, []string{llmProd}) }},
			{"API key disabled (KEY-7)", func() {
				h.call(buyer, http.MethodPatch, "/api-keys/"+key, map[string]any{"enabled": false}).want(200)
			}, func(s *directory.Snapshot) bool { return len(s.APIKeys) == 0 }},
			{"API key enabled", func() {
				h.call(buyer, http.MethodPatch, "/api-keys/"+key, map[string]any{"enabled": true}).want(200)
			}, func(s *directory.Snapshot) bool { return len(s.APIKeys) == 1 }},
			{
				"API key deleted (KEY-7)", func() { h.call(buyer, http.MethodDelete, "/api-keys/"+key, nil).want(204) },
				func(s *directory.Snapshot) bool { return len(s.APIKeys) == 0 },
			},
			{
				"product withdrawn", func() { post(seller, "/products/"+prod+"/unpublish", nil).want(200) },
				func(s *directory.Snapshot) bool { return find(s, prod) == nil },
			},
			{"subscription closed", func() {
				post(h.operator, "/subscriptions/"+sub+"/close", map[string]any{"reason": "r"}).want(200)
			}, func(s *directory.Snapshot) bool {
				return state(s) == directory.SubscriptionClosed && len(s.Applications[0].Bound) == 0
			}},
		}
		for _, step := range steps {
			// A gateway that waits gets it by itself, at once.
			got := make(chan *directory.Snapshot, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				snap, err := h.Source().Next(ctx, last.Version)
				if err != nil {
					t.Error(err)
				}
				got <- snap
			}()
			step.do()
			if snap := <-got; snap == nil || snap.Version <= last.Version {
				t.Fatalf("%s: a waiting gateway got %v", step.name, snap)
			}
			snap := h.snapshot(last.Version)
			if !step.see(snap) {
				t.Fatalf("%s: not in snapshot %d: %+v", step.name, snap.Version, snap)
			}
			last = snap
		}
	})
}

func TestWhatGatewaysDoNotSeeKeepsTheVersion(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/quiet")
		before := h.snapshot(0).Version
		h.call(h.operator, http.MethodPost, "/accounts", map[string]any{"kind": "buyer", "name": "new"}).want(201)
		h.call(h.operator, http.MethodPost, "/tokens", map[string]any{"role": "operator"}).want(201)
		h.call(h.operator, http.MethodPost, "/accounts/"+h.buyers[0].id+"/top-ups", map[string]any{"amount": "5"}).want(201)
		h.call(h.sellers[0].token, http.MethodPost, "/products/"+g.product.ID+"/specs", map[string]any{"name": "p", "mode": "per_call", "price": "0", "quotas": []any{map[string]any{"unit": "call", "amount": 9}}}).want(201)
		h.call(h.sellers[0].token, http.MethodPost, "/products", map[string]any{"kind": "api", "name": "n", "path": "/quiet"}).want(409)
		h.call(h.buyers[0].token, http.MethodGet, "/products", nil).want(200)
		if after := h.snapshot(0).Version; after != before {
			t.Errorf("the version went from %d to %d", before, after)
		}
	})
}

// TestAnotherProcessIsHeard: two admin processes share a PostgreSQL. A gateway
// that waits at one hears of a change made by the other, and the gateway that
// asks both in turn is never taken back.
func TestAnotherProcessIsHeard(t *testing.T) {
	t.Parallel()
	url := postgres.URL(t)
	cfg := Config{Poll: 50 * time.Millisecond}
	one := newHarness(t, sqldb.Options{URL: url}, cfg)
	two := &harness{t: t, clock: one.clock, logs: &logs{}, lots: one.lots}
	two.open(sqldb.Options{URL: url}, cfg)

	snap, err := one.Source().Next(t.Context(), 0)
	one.ok(err)
	got := make(chan *directory.Snapshot, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		next, err := one.Source().Next(ctx, snap.Version)
		if err != nil {
			t.Error(err)
		}
		got <- next
	}()
	key, err := two.CreateAPIKey(t.Context(), APIKeyInput{Account: one.buyers[0].id})
	one.ok(err)
	if next := <-got; next == nil || len(next.APIKeys) != 1 || next.APIKeys[0].ID != key.ID {
		t.Fatalf("the gateway got %+v", next)
	}
	// The pepper, the tokens and the sealed secrets are the same.
	two.router = documentRouter(t, two.document)
	two.call(one.operator, http.MethodGet, "/me", nil).want(200)

	v := snap.Version
	for range 20 {
		_, err := two.CreateAPIKey(t.Context(), APIKeyInput{Account: one.buyers[0].id})
		if errors.Is(err, ErrKeyLimit) {
			break
		}
		one.ok(err)
		for _, s := range []*Source{two.Source(), one.Source()} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			next, err := s.Next(ctx, v)
			cancel()
			if err == nil {
				if next.Version <= v {
					t.Fatalf("a gateway at version %d was given %d", v, next.Version)
				}
				v = next.Version
			}
		}
	}
}

func TestASecondStartKeepsEverything(t *testing.T) {
	t.Parallel()
	dir := sqldb.Options{Dir: t.TempDir()}
	one := newHarness(t, dir, Config{})
	g := one.apiProduct(0, "/kept")
	one.buy(0, g.spec)
	before := one.snapshot(0)
	one.db.Close()

	two := &harness{t: t, clock: one.clock, logs: &logs{}, lots: one.lots}
	two.open(dir, Config{})
	two.call(one.operator, http.MethodGet, "/me", nil).want(200)
	if d := cmp.Diff(before, two.snapshot(0)); d != "" {
		t.Error(d)
	}
}

// TestSeveralStartAtOnce: admin processes that start together on one new
// database agree on its tables, its pepper and its first operator.
func TestSeveralStartAtOnce(t *testing.T) {
	t.Parallel()
	url := postgres.URL(t)
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	peppers, operators := map[string]bool{}, 0
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			db, err := sqldb.Open(t.Context(), sqldb.Options{URL: url, MaxConns: 4})
			if err != nil {
				t.Error(err)
				return
			}
			defer db.Close()
			b, err := billing.New(t.Context(), billing.Options{DB: db, Lots: &lotStore{}})
			if err != nil {
				t.Error(err)
				return
			}
			s, err := New(t.Context(), Config{}, Deps{DB: db, Box: box, Billing: b})
			if err != nil {
				t.Error(err)
				return
			}
			_, made, err := s.BootstrapOperator(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			peppers[string(s.pepper)] = true
			if made {
				operators++
			}
		})
	}
	wg.Wait()
	if len(peppers) != 1 || operators != 1 {
		t.Errorf("%d peppers and %d first operators, want one of each", len(peppers), operators)
	}
}

func TestAnotherMasterKeyIsRefused(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	box, err := seal.New(bytes.Repeat([]byte{8}, seal.KeySize))
	h.ok(err)
	_, err = New(t.Context(), Config{}, Deps{DB: h.db, Box: box, Billing: h.billing})
	if !errors.Is(err, seal.ErrOpen) || !strings.Contains(err.Error(), "TOLLGATE_MASTER_KEY") || !strings.Contains(err.Error(), h.db.Where()) {
		t.Errorf("New = %v", err)
	}
	for name, deps := range map[string]Deps{"no database": {Box: box, Billing: h.billing}, "no box": {DB: h.db, Billing: h.billing}, "no billing": {DB: h.db, Box: box}} {
		if _, err := New(t.Context(), Config{}, deps); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	v := h.snapshot(0).Version
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := h.Source().Next(ctx, v)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Next = %v", err)
	}
}
