package admin

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
)

// TestPurchaseMakesTheMarketplaceApp is API-3, AUTH-7, AUTH-8 and AUTH-10.
func TestPurchaseMakesTheMarketplaceApp(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		ctx := t.Context()
		buyer := h.buyers[0]
		llm := h.llmProduct(0)
		h.buy(0, llm.spec)
		if _, err := h.MarketApplication(ctx, buyer.id); !errors.Is(err, ErrNotFound) {
			t.Fatalf("an LLM product made an application: %v (AUTH-14)", err)
		}
		first := h.apiProduct(0, "/first")
		h.buy(0, first.spec)
		a, err := h.MarketApplication(ctx, buyer.id)
		h.ok(err)
		if a.Name != "MARKETPLACE_APP" || !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(a.Key.Key) {
			t.Errorf("application %q with key %q", a.Name, a.Key.Key)
		}
		if want := []Binding{{Product: first.product.ID, Default: true}}; !slices.Equal(a.Bindings, want) {
			t.Errorf("bindings %v, want %v", a.Bindings, want)
		}
		if codes, err := h.AppCodes(ctx, a.ID); err != nil || len(codes) != 0 {
			t.Errorf("AppCodes %v, %v: want none (AUTH-8)", codes, err)
		}

		// AUTH-10: later purchases bind to the same application.
		second := h.apiProduct(1, "/second")
		sub := h.buy(0, second.spec)
		b, err := h.MarketApplication(ctx, buyer.id)
		h.ok(err)
		if b.ID != a.ID || len(b.Bindings) != 2 {
			t.Errorf("after a second purchase: %+v", b)
		}
		if list, err := h.Applications(ctx, buyer.id, Page{}); err != nil || len(list) != 1 {
			t.Errorf("applications %v, %v", list, err)
		}

		// AUTH-11: the default binding stays while the subscription is active.
		path := "/applications/" + a.ID
		h.call(buyer.token, http.MethodDelete, path+"/bindings/"+second.product.ID, nil).want(409, "DEFAULT_BINDING")
		h.call(buyer.token, http.MethodPut, path+"/bindings/"+second.product.ID, nil).want(204)
		h.call(buyer.token, http.MethodDelete, path, nil).want(409, "DEFAULT_APPLICATION")
		h.call(h.operator, http.MethodPost, "/subscriptions/"+sub+"/close", map[string]any{"reason": "test"}).want(200)
		if b, err = h.MarketApplication(ctx, buyer.id); err != nil || len(b.Bindings) != 1 {
			t.Errorf("after the subscription was closed: %+v, %v", b, err)
		}
	})
}

// TestSubscriptionTellsHowToCallIt is API-2 and API-10.
func TestSubscriptionTellsHowToCallIt(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{GatewayURL: "https://api.example.com"})
	api, llm := h.apiProduct(0, "/how"), h.llmProduct(0)
	apiSub, llmSub := h.buy(0, api.spec), h.buy(0, llm.spec)
	app, err := h.MarketApplication(t.Context(), h.buyers[0].id)
	h.ok(err)
	show := func(token, sub string) wireAccess {
		var w wireSubscription
		h.call(token, http.MethodGet, "/subscriptions/"+sub, nil).want(200).into(&w)
		return *w.Access
	}
	want := wireAccess{BaseURL: "https://api.example.com/how", AuthKinds: []string{"signature", "appcode"}, Application: app.ID, AppKey: app.Key.Key}
	if d := cmp.Diff(want, show(h.buyers[0].token, apiSub)); d != "" {
		t.Error(d)
	}
	want.Application, want.AppKey = "", "" // not the seller's business
	if d := cmp.Diff(want, show(h.sellers[0].token, apiSub)); d != "" {
		t.Error(d)
	}
	want = wireAccess{BaseURL: "https://api.example.com/v1/infers/" + llm.product.InferID + "/v1", AuthKinds: []string{"apikey"}, Models: []wireModel{{Name: "m"}}}
	if d := cmp.Diff(want, show(h.buyers[0].token, llmSub)); d != "" {
		t.Error(d)
	}
}

