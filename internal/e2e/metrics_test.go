package e2e

import (
	"bytes"
	"net/http"
	"os/exec"
	"testing"

	"tollgate/internal/testkit/process"
	"tollgate/internal/testkit/tollgate"
)

// TestMetricsAreClean lets Prometheus's own checker read /metrics after some
// traffic, and holds the names of the contract.
func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	promtool := process.Find(t, "promtool", "prometheus")
	n := tollgate.Start(t, tollgate.Options{})
	for _, headers := range []steer{nil, {"X-Mock-Status": "503"}, {"X-Mock-Status": "404"}} {
		chat(t, n.Demo.LLM, headers)
	}
	if status := chatStatus(t, n.Demo.LLMTokens, streamBody, nil); status != http.StatusOK {
		t.Fatalf("stream: status %d", status)
	}
	bad := n.Demo.LLM
	bad.APIKey = "sk-wrong"
	chat(t, bad, nil)
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, 1)

	resp, body := send(t, http.DefaultClient, newRequest(t, n.Demo.AdminURL+"/metrics", "", nil))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("/metrics: %s", resp.Status)
	}
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	check.Stdin = bytes.NewReader(append(body, '\n'))
	if out, err := check.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	for _, name := range []string{
		"tollgate_requests_total", "tollgate_request_duration_seconds", "tollgate_overhead_seconds", "tollgate_upstream_duration_seconds",
		"tollgate_time_to_first_byte_seconds", "tollgate_units_charged_total", "tollgate_quota_remaining", "tollgate_lease_outstanding_units",
		"tollgate_journal_lag_records", "tollgate_ledger_drift_units", "tollgate_breaker_state", "tollgate_rejections_total",
	} {
		if !bytes.Contains(body, []byte("# TYPE "+name+" ")) {
			t.Errorf("/metrics has no %s", name)
		}
	}
	for _, secret := range []string{n.Demo.LLM.APIKey, n.Demo.API.AppKey, n.Demo.BuyerToken} {
		if bytes.Contains(body, []byte(secret)) {
			t.Error("/metrics shows a credential")
		}
	}
}

// TestHealth: both ports say that they live and serve.
func TestHealth(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	for _, base := range []string{n.Demo.GatewayURL, n.Demo.AdminURL} {
		for _, path := range []string{"/healthz", "/readyz"} {
			if resp, body := send(t, http.DefaultClient, newRequest(t, base+path, "", nil)); resp.StatusCode != http.StatusOK {
				t.Errorf("%s%s: %s %s", base, path, resp.Status, body)
			}
		}
	}
}
