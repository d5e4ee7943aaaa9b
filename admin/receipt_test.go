package admin

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/receipt"
	"tollgate/internal/usage"
)

// TestReceipts goes through the life of receipt keys: shown once and by an
// audited reveal, sealed at rest, in the directory only while the header is
// wanted, and replaced without losing what earlier ones signed.
func TestReceipts(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/receipts")
		sub, buyer := h.buy(0, g.spec), h.buyers[0]
		rec := usage.Record{
			ID: ids.NewRequest(h.now()), Time: h.now(), Finished: h.now().Add(time.Second), Account: buyer.id, Subscription: sub, Product: g.product.ID,
			Status: 200, Rule: usage.Meter2, Basis: usage.BasisUpstream, Flags: usage.Counted, Units: usage.Units{usage.Call: 1},
			Charges: []usage.Charge{{Lot: "01LOT", Unit: usage.Call, Amount: 1}},
		}
		running := rec
		running.ID, running.Flags = ids.NewRequest(h.now()), rec.Flags|usage.Provisional
		h.ok(h.usage.Insert(t.Context(), []usage.Record{rec, running}))
		keys, path := "/accounts/"+buyer.id+"/receipt-keys", "/usage/receipts/"+rec.ID.String()

		h.call(buyer.token, http.MethodGet, path, nil).want(409, "NO_RECEIPT_KEY")
		var first, second, shown NewReceiptKey
		h.call(buyer.token, http.MethodPost, keys, map[string]any{}).want(201).into(&first)
		if !first.Header || !strings.HasPrefix(first.Secret, "tgr_") {
			t.Errorf("key %+v", first)
		}
		signed := func(k *NewReceiptKey, query string) string {
			t.Helper()
			var r wireReceipt
			h.call(buyer.token, http.MethodGet, path+query, nil).want(200).into(&r)
			if want := string(receipt.NewKey(k.ID, k.Secret).Append(nil, &rec)); r.Receipt != want || r.KeyID != k.ID || r.Fields["lots"] != "01LOT:call:1" {
				t.Errorf("receipt %+v, want %s", r, want)
			}
			return r.Receipt
		}
		inDirectory := func(want *NewReceiptKey) {
			t.Helper()
			snap, err := h.BuildSnapshot(t.Context())
			h.ok(err)
			switch {
			case want == nil && len(snap.ReceiptKeys) > 0:
				t.Errorf("the directory has %v", snap.ReceiptKeys)
			case want != nil && (len(snap.ReceiptKeys) != 1 || snap.ReceiptKeys[0].Secret.Reveal() != want.Secret || snap.ReceiptKeys[0].Account != buyer.id):
				t.Errorf("the directory has %v, want %s", snap.ReceiptKeys, want.ID)
			}
		}
		old := signed(&first, "")
		inDirectory(&first)
		h.call(buyer.token, http.MethodGet, "/usage/receipts/"+running.ID.String(), nil).want(409, "CALL_RUNS")
		h.call(h.operator, http.MethodGet, path, nil).want(200)

		h.call(buyer.token, http.MethodPost, keys, map[string]any{"header": false}).want(201).into(&second)
		if second.Header {
			t.Error("the header is on, though it was not wanted")
		}
		inDirectory(nil)
		h.call(buyer.token, http.MethodPatch, keys+"/"+second.ID, map[string]any{"header": true}).want(200)
		inDirectory(&second)
		if signed(&second, "") == old || signed(&first, "?key_id="+first.ID) != old {
			t.Error("the earlier key does not sign as it did")
		}
		var list list[ReceiptKey]
		a := h.call(buyer.token, http.MethodGet, keys, nil).want(200)
		a.into(&list)
		if len(list.Items) != 2 || list.Items[0].Retired != nil || list.Items[1].Retired == nil || strings.Contains(string(a.raw), second.Secret) {
			t.Errorf("keys %s", a.raw)
		}
		h.call(buyer.token, http.MethodPost, keys+"/"+first.ID+"/reveal", nil).want(200).into(&shown)
		if shown.Secret != first.Secret || strings.Count(h.logs.String(), "receipt_key.reveal") != 1 {
			t.Errorf("revealed %+v; the log: %d", shown, strings.Count(h.logs.String(), "receipt_key.reveal"))
		}
		h.call(buyer.token, http.MethodDelete, keys+"/"+first.ID, nil).want(204)
		h.call(buyer.token, http.MethodGet, path+"?key_id="+first.ID, nil).want(404)
		if text := h.logs.String(); strings.Contains(text, first.Secret) || strings.Contains(text, second.Secret) {
			t.Error("the log holds a key")
		}
		sealed, err := all(t.Context(), h.db, func(r scanner) (s string, err error) { return s, r.Scan(&s) }, "SELECT secret FROM admin_receipt_keys")
		h.ok(err)
		for _, s := range sealed {
			if strings.Contains(s, "tgr_") {
				t.Error("a key lies open in the database")
			}
		}
	})
}