// TestMarketplaceAppIsMadeLater: a process that dies between the payment and
// the application leaves that to the next snapshot.
func TestMarketplaceAppIsMadeLater(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/later")
		h.buy(0, g.spec)
		a, err := h.MarketApplication(t.Context(), h.buyers[0].id)
		h.ok(err)
		for _, table := range []string{"admin_app_keys", "admin_applications"} { // as if it never was
			_, err := h.db.Exec(t.Context(), "DELETE FROM "+table)
			h.ok(err)
		}
		snap := h.snapshot(0)
		if len(snap.Applications) != 1 || snap.Applications[0].ID == a.ID || len(snap.AppKeys) != 1 {
			t.Errorf("snapshot has %+v", snap.Applications)
		}
		// Several at once make one.
		for _, table := range []string{"admin_app_keys", "admin_applications"} {
			_, err := h.db.Exec(t.Context(), "DELETE FROM "+table)
			h.ok(err)
		}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if _, err := h.BuildSnapshot(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if snap := h.snapshot(0); len(snap.Applications) != 1 {
			t.Errorf("%d applications", len(snap.Applications))
		}
	})
}

// TestOwnApplicationsAreBoundByHand is AUTH-9 and AUTH-11.
func TestOwnApplicationsAreBoundByHand(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		buyer := h.buyers[0]
		g, other, llm := h.apiProduct(0, "/bound"), h.apiProduct(0, "/other"), h.llmProduct(0)
		h.buy(0, g.spec)
		h.buy(0, llm.spec)
		id := h.call(buyer.token, http.MethodPost, "/applications", map[string]any{"name": "mine"}).want(201).text("id")
		path := "/applications/" + id
		bound := func() []string {
			for _, a := range h.snapshot(0).Applications {
				if a.ID == id {
					return a.Bound
				}
			}
			return []string{"no application"}
		}
		if got := bound(); len(got) != 0 {
			t.Errorf("a new application is bound to %v", got)
		}
		h.call(buyer.token, http.MethodPut, path+"/bindings/"+other.product.ID, nil).want(409, "NOT_SUBSCRIBED")
		h.call(buyer.token, http.MethodPut, path+"/bindings/"+llm.product.ID, nil).want(409, "NOT_BINDABLE")
		h.call(buyer.token, http.MethodPut, path+"/bindings/nothing", nil).want(404, "NOT_FOUND")
		h.call(buyer.token, http.MethodPut, path+"/bindings/"+g.product.ID, nil).want(204)
		h.call(buyer.token, http.MethodPut, path+"/bindings/"+g.product.ID, nil).want(204)
		if got := bound(); !slices.Equal(got, []string{g.product.ID}) {
			t.Errorf("bound to %v", got)
		}
		h.call(buyer.token, http.MethodDelete, path+"/bindings/"+g.product.ID, nil).want(204)
		h.call(buyer.token, http.MethodDelete, path+"/bindings/"+g.product.ID, nil).want(404, "NOT_FOUND")
		if got := bound(); len(got) != 0 {
			t.Errorf("still bound to %v", got)
		}

		// AUTH-11: with the application its credentials go.
		h.call(buyer.token, http.MethodPut, path+"/bindings/"+g.product.ID, nil).want(204)
		h.call(buyer.token, http.MethodPost, path+"/app-codes", map[string]any{}).want(201)
		h.call(buyer.token, http.MethodDelete, path, nil).want(204)
		snap := h.snapshot(0)
		if len(snap.Applications) != 1 || len(snap.AppKeys) != 1 || len(snap.AppCodes) != 0 {
			t.Errorf("left: %v %v %v", snap.Applications, snap.AppKeys, snap.AppCodes)
		}

		h.call(buyer.token, http.MethodPost, "/applications", map[string]any{"name": "MARKETPLACE_APP"}).want(422, "INVALID")
		h.call(buyer.token, http.MethodPost, "/applications", map[string]any{"name": "twice"}).want(201)
		h.call(buyer.token, http.MethodPost, "/applications", map[string]any{"name": "twice"}).want(409, "NAME_TAKEN")
		h.call(h.buyers[1].token, http.MethodPost, "/applications", map[string]any{"name": "twice"}).want(201)
	})
}

