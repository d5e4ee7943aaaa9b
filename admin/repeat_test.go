package admin

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// TestRepeatedCreations is ORDER-15 for every creation: the same key and input
// gives the same answer and makes nothing more; another input is refused; the
// key is the account's own.
func TestRepeatedCreations(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/repeat")
		h.buy(0, g.spec)
		h.buy(1, g.spec)
		app, err := h.MarketApplication(t.Context(), h.buyers[0].id)
		h.ok(err)
		buyer, seller := h.buyers[0].token, h.sellers[0].token
		quota := []any{map[string]any{"unit": "call", "amount": 9}}
		for _, c := range []struct {
			token, path string
			input       map[string]any
			other       map[string]any
			id          string // member that tells what was made
			secret      string // member that is shown once, and again to a repetition
		}{
			{h.operator, "/accounts", map[string]any{"kind": "buyer", "name": "new"}, map[string]any{"kind": "seller", "name": "new"}, "id", ""},
			{h.operator, "/tokens", map[string]any{"role": "operator"}, map[string]any{"role": "operator", "description": "d"}, "id", "token"},
			{seller, "/products", map[string]any{"kind": "api", "name": "n", "path": "/again"}, map[string]any{"kind": "api", "name": "n", "path": "/other"}, "id", ""},
			{seller, "/products/" + g.product.ID + "/specs", map[string]any{"name": "s", "mode": "per_call", "price": "1", "quotas": quota}, map[string]any{"name": "s", "mode": "per_call", "price": "2", "quotas": quota}, "id", ""},
			{h.operator, "/accounts/" + h.buyers[0].id + "/top-ups", map[string]any{"amount": "5"}, map[string]any{"amount": "6"}, "transaction_id", ""},
			{buyer, "/orders", map[string]any{"spec_id": g.spec}, map[string]any{"spec_id": g.spec, "quantity": 2}, "id", ""},
			{buyer, "/applications", map[string]any{"name": "a"}, map[string]any{"name": "b"}, "id", ""},
			{buyer, "/applications/" + app.ID + "/app-codes", map[string]any{}, map[string]any{"app_code": "0123456789012345678901234567890123456789012345678901234567890123"}, "id", "app_code"},
			{buyer, "/api-keys", map[string]any{}, map[string]any{"description": "d"}, "id", "api_key"},
		} {
			key := "key of " + c.path
			var mu sync.Mutex
			made := map[string]bool{}
			var wg sync.WaitGroup
			for range 4 { // at once
				wg.Go(func() {
					a := h.call(c.token, http.MethodPost, c.path, c.input, "Idempotency-Key", key)
					if a.status != 201 {
						t.Errorf("%s: %d %s", c.path, a.status, a.raw)
						return
					}
					id := a.text(c.id)
					if c.secret != "" {
						id += a.text(c.secret)
					}
					mu.Lock()
					made[id] = true
					mu.Unlock()
				})
			}
			wg.Wait()
			if len(made) != 1 {
				t.Errorf("%s: four requests with one key made %v", c.path, made)
			}
			h.call(c.token, http.MethodPost, c.path, c.other, "Idempotency-Key", key).want(422, "IDEMPOTENCY_KEY_REUSED")
		}

		// Another account's key of the same text is another key.
		mine := h.call(buyer, http.MethodPost, "/api-keys", map[string]any{}, "Idempotency-Key", "shared").want(201).text("id")
		theirs := h.call(h.buyers[1].token, http.MethodPost, "/api-keys", map[string]any{}, "Idempotency-Key", "shared").want(201).text("id")
		if mine == theirs {
			t.Error("two accounts share an answer")
		}
		// A refused request leaves its key free; a day later a key is forgotten.
		h.call(seller, http.MethodPost, "/products", map[string]any{"kind": "api", "name": "n", "path": "/repeat"}, "Idempotency-Key", "free").want(409)
		h.call(seller, http.MethodPost, "/products", map[string]any{"kind": "api", "name": "n", "path": "/freed"}, "Idempotency-Key", "free").want(201)
		h.clock.Advance(24*time.Hour + time.Second)
		if again := h.call(buyer, http.MethodPost, "/api-keys", map[string]any{}, "Idempotency-Key", "shared").want(201).text("id"); again == mine {
			t.Error("a key is kept for more than a day")
		}
	})
}

