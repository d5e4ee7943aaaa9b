package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"tollgate/billing"
	"tollgate/billing/notify"
	"tollgate/internal/ids"
	"tollgate/internal/money"
	"tollgate/internal/usage"
)

// TestEachRouteByEachRole calls every operation with every role, on things that
// belong to seller 0 and buyer 0, and on the same as seller 1 and buyer 1. The
// table says who may: everybody else gets 403 for the role, or 404 for things
// of others, as if they did not exist (IAM).
func TestEachRouteByEachRole(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/matrix")
		llm := h.llmProduct(0)
		sub := h.buy(0, g.spec)
		h.buy(0, llm.spec)
		_, err := h.TopUp(t.Context(), billing.TopUpInput{Account: h.buyers[1].id, Amount: money.MustParse("100")})
		h.ok(err)
		market, err := h.MarketApplication(t.Context(), h.buyers[0].id)
		h.ok(err)
		var orders list[wireOrder]
		h.call(h.buyers[0].token, http.MethodGet, "/orders", nil).want(200).into(&orders)
		rec := usage.Record{ID: ids.NewRequest(h.now()), Time: h.now(), Finished: h.now(), Account: h.buyers[0].id, Subscription: sub, Product: g.product.ID, Status: 200, Flags: usage.Counted, Units: usage.Units{usage.Call: 1}}
		h.ok(h.usage.Insert(t.Context(), []usage.Record{rec}))

		buyersOwn := h.buyers[0].id
		// Things that a call uses up are made for each call.
		n := 0
		fresh := func() string { n++; return fmt.Sprint("fresh ", n) }
		newApp := func() string {
			a, err := h.CreateApplication(t.Context(), h.buyers[0].id, fresh())
			h.ok(err)
			return a.ID
		}
		dropApp := func(id string) { _ = h.DeleteApplication(t.Context(), id) }
		newKey := func() string {
			k, err := h.CreateAPIKey(t.Context(), APIKeyInput{Account: h.buyers[0].id})
			h.ok(err)
			return k.ID
		}

		newUser := func() string {
			u, err := h.CreateUser(t.Context(), UserInput{Account: buyersOwn, Name: strings.ReplaceAll(fresh(), " ", "-"), Password: "a long password"})
			h.ok(err)
			return u.ID
		}
		newReceiptKey := func() string {
			k, err := h.CreateReceiptKey(t.Context(), h.buyers[0].id, false)
			h.ok(err)
			return k.ID
		}
		_ = newReceiptKey() // for the receipt
		trim := func(string) {
			keys, err := h.ReceiptKeys(t.Context(), h.buyers[0].id)
			h.ok(err)
			for _, k := range keys {
				if k.Retired != nil {
					h.ok(h.DeleteReceiptKey(t.Context(), k.Account, k.ID))
				}
			}
		}

		type row struct {
			method, path string
			body         func() any
			prepare      func() string // replaces {x} in the path
			after        func(string)
			// who may: operator, seller 0, seller 1, buyer 0, buyer 1: the status
			// each gets, 2xx written as 2.
			want string
		}
		fixed := func(v any) func() any { return func() any { return v } }
		sellersID, buyersID := h.sellers[0].id, h.buyers[0].id
		nobody := func() string { return "nobody" }
		newReceiver := func() string {
			r, err := h.notices.AddReceiver(t.Context(), notify.Receiver{Account: buyersID, Name: "Ops", Mail: "o@example.com", Language: "zh"})
			h.ok(err)
			return r.ID
		}
		rows := []row{
			{method: "GET", path: "/me", want: "2 2 2 2 2"},
			{method: "POST", path: "/accounts", body: func() any { return map[string]any{"kind": "buyer", "name": fresh()} }, want: "2 403 403 403 403"},
			{method: "GET", path: "/accounts", want: "2 403 403 403 403"},
			{method: "GET", path: "/accounts/" + buyersID, want: "2 404 404 2 404"},
			{method: "POST", path: "/tokens", body: fixed(map[string]any{"role": "operator"}), want: "2 403 403 403 403"},
			{method: "GET", path: "/tokens", want: "2 403 403 403 403"},
			{method: "DELETE", path: "/tokens/{x}", prepare: func() string {
				tok, err := h.CreateToken(t.Context(), TokenInput{Role: RoleOperator})
				h.ok(err)
				return tok.ID
			}, want: "2 403 403 403 403"},

			{method: "POST", path: "/users", body: func() any {
				return map[string]any{"account_id": buyersID, "name": strings.ReplaceAll(fresh(), " ", "-"), "password": "a long password"}
			}, want: "2 404 404 2 404"},
			{method: "GET", path: "/users", want: "2 2 2 2 2"},
			{method: "GET", path: "/users?account_id=" + buyersID, want: "2 404 404 2 404"},
			{method: "GET", path: "/users/{x}", prepare: newUser, want: "2 404 404 2 404"},
			{method: "PATCH", path: "/users/{x}", prepare: newUser, body: fixed(map[string]any{"disabled": true}), want: "2 404 404 2 404"},
			{method: "DELETE", path: "/users/{x}", prepare: newUser, want: "2 404 404 2 404"},

			{method: "POST", path: "/products", body: func() any {
				return map[string]any{"kind": "api", "name": "n", "path": "/" + strings.ReplaceAll(fresh(), " ", "-"), "seller_id": sellersID}
			}, want: "2 2 404 403 403"},
			{method: "GET", path: "/products", want: "2 2 2 2 2"},
			{method: "GET", path: "/products/" + g.product.ID, want: "2 2 404 2 2"},
			{method: "PATCH", path: "/products/" + g.product.ID, body: fixed(map[string]any{"description": "d"}), want: "2 2 404 403 403"},
			{method: "POST", path: "/products/" + llm.product.ID + "/unpublish", want: "2 2 404 403 403"},
			{method: "POST", path: "/products/" + llm.product.ID + "/publish", want: "2 2 404 403 403"},
			{method: "POST", path: "/products/" + g.product.ID + "/specs", body: fixed(map[string]any{"name": "p", "mode": "per_call", "quotas": []any{map[string]any{"unit": "call", "amount": 5}}, "price": "1"}), want: "2 2 404 403 403"},
			{method: "GET", path: "/products/" + g.product.ID + "/specs", want: "2 2 404 2 2"},
			{method: "GET", path: "/specs/" + g.spec, want: "2 2 404 2 2"},
			{method: "POST", path: "/specs/" + llm.spec + "/withdraw", want: "2 2 404 403 403"},
			{method: "POST", path: "/specs/" + llm.spec + "/offer", want: "2 2 404 403 403"},

			{method: "GET", path: "/accounts/" + buyersID + "/balance", want: "2 403 403 2 404"},
			{method: "GET", path: "/accounts/" + buyersID + "/statement", want: "2 403 403 2 404"},
			{method: "POST", path: "/accounts/" + buyersID + "/top-ups", body: fixed(map[string]any{"amount": "1"}), want: "2 403 403 403 403"},
			{method: "POST", path: "/orders", body: fixed(map[string]any{"spec_id": g.spec, "account_id": buyersID}), want: "2 403 403 2 404"},
			{method: "GET", path: "/orders", want: "2 2 2 2 2"},
			{method: "GET", path: "/orders/" + orders.Items[0].ID, want: "2 2 404 2 404"},

			{method: "GET", path: "/subscriptions", want: "2 403 403 2 2"},
			{method: "GET", path: "/subscriptions/" + sub, want: "2 2 404 2 404"},
			{method: "POST", path: "/subscriptions/" + sub + "/freeze", body: fixed(map[string]any{"reason": "r"}), want: "2 403 403 403 403"},
			{method: "POST", path: "/subscriptions/" + sub + "/unfreeze", body: fixed(map[string]any{"reason": "r"}), want: "2 403 403 403 403"},
			{method: "GET", path: "/subscriptions/" + sub + "/quota", want: "2 2 404 2 404"},
			{method: "GET", path: "/subscriptions/" + sub + "/crossings", want: "2 2 404 2 404"},
			{method: "GET", path: "/subscriptions/" + sub + "/thresholds", want: "2 2 404 2 404"},
			{method: "PUT", path: "/subscriptions/" + sub + "/thresholds/{x}", prepare: func() string { return "call" }, body: fixed(map[string]any{"levels": []map[string]any{{"kind": "percent", "value": 20}}}), want: "2 403 403 2 404"},
			{method: "GET", path: "/alerts?account_id=" + buyersID, want: "2 403 403 2 404"},
			{method: "PUT", path: "/alerts", body: fixed(map[string]any{"account_id": buyersID, "enabled": true, "threshold": map[string]any{"kind": "percent", "value": 30}}), want: "2 403 403 2 404"},
			{method: "POST", path: "/agencies", body: fixed(map[string]any{"policy": billing.RepurchasePolicy}), want: "403 403 403 2 2"},
			{method: "POST", path: "/subscriptions/" + sub + "/repurchase", body: fixed(map[string]any{"threshold": map[string]any{"kind": "percent", "value": 20}, "agreement": billing.RepurchaseAgreement}), want: "2 403 403 2 404"},
			{method: "POST", path: "/subscriptions/" + sub + "/repurchase?dry_run=true", body: fixed(map[string]any{"threshold": map[string]any{"kind": "percent", "value": 20}, "agreement": billing.RepurchaseAgreement}), want: "2 403 403 2 404"},
			{method: "GET", path: "/subscriptions/" + sub + "/repurchase", want: "2 403 403 2 404"},
			{method: "GET", path: "/subscriptions/" + sub + "/repurchase/tries", want: "2 403 403 2 404"},
			{method: "DELETE", path: "/subscriptions/" + sub + "/repurchase", want: "2 403 403 2 404"},
			{method: "GET", path: "/agency-policies", want: "2 2 2 2 2"},
			{method: "GET", path: "/agencies?account_id=" + buyersID, want: "2 403 403 2 404"},
			{method: "DELETE", path: "/agencies/{x}", prepare: func() string {
				a, err := h.billing.GrantAgency(t.Context(), buyersID, billing.RepurchasePolicy, "test")
				h.ok(err)
				return a.ID
			}, want: "403 403 403 2 404"},
			{method: "PUT", path: "/accounts/" + buyersID + "/contact", body: fixed(map[string]any{"mail": "b@example.com"}), want: "2 403 403 403 403"},
			{method: "GET", path: "/messages?account_id=" + buyersID, want: "2 404 404 2 404"},
			{method: "GET", path: "/messages/unread?account_id=" + buyersID, want: "2 404 404 2 404"},
			{method: "POST", path: "/messages/read", body: fixed(map[string]any{}), want: "403 2 2 2 2"},
			{method: "GET", path: "/deliveries", want: "2 2 2 2 2"},
			{method: "GET", path: "/deliveries?account_id=" + buyersID, want: "2 404 404 2 404"},
			{method: "POST", path: "/deliveries/{x}/resend", prepare: nobody, want: "404 403 403 403 403"},
			{method: "GET", path: "/receivers?account_id=" + buyersID, want: "2 404 404 2 404"},
			{method: "POST", path: "/receivers", body: fixed(map[string]any{"name": "Accounting", "mail": "a@example.com"}), want: "403 2 2 2 2"},
			{method: "DELETE", path: "/receivers/{x}", prepare: newReceiver, want: "403 404 404 2 404"},
			{method: "POST", path: "/receivers/{x}/verification", prepare: newReceiver, body: fixed(map[string]any{"channel": "mail"}), want: "403 422 422 422 422"}, // no sender here
			{method: "POST", path: "/receivers/{x}/verify", prepare: newReceiver, body: fixed(map[string]any{"code": "123456"}), want: "403 404 404 422 404"},
			{method: "GET", path: "/receivers/{x}/settings", prepare: newReceiver, want: "403 404 404 2 404"},
			{method: "PUT", path: "/receivers/" + newReceiver() + "/settings/{x}", prepare: func() string { return "sales" }, body: fixed(map[string]any{"channels": []string{"mail"}, "frequency": "daily"}), want: "403 404 404 2 404"},
			{method: "GET", path: "/endpoints", want: "403 2 2 2 2"},
			{method: "POST", path: "/endpoints", body: fixed(map[string]any{"url": "https://example.com/hook"}), want: "403 422 422 422 422"}, // no key here
			{method: "POST", path: "/endpoints/{x}/rotate", prepare: nobody, want: "403 404 404 404 404"},
			{method: "POST", path: "/endpoints/{x}/enable", prepare: nobody, want: "403 404 404 404 404"},
			{method: "DELETE", path: "/endpoints/{x}", prepare: nobody, want: "403 404 404 404 404"},
			{method: "GET", path: "/jobs", want: "2 403 403 403 403"},
			{method: "POST", path: "/jobs/{x}/pause", prepare: nobody, want: "404 403 403 403 403"},
			{method: "POST", path: "/jobs/{x}/resume", prepare: nobody, want: "404 403 403 403 403"},
			{method: "POST", path: "/jobs/{x}/retry", prepare: nobody, want: "404 403 403 403 403"},
			{method: "GET", path: "/subscriptions/" + sub + "/usage", want: "2 2 404 2 404"},
			{method: "GET", path: "/usage/requests/" + rec.ID.String(), want: "2 2 404 2 404"},
			{method: "GET", path: "/subscriptions/" + sub + "/rating", want: "2 2 404 2 404"},
			{method: "GET", path: "/subscriptions/" + sub + "/rating/requests?hour=2026-11-01T07:00:00Z", want: "2 2 404 2 404"},
			{method: "GET", path: "/products/" + g.product.ID + "/policy", want: "2 2 404 2 2"},
			{method: "PUT", path: "/products/" + g.product.ID + "/policy", body: fixed(map[string]any{}), want: "2 2 404 403 403"},
			{method: "GET", path: "/subscriptions/" + sub + "/policy", want: "2 2 404 2 404"},
			{method: "PUT", path: "/subscriptions/" + sub + "/policy", body: fixed(map[string]any{}), want: "2 2 404 403 403"},
			{method: "GET", path: "/applications/" + market.ID + "/policy", want: "2 403 403 2 404"},
			{method: "PUT", path: "/applications/" + market.ID + "/policy", body: fixed(map[string]any{}), want: "2 403 403 2 404"},
			{method: "GET", path: "/api-keys/{x}/policy", prepare: newKey, after: func(id string) { h.ok(h.DeleteAPIKey(t.Context(), id)) }, want: "2 403 403 2 404"},
			{method: "PUT", path: "/api-keys/{x}/policy", body: fixed(map[string]any{}), prepare: newKey, after: func(id string) { h.ok(h.DeleteAPIKey(t.Context(), id)) }, want: "2 403 403 2 404"},
			{method: "GET", path: "/upstreams", want: "2 2 2 403 403"},
			{method: "GET", path: "/usage", want: "2 2 2 2 2"},
			{method: "GET", path: "/usage?account_id=" + buyersID, want: "2 2 2 2 404"},
			{method: "GET", path: "/usage?product_id=" + g.product.ID, want: "2 2 404 2 2"},
			{method: "GET", path: "/usage/requests", want: "2 2 2 2 2"},
			{method: "GET", path: "/usage/requests?product_id=" + g.product.ID, want: "2 2 404 2 2"},
			{method: "GET", path: "/usage/export", want: "2 2 2 2 2"},
			{method: "GET", path: "/usage/export?format=parquet&account_id=" + buyersID, want: "2 2 2 2 404"},
			{method: "GET", path: "/usage/receipts/" + rec.ID.String(), want: "2 403 403 2 404"},
			{method: "GET", path: "/accounts/" + buyersID + "/receipt-keys", want: "2 403 403 2 404"},
			{method: "POST", path: "/accounts/" + buyersID + "/receipt-keys", body: fixed(map[string]any{"header": false}), after: trim, want: "403 403 403 2 404"},
			{method: "POST", path: "/accounts/" + buyersID + "/receipt-keys/{x}/reveal", prepare: newReceiptKey, after: trim, want: "403 403 403 2 404"},
			{method: "PATCH", path: "/accounts/" + buyersID + "/receipt-keys/{x}", prepare: newReceiptKey, after: trim, body: fixed(map[string]any{"header": false}), want: "2 403 403 2 404"},
			{method: "DELETE", path: "/accounts/" + buyersID + "/receipt-keys/{x}", prepare: newReceiptKey, after: trim, want: "2 403 403 2 404"},
			{method: "GET", path: "/products/" + g.product.ID + "/policy", want: "2 2 404 2 2"},
			{method: "PUT", path: "/products/" + g.product.ID + "/policy", body: fixed(map[string]any{}), want: "2 2 404 403 403"},
			{method: "GET", path: "/subscriptions/" + sub + "/policy", want: "2 2 404 2 404"},
			{method: "PUT", path: "/subscriptions/" + sub + "/policy", body: fixed(map[string]any{}), want: "2 2 404 403 403"},
			{method: "GET", path: "/applications/" + market.ID + "/policy", want: "2 403 403 2 404"},
			{method: "PUT", path: "/applications/" + market.ID + "/policy", body: fixed(map[string]any{}), want: "2 403 403 2 404"},
			{method: "GET", path: "/api-keys/{x}/policy", prepare: newKey, after: func(id string) { h.ok(h.DeleteAPIKey(t.Context(), id)) }, want: "2 403 403 2 404"},
			{method: "PUT", path: "/api-keys/{x}/policy", body: fixed(map[string]any{}), prepare: newKey, after: func(id string) { h.ok(h.DeleteAPIKey(t.Context(), id)) }, want: "2 403 403 2 404"},
			{method: "GET", path: "/reconciliation", want: "2 403 403 403 403"},
			{method: "GET", path: "/reconciliation/" + sub, want: "2 403 403 403 403"},
			{method: "GET", path: "/quota/store", want: "2 403 403 403 403"},
			{method: "POST", path: "/quota/rebuild", body: fixed(map[string]any{"dry_run": false}), want: "2 403 403 403 403"},

			{method: "POST", path: "/applications", body: func() any { return map[string]any{"name": fresh(), "account_id": buyersID} }, want: "2 403 403 2 404"},
			{method: "GET", path: "/applications", want: "2 403 403 2 2"},
			{method: "GET", path: "/applications/" + market.ID, want: "2 403 403 2 404"},
			{method: "DELETE", path: "/applications/{x}", prepare: newApp, after: dropApp, want: "2 403 403 2 404"},
			{method: "POST", path: "/applications/" + market.ID + "/secret/reveal", want: "403 403 403 2 404"},
			{method: "POST", path: "/applications/" + market.ID + "/secret/reset", want: "403 403 403 2 404"},
			{method: "PUT", path: "/applications/{x}/bindings/" + g.product.ID, prepare: newApp, after: dropApp, want: "2 403 403 2 404"},
			{method: "DELETE", path: "/applications/{x}/bindings/" + g.product.ID, prepare: func() string {
				id := newApp()
				h.ok(h.Bind(t.Context(), id, g.product.ID))
				return id
			}, after: dropApp, want: "2 403 403 2 404"},
			{method: "POST", path: "/applications/{x}/app-codes", body: fixed(map[string]any{}), prepare: newApp, after: dropApp, want: "2 403 403 2 404"},
			{method: "GET", path: "/applications/" + market.ID + "/app-codes", want: "2 403 403 2 404"},
			{method: "DELETE", path: "/applications/" + market.ID + "/app-codes/{x}", prepare: func() string {
				c, err := h.CreateAppCode(t.Context(), market.ID, "")
				h.ok(err)
				return c.ID
			}, after: func(id string) { _ = h.DeleteAppCode(t.Context(), market.ID, id) }, want: "2 403 403 2 404"},

			{method: "POST", path: "/api-keys", body: fixed(map[string]any{"account_id": buyersID}), want: "2 403 403 2 404"},
			{method: "GET", path: "/api-keys", want: "2 403 403 2 2"},
			{method: "GET", path: "/api-keys/{x}", prepare: newKey, after: func(id string) { h.ok(h.DeleteAPIKey(t.Context(), id)) }, want: "2 403 403 2 404"},
			{method: "PATCH", path: "/api-keys/{x}", body: fixed(map[string]any{"enabled": false}), prepare: newKey, after: func(id string) { h.ok(h.DeleteAPIKey(t.Context(), id)) }, want: "2 403 403 2 404"},
			{method: "DELETE", path: "/api-keys/{x}", prepare: newKey, after: func(id string) { _ = h.DeleteAPIKey(t.Context(), id) }, want: "2 403 403 2 404"},
			{method: "POST", path: "/subscriptions/" + sub + "/close", body: fixed(map[string]any{"reason": "r"}), want: "2 403 403 403 403"},
		}

		actors := []string{h.operator, h.sellers[0].token, h.sellers[1].token, h.buyers[0].token, h.buyers[1].token}
		names := []string{"operator", "seller 0", "seller 1", "buyer 0", "buyer 1"}
		// Most privileged last: a call that changes something must not take it
		// from those that are still to be refused.
		order := []int{4, 2, 3, 1, 0}
		seen := map[string]bool{}
		for _, r := range rows {
			wants := strings.Fields(r.want)
			for _, i := range order {
				path, made := r.path, ""
				if r.prepare != nil {
					made = r.prepare()
					path = strings.Replace(path, "{x}", made, 1)
				}
				var body any
				if r.body != nil {
					body = r.body()
				}
				var extra []string
				if r.method == "PATCH" && strings.HasPrefix(path, "/products") {
					extra = []string{"If-Match", "*"}
				}
				a := h.call(actors[i], r.method, path, body, extra...)
				got := fmt.Sprint(a.status)
				if a.status/100 == 2 {
					got = "2"
				}
				if got != wants[i] {
					t.Errorf("%s %s as %s = %d %s, want %s", r.method, r.path, names[i], a.status, a.raw, wants[i])
				}
				if r.after != nil {
					r.after(made)
				}
			}
			// Nobody without a token, or with one that is none.
			path := strings.Replace(r.path, "{x}", "x", 1)
			for _, token := range []string{"", "tgo_wrong", h.buyers[0].token + "x"} {
				a := h.call(token, r.method, path, nil).want(401, "UNAUTHENTICATED")
				if a.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s %s: 401 without WWW-Authenticate", r.method, r.path)
				}
			}
			path, _, _ = strings.Cut(r.path, "?")
			seen[r.method+" "+normalPath(path)] = true
		}
		for _, r := range h.routes {
			if !seen[r.method+" "+normalPath(r.path)] {
				t.Errorf("%s %s has no row in this table", r.method, r.path)
			}
		}
	})
}

