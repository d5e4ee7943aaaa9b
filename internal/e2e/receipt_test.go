package e2e

import (
	"context"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// TestReceipts asks a running Tollgate for a receipt key, and holds that the
// header of a call and the endpoint give the same receipt, which openssl, and
// our own command, find genuine.
func TestReceipts(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	var me struct {
		Account string `json:"account_id"`
	}
	must := func(method, path string, in, out any, want int) {
		t.Helper()
		status, err := admin(t.Context(), n, n.Demo.BuyerToken, method, path, in, out)
		if err != nil || status != want {
			t.Fatalf("%s %s: %d, %v", method, path, status, err)
		}
	}
	must(http.MethodGet, "/api/v1/me", nil, &me, 200)
	var key struct {
		ID, Secret string
	}
	must(http.MethodPost, "/api/v1/accounts/"+me.Account+"/receipt-keys", map[string]any{}, &key, 201)

	var header, request string
	wait.Until(t, settleLimit, "a receipt in the header", func(context.Context) error {
		resp, _ := send(t, http.DefaultClient, chatRequest(t, n.Demo.LLMTokens, chatBody, steer{"X-Mock-Tokens": "12,34"}))
		header, request = resp.Header.Get("X-Tollgate-Receipt"), resp.Header.Get("X-Request-Id")
		if header == "" {
			return errors.New("the answer has none")
		}
		return nil
	})
	for _, want := range []string{"id=" + request, "key=" + key.ID, "sub=" + n.Demo.LLMTokens.SubscriptionID, "status=200", "basis=upstream", "token:46"} {
		if !strings.Contains(header, want) {
			t.Errorf("the receipt %s lacks %s", header, want)
		}
	}
	var r struct{ Receipt string }
	wait.Until(t, settleLimit, "the usage row", func(ctx context.Context) error {
		if status, err := admin(ctx, n, n.Demo.BuyerToken, http.MethodGet, "/api/v1/usage/receipts/"+request, nil, &r); err != nil || status != 200 {
			return errors.Join(err, errors.New(http.StatusText(status)))
		}
		return nil
	})
	if r.Receipt != header {
		t.Errorf("the endpoint says\n%s\nthe header said\n%s", r.Receipt, header)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `printf %s "${RECEIPT%;sig=*}" | openssl dgst -sha256 -hmac "$KEY"`)
	cmd.Env = append(cmd.Environ(), "RECEIPT="+header, "KEY="+key.Secret)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), header[len(header)-64:]) {
		t.Errorf("openssl: %v, %s", err, out)
	}
	if p, exit := tollgate.Run(t, settleLimit, "receipt", "verify", "--key", key.Secret, header); exit != 0 {
		t.Errorf("receipt verify: %d: %s", exit, p.Output())
	}
	if _, exit := tollgate.Run(t, settleLimit, "receipt", "verify", "--key", key.Secret, strings.Replace(header, "token:46", "token:4", 1)); exit != 1 {
		t.Errorf("receipt verify takes a changed receipt: %d", exit)
	}
}