func TestListsComeInParts(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/parts")
		for range 3 {
			h.buy(0, g.spec)
		}
		for range 5 {
			h.call(h.buyers[0].token, http.MethodPost, "/api-keys", map[string]any{}).want(201)
			h.call(h.buyers[0].token, http.MethodPost, "/applications", map[string]any{"name": ids.New(h.now())}).want(201)
		}
		for path, want := range map[string]int{"/api-keys": 5, "/applications": 6, "/orders": 3, "/accounts": 4, "/tokens": 5, "/subscriptions": 1} {
			token := h.operator
			seen, cursor, last := map[string]bool{}, "", "~"
			for range 10 {
				var part struct {
					Items []struct{ ID string }
					Next  string
				}
				h.call(token, http.MethodGet, path+"?limit=2&cursor="+cursor, nil).want(200).into(&part)
				for _, item := range part.Items {
					if seen[item.ID] || item.ID >= last {
						t.Errorf("%s: %s after %s", path, item.ID, last)
					}
					seen[item.ID], last = true, item.ID
				}
				if cursor = part.Next; cursor == "" {
					break
				}
				if len(part.Items) != 2 {
					t.Errorf("%s: a part of %d that is not the last", path, len(part.Items))
				}
			}
			if len(seen) != want || cursor != "" {
				t.Errorf("%s: %d items, want %d", path, len(seen), want)
			}
		}
	})
}

func TestBuying(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		buyer, seller := h.buyers[0], h.sellers[0]
		g := h.apiProduct(0, "/buying")
		a := h.call(buyer.token, http.MethodPost, "/orders", map[string]any{"spec_id": g.spec, "quantity": 3}).want(402, "INSUFFICIENT_BALANCE")
		if detail := a.problem().Detail; detail != "insufficient balance: 3.00 needed, 0.00 available: top up at least 3.00" {
			t.Errorf("detail %q", detail)
		}
		for _, bad := range []string{"0", "-1", "1e3", "", "0.0000001", "99999999999999999999"} {
			h.call(h.operator, http.MethodPost, "/accounts/"+buyer.id+"/top-ups", map[string]any{"amount": bad}).want(422, "INVALID")
		}
		h.call(h.operator, http.MethodPost, "/accounts/"+seller.id+"/top-ups", map[string]any{"amount": "1"}).want(422, "INVALID")
		h.call(h.operator, http.MethodPost, "/accounts/nobody/top-ups", map[string]any{"amount": "1"}).want(404, "NOT_FOUND")
		h.call(h.operator, http.MethodPost, "/accounts/"+buyer.id+"/top-ups", map[string]any{"amount": "10.50", "receipt": "bank 7"}).want(201)
		order := h.call(buyer.token, http.MethodPost, "/orders", map[string]any{"spec_id": g.spec, "quantity": 3}).want(201)
		if order.text("amount") != "3.00" || order.text("state") != "completed" {
			t.Errorf("order %s", order.raw)
		}
		if b := h.call(buyer.token, http.MethodGet, "/accounts/"+buyer.id+"/balance", nil).want(200); b.text("available") != "7.50" {
			t.Errorf("balance %s", b.raw)
		}
		var statement list[wireEntry]
		h.call(buyer.token, http.MethodGet, "/accounts/"+buyer.id+"/statement", nil).want(200).into(&statement)
		if len(statement.Items) != 2 || statement.Items[0].Amount != "-3.00" || statement.Items[1].Reference != "bank 7" {
			t.Errorf("statement %+v", statement.Items)
		}
		h.call(h.operator, http.MethodGet, "/accounts/"+seller.id+"/balance", nil).want(404, "NOT_FOUND")

		h.call(buyer.token, http.MethodPost, "/orders", map[string]any{"spec_id": "nothing"}).want(404, "NOT_FOUND")
		h.call(seller.token, http.MethodPost, "/specs/"+g.spec+"/withdraw", nil).want(200)
		h.call(buyer.token, http.MethodPost, "/orders", map[string]any{"spec_id": g.spec}).want(409, "SPEC_OFFLINE")
		h.call(seller.token, http.MethodPost, "/specs/"+g.spec+"/offer", nil).want(200)
		h.call(seller.token, http.MethodPost, "/products/"+g.product.ID+"/unpublish", nil).want(200)
		h.call(buyer.token, http.MethodPost, "/orders", map[string]any{"spec_id": g.spec}).want(409, "SPEC_OFFLINE")
		// Who bought it still sees it (API-9).
		h.call(buyer.token, http.MethodGet, "/products/"+g.product.ID, nil).want(200)
		h.call(h.buyers[1].token, http.MethodGet, "/products/"+g.product.ID, nil).want(404)

		// Packages that make no sense are explained.
		for name, spec := range map[string]map[string]any{
			"tokens of an API product": {"name": "s", "mode": "used_up_stop", "price": "1", "quotas": []any{map[string]any{"unit": "token", "amount": 1}}},
			"price":                    {"name": "s", "mode": "per_call", "price": "one", "quotas": []any{map[string]any{"unit": "call", "amount": 1}}},
			"two validities":           {"name": "s", "mode": "per_call", "price": "1", "validity_months": 1, "validity_seconds": 1, "quotas": []any{map[string]any{"unit": "call", "amount": 1}}},
			"zone":                     {"name": "s", "mode": "per_call", "price": "1", "zone": "Mars/Base", "quotas": []any{map[string]any{"unit": "call", "amount": 1}}},
			"nothing in it":            {"name": "s", "mode": "per_call", "price": "1", "quotas": []any{map[string]any{"unit": "call", "amount": 0}}},
		} {
			a := h.call(seller.token, http.MethodPost, "/products/"+g.product.ID+"/specs", spec).want(422, "INVALID")
			if len(a.problem().Errors) == 0 {
				t.Errorf("%s: no fault is named: %s", name, a.raw)
			}
		}
	})
}

func TestUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	g := h.llmProduct(0)
	sub := h.buy(0, g.spec)
	buyer := h.buyers[0]
	at := h.now().Add(-3 * time.Hour).Truncate(time.Hour)
	var recs []usage.Record
	for i := range 6 {
		r := usage.Record{
			ID: ids.NewRequest(at), Time: at.Add(time.Duration(i) * 30 * time.Minute), Node: "n", Account: buyer.id, Subscription: sub, Product: g.product.ID,
			API: "chat.completions", Model: "m", Credential: "KEY", Auth: usage.AuthAPIKey, Rule: usage.Meter3, Basis: usage.BasisUpstream, Status: 200,
			Flags: usage.Counted | usage.Streamed, Units: usage.Units{usage.Call: 1, usage.Token: 46, usage.InputToken: 12, usage.OutputToken: 34},
			Charges: []usage.Charge{{Lot: "LOT", Unit: usage.Token, Amount: 46, Bucket: at.UnixMilli()}}, Cached: 5, BytesIn: 100, BytesOut: 200, Total: time.Second,
		}
		r.Finished = r.Time.Add(time.Second)
		if i == 5 {
			r.Status, r.Flags, r.Units, r.Charges, r.Cached = 503, 0, usage.Units{}, nil, 0
		}
		recs = append(recs, r)
	}
	h.ok(h.usage.Insert(t.Context(), recs))
	for group, want := range map[string]map[string]int64{
		"hour":   {at.Format(time.RFC3339): 2, at.Add(time.Hour).Format(time.RFC3339): 2, at.Add(2 * time.Hour).Format(time.RFC3339): 2},
		"day":    {at.Truncate(24 * time.Hour).Format(time.RFC3339): 6},
		"key":    {"KEY": 6},
		"api":    {"chat.completions": 6},
		"model":  {"m": 6},
		"status": {"200": 5, "503": 1},
	} {
		var got wireUsage
		h.call(buyer.token, http.MethodGet, "/subscriptions/"+sub+"/usage?group_by="+group, nil).want(200).into(&got)
		if len(got.Rows) != len(want) || got.Total.Requests != 6 || got.Total.Counted != 5 || got.Total.Charged["token"] != 5*46 || got.Total.Errors != 1 || got.Total.CachedTokens != 25 {
			t.Errorf("by %s: %+v", group, got)
		}
		for _, r := range got.Rows {
			if want[r.Group] != r.Requests {
				t.Errorf("by %s: group %q has %d calls, want %d", group, r.Group, r.Requests, want[r.Group])
			}
		}
	}
	path := "/subscriptions/" + sub + "/usage"
	var got wireUsage
	h.call(buyer.token, http.MethodGet, path+"?from="+at.Format(time.RFC3339)+"&to="+at.Add(time.Hour).Format(time.RFC3339), nil).want(200).into(&got)
	if got.Total.Requests != 2 || got.GroupBy != "hour" {
		t.Errorf("an hour has %+v", got)
	}
	h.call(buyer.token, http.MethodGet, path+"?from=2026-11-01T00:00:00Z&to=2026-11-01T00:00:00Z", nil).want(422, "INVALID")
	h.call(buyer.token, http.MethodGet, path+"?from=2016-11-01T00:00:00Z", nil).want(422, "INVALID")
	h.call(buyer.token, http.MethodGet, path+"?from=yesterday", nil).want(422, "INVALID")
	h.call(buyer.token, http.MethodGet, path+"?group_by=second", nil).want(422, "INVALID")
	h.call(buyer.token, http.MethodGet, path+"?zone=Mars/Base", nil).want(422, "INVALID")
	h.call(buyer.token, http.MethodGet, path+"?zone=Asia/Shanghai&group_by=day", nil).want(200)

	// The record of one call (METER-13).
	var rec wireRecord
	h.call(buyer.token, http.MethodGet, "/usage/requests/"+recs[0].ID.String(), nil).want(200).into(&rec)
	if rec.RequestID != recs[0].ID.String() || rec.Rule != "METER-3" || rec.Basis != "upstream" || rec.Auth != "apikey" || !rec.Counted || !rec.Streamed ||
		rec.Units["token"] != 46 || len(rec.Charges) != 1 || rec.Charges[0].Amount != 46 || !rec.Charges[0].Period.Equal(at) || rec.TotalUs != 1e6 {
		t.Errorf("record %+v", rec)
	}
	h.call(buyer.token, http.MethodGet, "/usage/requests/"+ids.NewRequest(at).String(), nil).want(404, "NOT_FOUND")
	h.call(h.operator, http.MethodGet, "/reconciliation", nil).want(200)
	h.call(h.operator, http.MethodGet, "/quota/store", nil).want(200)
}