func TestAppSecret(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		buyer := h.buyers[0]
		a := h.call(buyer.token, http.MethodPost, "/applications", map[string]any{"name": "a"}).want(201)
		path := "/applications/" + a.text("id") + "/secret/"
		if a.text("key.app_secret") != Masked {
			t.Errorf("the answer shows %s", a.raw)
		}
		secret := h.call(buyer.token, http.MethodPost, path+"reveal", nil).want(200).text("app_secret")
		again := h.call(buyer.token, http.MethodPost, path+"reveal", nil).want(200).text("app_secret")
		if secret != again || len(secret) != 64 {
			t.Errorf("revealed %q, then %q", secret, again)
		}
		if n := strings.Count(h.logs.String(), "action=app_secret.reveal"); n != 2 {
			t.Errorf("%d audit lines for 2 reveals", n)
		}
		inSnapshot := func() directory.Secret { return h.snapshot(0).AppKeys[0].Secret }
		if inSnapshot().Reveal() != secret {
			t.Error("the gateways have another secret")
		}
		reset := h.call(buyer.token, http.MethodPost, path+"reset", nil).want(200).text("app_secret")
		if reset == secret || inSnapshot().Reveal() != reset {
			t.Error("the old secret still works")
		}
		var stored string
		h.ok(h.db.QueryRow(t.Context(), "SELECT secret FROM admin_app_keys").Scan(&stored))
		if strings.Contains(stored, reset) {
			t.Error("the database shows the secret")
		}
	})
}

func TestAppCodes(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		buyer := h.buyers[0]
		app := func(i int, name string) string {
			return "/applications/" + h.call(h.buyers[i].token, http.MethodPost, "/applications", map[string]any{"name": name}).want(201).text("id") + "/app-codes"
		}
		path := app(0, "a")
		made := h.call(buyer.token, http.MethodPost, path, map[string]any{}).want(201)
		code := made.text("app_code")
		if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(code) {
			t.Errorf("made %q", code)
		}
		if list := h.call(buyer.token, http.MethodGet, path, nil).want(200); strings.Contains(string(list.raw), code) || !strings.Contains(string(list.raw), code[:4]) {
			t.Errorf("the list shows %s", list.raw)
		}
		snap := h.snapshot(0)
		if !bytes.Equal(snap.AppCodes[0].Hash, directory.Hash(snap.Pepper, code)) {
			t.Error("the gateways have another hash")
		}

		// The rule of given codes: 64 to 180 of a character set.
		own := "+" + strings.Repeat("aZ9+_!@#$%/=-", 5)[:63]
		for name, bad := range map[string]string{
			"63 characters": own[:63], "181 characters": strings.Repeat("a", 181), "a space": own[:63] + " ", "a character outside": own[:63] + "é",
			"begins with -": "-" + own[1:], "begins with _": "_" + own[1:], "a line break": own + "\n",
		} {
			a := h.call(buyer.token, http.MethodPost, path, map[string]any{"app_code": bad}).want(422, "INVALID")
			if strings.Contains(string(a.raw), bad) {
				t.Errorf("%s: the error repeats the code", name)
			}
		}
		for _, good := range []string{own, "/" + strings.Repeat("a", 179)} {
			if got := h.call(buyer.token, http.MethodPost, path, map[string]any{"app_code": good}).want(201).text("app_code"); got != good {
				t.Errorf("made %q of %q", got, good)
			}
		}
		h.call(h.buyers[1].token, http.MethodPost, app(1, "b"), map[string]any{"app_code": own}).want(409, "APP_CODE_TAKEN")
		for range 2 {
			h.call(buyer.token, http.MethodPost, path, map[string]any{}).want(201)
		}
		h.call(buyer.token, http.MethodPost, path, map[string]any{}).want(409, "APP_CODE_LIMIT")
		h.call(buyer.token, http.MethodDelete, path+"/"+made.text("id"), nil).want(204)
		h.call(buyer.token, http.MethodDelete, path+"/"+made.text("id"), nil).want(404, "NOT_FOUND")
		h.call(buyer.token, http.MethodPost, path, map[string]any{}).want(201)
		// A code of another application is not deleted through this one.
		other := h.call(buyer.token, http.MethodPost, app(0, "c"), map[string]any{}).want(201).text("id")
		h.call(buyer.token, http.MethodDelete, path+"/"+other, nil).want(404, "NOT_FOUND")
	})
}

