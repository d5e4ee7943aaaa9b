package app

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/config"
)

// testConfig is a whole program on free ports in a fresh folder.
func testConfig(t *testing.T) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.Data = t.TempDir()
	cfg.Gateway.Listen, cfg.Gateway.TLSListen, cfg.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Journal.Segment = 1 << 20
	return cfg
}

// run starts the program and returns its ports and a function that stops it.
func run(t *testing.T, cfg config.Config, opts Options) (Info, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan Info, 1), make(chan error, 1)
	opts.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	opts.Ready = func(i Info) { ready <- i }
	go func() { done <- Run(ctx, cfg, opts) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	t.Cleanup(stop)
	select {
	case i := <-ready:
		return i, stop
	case err := <-done:
		stopped = true
		cancel()
		t.Fatalf("start: %v", err)
	}
	panic("unreachable")
}

func call(t *testing.T, method, url, token, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

const hello = `{"model":"demo-chat","messages":[{"role":"user","content":"hello"}]}`

// used reads the used figure of a subscription.
func used(t *testing.T, d *Demo, subscription string) (granted, used int64) {
	t.Helper()
	status, text := call(t, "GET", d.AdminURL+"/api/v1/subscriptions/"+subscription+"/quota", d.BuyerToken, "")
	var q struct{ Granted, Used int64 }
	if err := json.Unmarshal([]byte(text), &q); err != nil || status != 200 {
		t.Fatalf("quota: %d %s", status, text)
	}
	return q.Granted, q.Used
}

func TestDemoGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	opts := Options{Demo: true, DemoUnits: 100}
	info, stop := run(t, cfg, opts)
	first := *info.Demo
	for range 3 {
		if status, text := call(t, "POST", first.LLM.BaseURL+"/chat/completions", first.LLM.APIKey, hello); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
	}
	if g, u := used(t, info.Demo, first.LLM.SubscriptionID); g != 100 || u != 3 {
		t.Fatalf("granted %d, used %d, want 100 and 3", g, u)
	}
	stop()

	info, stop = run(t, cfg, opts)
	second := *info.Demo
	for _, pair := range [][2]string{
		{first.OperatorToken, second.OperatorToken},
		{first.BuyerToken, second.BuyerToken},
		{first.SellerToken, second.SellerToken},
		{first.LLM.APIKey, second.LLM.APIKey},
		{first.LLMTokens.SubscriptionID, second.LLMTokens.SubscriptionID},
		{first.API.AppCode, second.API.AppCode},
		{first.API.AppSecret, second.API.AppSecret},
	} {
		if pair[0] != pair[1] || pair[0] == "" {
			t.Errorf("a credential or id changed over the restart")
		}
	}
	if g, u := used(t, info.Demo, second.LLM.SubscriptionID); g != 100 || u != 3 {
		t.Errorf("after a restart: granted %d, used %d, want 100 and 3", g, u)
	}
	if status, text := call(t, "POST", second.LLM.BaseURL+"/chat/completions", second.LLM.APIKey, hello); status != 200 {
		t.Errorf("after a restart: %d %s", status, text)
	}
	stop()

	// Whoever loses demo.json gets new credentials and no second marketplace.
	if err := os.Remove(filepath.Join(cfg.Data, demoFile)); err != nil {
		t.Fatal(err)
	}
	info, _ = run(t, cfg, opts)
	third := *info.Demo
	if third.LLM.SubscriptionID != first.LLM.SubscriptionID || third.LLM.APIKey == first.LLM.APIKey {
		t.Error("without demo.json: want the same subscription and a new key")
	}
	if g, u := used(t, info.Demo, third.LLM.SubscriptionID); g != 100 || u != 4 {
		t.Errorf("without demo.json: granted %d, used %d, want 100 and 4", g, u)
	}
	if status, _ := call(t, "POST", third.LLM.BaseURL+"/chat/completions", first.LLM.APIKey, hello); status != 401 {
		t.Errorf("the lost key still works: %d", status)
	}
}