// normalPath writes every id in a path as {}, without the query.
func normalPath(path string) string {
	path, _, _ = strings.Cut(path, "?")
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, "{") || ids.Valid(p) || len(p) == 32 {
			parts[i] = "{}"
		}
	}
	return strings.Join(parts, "/")
}

func TestTokensEnd(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		expires := h.now().Add(time.Hour)
		tok, err := h.CreateToken(t.Context(), TokenInput{Role: RoleOperator, Expires: &expires})
		h.ok(err)
		if !strings.HasPrefix(tok.Secret, "tgo_") || len(tok.Secret) != 4+43 {
			t.Errorf("token %q has another form", tok.Secret)
		}
		h.call(tok.Secret, "GET", "/me", nil).want(200)
		h.clock.Advance(time.Hour)
		h.call(tok.Secret, "GET", "/me", nil).want(401, "UNAUTHENTICATED")

		tok, err = h.CreateToken(t.Context(), TokenInput{Role: RoleBuyer, Account: h.buyers[0].id})
		h.ok(err)
		h.call(tok.Secret, "GET", "/me", nil).want(200)
		h.call(h.operator, "DELETE", "/tokens/"+tok.ID, nil).want(204)
		h.call(tok.Secret, "GET", "/me", nil).want(401, "UNAUTHENTICATED")
		h.call(h.operator, "DELETE", "/tokens/"+tok.ID, nil).want(204)

		h.call(h.operator, "POST", "/tokens", map[string]any{"role": "seller", "account_id": h.buyers[0].id}).want(422, "INVALID")
		h.call(h.operator, "POST", "/tokens", map[string]any{"role": "operator", "account_id": h.buyers[0].id}).want(422, "INVALID")
		h.call(h.operator, "POST", "/tokens", map[string]any{"role": "operator", "expires": "2020-01-01T00:00:00Z"}).want(422, "INVALID")

		if _, made, err := h.BootstrapOperator(t.Context()); made || err != nil {
			t.Errorf("a second start made an operator: %v, %v", made, err)
		}
	})
}
