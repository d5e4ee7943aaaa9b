package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/receipt"
)

const receiptBody = `{"model":"demo-chat","messages":[{"role":"user","content":"x"}]}`

// A plain charged answer carries the receipt of the very record that was
// journalled; other answers carry none, whatever the upstream says.
func TestReceiptHeader(t *testing.T) {
	t.Parallel()
	const secret = "tgr_test"
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		s.ReceiptKeys = []directory.ReceiptKey{{ID: "RK", Account: "BUYER", Secret: secret}, {ID: "EMPTY", Account: "OTHER", Secret: "x"}}
	})
	key := receipt.NewKey("RK", secret)
	calls := 0
	for _, send := range []func() reply{
		func() reply { return f.chat(receiptBody) },
		func() reply {
			return f.do("POST", "/v1/infers/"+tokenInfer+"/v1/chat/completions", receiptBody, "Authorization", "Bearer "+tokenKey, "Content-Type", "application/json")
		},
		func() reply { return f.do("GET", "/demo/weather/x", "", "X-Apig-AppCode", appCode) },
	} {
		r := send()
		rec := f.record(calls)
		calls++
		got := r.Header.Get(receipt.Header)
		if want := string(key.Append(nil, &rec)); r.StatusCode != http.StatusOK || got != want {
			t.Errorf("status %d, receipt %q, of the record %q", r.StatusCode, got, want)
		}
		if _, err := key.Verify(got); err != nil {
			t.Error(err)
		}
	}
	for name, r := range map[string]reply{
		"a stream":  f.chat(`{"model":"demo-chat","stream":true,"messages":[{"role":"user","content":"x"}]}`),
		"not 2xx":   f.chat(receiptBody, "X-Mock-Status", "503"),
		"a refusal": f.do("GET", "/demo/weather/x", "", "X-Apig-AppCode", "wrong"),
	} {
		if got := r.Header.Get(receipt.Header); got != "" {
			t.Errorf("%s carries the receipt %q", name, got)
		}
	}
}

// Without a key an answer carries no receipt, an upstream's own least of all.
func TestNoReceiptWithoutKey(t *testing.T) {
	t.Parallel()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(receipt.Header, "v1;forged;sig=00")
	}))
	t.Cleanup(up.Close)
	f := startAt(t, up.URL, nil)
	r := f.do("GET", "/demo/weather/x", "", "X-Apig-AppCode", appCode)
	if got := r.Header.Values(receipt.Header); r.StatusCode != http.StatusOK || len(got) > 0 {
		t.Errorf("status %d, receipts %q", r.StatusCode, got)
	}
}