func TestReconciliationBalances(t *testing.T) {
	t.Parallel()
	info, _ := run(t, testConfig(t), Options{Demo: true})
	d := info.Demo
	for range 5 {
		call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello)
		call(t, "POST", d.LLMTokens.BaseURL+"/chat/completions", d.LLMTokens.APIKey, hello)
	}
	status, text := call(t, "GET", d.AdminURL+"/api/v1/reconciliation", d.OperatorToken, "")
	var r struct {
		Complete      bool
		Drift         int64
		Subscriptions []struct {
			Unit                  string
			Journal, Quota, Usage int64
		}
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil || status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	sum := map[string]int64{}
	for _, s := range r.Subscriptions {
		sum[s.Unit] += s.Quota
	}
	if !r.Complete || r.Drift != 0 || sum["call"] != 5 || sum["token"] == 0 {
		t.Errorf("%+v", r)
	}
}

// TestRequestByID proves that the record of a call can be had by the id its
// answer carried.
func TestRequestByID(t *testing.T) {
	t.Parallel()
	info, stop := run(t, testConfig(t), Options{Demo: true})
	d := info.Demo
	req, err := http.NewRequestWithContext(t.Context(), "POST", d.LLM.BaseURL+"/chat/completions", strings.NewReader(hello))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.LLM.APIKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	id := resp.Header.Get("X-Request-Id")
	deadline := time.Now().Add(10 * time.Second)
	for {
		status, text := call(t, "GET", d.AdminURL+"/api/v1/usage/requests/"+id, d.BuyerToken, "")
		if status == 200 {
			if !strings.Contains(text, id) {
				t.Errorf("%s", text)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d %s", status, text)
		}
		pause(t.Context(), 20*time.Millisecond)
	}
	stop()
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	for _, key := range []string{"gateway-listen", "admin-listen", "gateway.tls_listen"} {
		cfg := testConfig(t)
		switch key {
		case "gateway-listen":
			cfg.Gateway.Listen = ln.Addr().String()
		case "admin-listen":
			cfg.Admin.Listen = ln.Addr().String()
		default:
			cfg.Gateway.TLSListen = ln.Addr().String()
		}
		err := Run(t.Context(), cfg, Options{})
		if err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "in use") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestDataFolderThatIsAFile(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Data = filepath.Join(cfg.Data, "file")
	if err := os.WriteFile(cfg.Data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), cfg, Options{}); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("%v", err)
	}
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	run(t, cfg, Options{})
	if err := Run(t.Context(), cfg, Options{}); err == nil {
		t.Error("a second program started on the same data folder")
	}
}

func TestOperatorTokenIsMadeOnce(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	info, stop := run(t, cfg, Options{})
	path := filepath.Join(cfg.Data, operatorFile)
	token, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if status, text := call(t, "GET", info.AdminURL+"/api/v1/products", strings.TrimSpace(string(token)), ""); status != 200 {
		t.Errorf("%d %s", status, text)
	}
	stop()
	run(t, cfg, Options{})
	if again, err := os.ReadFile(path); err != nil || string(again) != string(token) {
		t.Errorf("the token changed, %v", err)
	}
}

func TestCertificateIsKept(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	a, err := certificate(dir, "", "", now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := certificate(dir, "", "", now.Add(24*time.Hour))
	if err != nil || string(a.current.Load().Certificate[0]) != string(b.current.Load().Certificate[0]) {
		t.Errorf("the certificate was made again, %v", err)
	}
	c, err := certificate(dir, "", "", now.Add(800*24*time.Hour))
	if err != nil || string(a.current.Load().Certificate[0]) == string(c.current.Load().Certificate[0]) {
		t.Errorf("the certificate was not made anew in its last month, %v", err)
	}
	if err := a.current.Load().Leaf.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
}

func TestErrorsStayOneChain(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	if err := hint(cause, "do %s", "this"); !errors.Is(err, cause) || err.Error() != "cause: do this" {
		t.Errorf("%v", err)
	}
	if hint(nil, "x") != nil {
		t.Error("a hint made an error out of nothing")
	}
}