// TestAPIKeys is KEY-2 to KEY-9.
func TestAPIKeys(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		buyer := h.buyers[0]
		llm, api := h.llmProduct(0), h.apiProduct(0, "/keys")
		made := h.call(buyer.token, http.MethodPost, "/api-keys", map[string]any{"description": "for tests", "products": []any{llm.product.ID}}).want(201)
		secret, id := made.text("api_key"), made.text("id")
		if !strings.HasPrefix(secret, "sk-") || len(secret) != 3+43 || made.text("prefix") != secret[:7] || made.text("suffix") != secret[len(secret)-4:] {
			t.Errorf("made %s", made.raw)
		}
		for _, path := range []string{"/api-keys", "/api-keys/" + id} { // KEY-3, KEY-6
			if a := h.call(buyer.token, http.MethodGet, path, nil).want(200); strings.Contains(string(a.raw), secret) || strings.Contains(string(a.raw), `"api_key"`) {
				t.Errorf("GET %s shows %s", path, a.raw)
			}
		}
		snap := h.snapshot(0)
		want := directory.APIKey{ID: id, Account: buyer.id, Hash: directory.Hash(snap.Pepper, secret), Products: []string{llm.product.ID}}
		if got := snap.APIKeys[0]; got.ID != want.ID || !bytes.Equal(got.Hash, want.Hash) || !slices.Equal(got.Products, want.Products) || got.Account != want.Account {
			t.Errorf("snapshot has %+v, want %+v", got, want)
		}
		h.call(buyer.token, http.MethodPost, "/api-keys", map[string]any{"products": []any{api.product.ID}}).want(422, "INVALID")
		h.call(buyer.token, http.MethodPost, "/api-keys", map[string]any{"products": []any{"x"}}).want(422, "INVALID")
		h.call(buyer.token, http.MethodPost, "/api-keys", map[string]any{"description": strings.Repeat("字", 256)}).want(422, "INVALID") // KEY-9
		h.call(buyer.token, http.MethodPost, "/api-keys", map[string]any{"description": strings.Repeat("字", 255)}).want(201)

		// KEY-7: disabled, enabled, deleted.
		has := func() bool {
			return slices.ContainsFunc(h.snapshot(0).APIKeys, func(k directory.APIKey) bool { return k.ID == id })
		}
		h.call(buyer.token, http.MethodPatch, "/api-keys/"+id, map[string]any{"enabled": false}).want(200)
		if has() {
			t.Error("a disabled key is still with the gateways")
		}
		h.call(buyer.token, http.MethodPatch, "/api-keys/"+id, map[string]any{"enabled": true, "products": []any{}}).want(200)
		if !has() {
			t.Error("an enabled key is not with the gateways")
		}
		h.call(buyer.token, http.MethodDelete, "/api-keys/"+id, nil).want(204)
		if has() {
			t.Error("a deleted key is still with the gateways")
		}
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			h.call(buyer.token, method, "/api-keys/"+id, nil).want(404, "NOT_FOUND")
		}
		h.call(buyer.token, http.MethodPatch, "/api-keys/"+id, map[string]any{"enabled": true}).want(404, "NOT_FOUND")
	})
}

// TestTheTwentyFirstKey is KEY-4: however many ask at once, an account holds at
// most 20 keys, and each of the 20 was given out.
func TestTheTwentyFirstKey(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		var mu sync.Mutex
		status := map[string]int{}
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				a := h.call(h.buyers[0].token, http.MethodPost, "/api-keys", map[string]any{})
				key := fmt.Sprint(a.status)
				if a.status >= 400 {
					key += " " + a.problem().Code
				}
				mu.Lock()
				status[key]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if status["201"] != 20 || status["409 KEY_LIMIT"] != 10 {
			t.Fatalf("answers %v, want 20 of 201 and 10 of 409 KEY_LIMIT", status)
		}
		keys, err := h.APIKeys(t.Context(), h.buyers[0].id, Page{})
		h.ok(err)
		if len(keys) != 20 || len(h.snapshot(0).APIKeys) != 20 {
			t.Errorf("%d keys are kept", len(keys))
		}
		// The limit is the account's, and a deleted key does not count.
		h.call(h.buyers[1].token, http.MethodPost, "/api-keys", map[string]any{}).want(201)
		h.call(h.buyers[0].token, http.MethodDelete, "/api-keys/"+keys[0].ID, nil).want(204)
		h.call(h.buyers[0].token, http.MethodPost, "/api-keys", map[string]any{}).want(201)
		h.call(h.buyers[0].token, http.MethodPost, "/api-keys", map[string]any{}).want(409, "KEY_LIMIT")
	})
}

func TestTheFiftyFirstApplication(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		for i := range 50 {
			_, err := h.CreateApplication(t.Context(), h.buyers[0].id, fmt.Sprint("app ", i))
			h.ok(err)
		}
		h.call(h.buyers[0].token, http.MethodPost, "/applications", map[string]any{"name": "one more"}).want(409, "APPLICATION_LIMIT")
		// A purchase is never refused for it.
		h.buy(0, h.apiProduct(0, "/more").spec)
		if _, err := h.MarketApplication(t.Context(), h.buyers[0].id); err != nil {
			t.Error(err)
		}
	})
}
