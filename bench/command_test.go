package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"tollgate/internal/apisign"
)

// fakeMarket is a gateway and its admin API of which only the counting is
// real: it forwards to a mock and charges, as the test wants it to.
type fakeMarket struct {
	*httptest.Server
	upstream string
	charge   func(subscription string, status int) int64

	mu   sync.Mutex
	used map[string]int64
	asks int // how often a quota was asked for
}

func (m *fakeMarket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if id, ok := strings.CutPrefix(r.URL.Path, "/api/v1/subscriptions/"); ok {
		if r.Header.Get("Authorization") != "Bearer operator" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asks++
		used := m.used[strings.TrimSuffix(id, "/quota")]
		fmt.Fprintf(w, `{"unit":"call","used":%d,"overrun":%d}`, used-used/10, used/10)
		return
	}
	var sub string
	switch auth := r.Header.Get("Authorization"); {
	case auth == "Bearer sk-calls":
		sub = "sub-calls"
	case auth == "Bearer sk-tokens":
		sub = "sub-tokens"
	case strings.HasPrefix(auth, apisign.Algorithm+" Access=app-1,"), r.Header.Get("X-Apig-AppCode") == "code-1" && r.TLS != nil:
		sub = "sub-api"
	default:
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, m.upstream+r.URL.RequestURI(), r.Body)
	if err != nil {
		panic(err)
	}
	req.Header = r.Header
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	m.mu.Lock()
	m.used[sub] += m.charge(sub, resp.StatusCode)
	m.mu.Unlock()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // the load generator sees what is missing
}

// newMarket starts a fake market over http and https and writes its demo.json.
func newMarket(t *testing.T, charge func(string, int) int64) (m *fakeMarket, demo string) {
	t.Helper()
	_, url := startUpstream(t)
	m = &fakeMarket{upstream: url, charge: charge, used: map[string]int64{"sub-calls": 7}}
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	https := httptest.NewTLSServer(m)
	t.Cleanup(https.Close)
	b, err := json.Marshal(map[string]any{
		"admin_url": m.URL, "operator_token": "operator", "mock_upstream_url": url,
		"llm":        map[string]string{"base_url": m.URL + "/v1", "api_key": "sk-calls", "model": "demo-chat", "subscription_id": "sub-calls"},
		"llm_tokens": map[string]string{"base_url": m.URL + "/v1", "api_key": "sk-tokens", "model": "demo-chat", "subscription_id": "sub-tokens"},
		"api": map[string]string{
			"url": m.URL + "/demo/weather", "https_url": https.URL + "/demo/weather",
			"app_key": "app-1", "app_secret": "secret", "app_code": "code-1", "subscription_id": "sub-api",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	demo = filepath.Join(t.TempDir(), "demo.json")
	if err := os.WriteFile(demo, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return m, demo
}

// rightly charges what the contract says: 2xx only, 46 units on the token
// package.
func rightly(sub string, status int) int64 {
	switch {
	case status/100 != 2:
		return 0
	case sub == "sub-tokens":
		return 46
	}
	return 1
}

// runLoad runs `bench load` with args.
func runLoad(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var c LoadCommand
	var out bytes.Buffer
	p, err := kong.New(&c, kong.Writers(&out, &out))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Parse(args); err != nil {
		return "", err
	}
	err = c.run(t.Context(), &out)
	return out.String(), err
}

func TestLoadCommandDemo(t *testing.T) {
	t.Parallel()
	m, demo := newMarket(t, rightly)
	out, err := runLoad(t, "--demo", demo, "-n", "300", "-c", "8", "--check", "--json")
	if err != nil {
		t.Fatal(err, out)
	}
	var r LoadReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	if r.OK2xx != 228 || r.C4xx != 39 || r.C5xx != 33 || r.Errors != 0 || r.StreamsComplete != 63 {
		t.Errorf("%s", out)
	}
	want := &Books{
		Subscriptions: map[string]SubscriptionBooks{
			"sub-calls":  {UnitsPerCall: 1, Client2xx: 165, Expected: 165, Used: 165},
			"sub-tokens": {UnitsPerCall: 46, Client2xx: 6, Expected: 276, Used: 276},
			"sub-api":    {UnitsPerCall: 1, Client2xx: 57, Expected: 57, Used: 57},
		},
		Mock2xx: 228, Client2xx: 228, ChargedCalls: 228, OK: true,
	}
	if d := cmp.Diff(want, r.Books); d != "" {
		t.Error(d)
	}

	out, err = runLoad(t, "--demo", demo, "-n", "30", "-c", "2", "--mix", "chat=2,signature", "--check")
	if err != nil || !strings.Contains(out, "the books balance: 30 calls charged, 30 answered 2xx by the mock, 30 seen by the clients, drift 0") {
		t.Errorf("%v\n%s", err, out)
	}
	if m.used["sub-calls"] != 7+165+20 {
		t.Errorf("used %v", m.used)
	}
}

// TestAuditFindsDrift: books that do not balance are never called balanced.
func TestAuditFindsDrift(t *testing.T) {
	t.Parallel()
	for name, charge := range map[string]func(string, int) int64{
		"failed calls charged": func(s string, status int) int64 { return rightly(s, 200) },
		"nothing charged":      func(string, int) int64 { return 0 },
		"one product for free": func(s string, status int) int64 {
			return rightly(s, status) * b2i(s != "sub-api")
		},
		"tokens one too many":   func(s string, status int) int64 { return rightly(s, status) + b2i(s == "sub-tokens" && status == 200) },
		"one pays for the next": swapped(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, path := newMarket(t, charge)
			d, err := ReadDemo(path)
			if err != nil {
				t.Fatal(err)
			}
			in := d.Scenarios()
			audit, err := OpenAudit(t.Context(), d, in)
			if err != nil {
				t.Fatal(err)
			}
			res := load(t, LoadInput{Scenarios: in, Requests: 100, Connections: 4})
			b, err := audit.compare(t.Context(), in, res) // Close would wait for late settlements
			if err != nil || b.OK {
				t.Errorf("%v %+v", err, b)
			}
		})
	}
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// swapped charges calls right in sum, but every hundredth to nobody and the
// next one twice.
func swapped() func(string, int) int64 {
	var mu sync.Mutex
	owed := int64(0)
	n := 0
	return func(sub string, status int) int64 {
		mu.Lock()
		defer mu.Unlock()
		u := rightly(sub, status)
		if u == 0 || sub == "sub-tokens" {
			return u
		}
		if n++; n == 5 && sub == "sub-calls" {
			owed = u
			return 0
		}
		if owed > 0 && sub == "sub-api" {
			u += owed
			owed = 0
		}
		return u
	}
}

// TestAuditWaits: charges that come late, but come, balance the books.
func TestAuditWaits(t *testing.T) {
	t.Parallel()
	m, path := newMarket(t, func(string, int) int64 { return 0 })
	d, err := ReadDemo(path)
	if err != nil {
		t.Fatal(err)
	}
	in, err := Mix(d.Scenarios(), "chat")
	if err != nil {
		t.Fatal(err)
	}
	audit, err := OpenAudit(t.Context(), d, in)
	if err != nil {
		t.Fatal(err)
	}
	res := load(t, LoadInput{Scenarios: in, Requests: 10})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m.mu.Lock()
			late := m.asks >= 3 // before the load, and twice after
			if late {
				m.used["sub-calls"] += 10
			}
			m.mu.Unlock()
			if late {
				return
			}
			<-time.After(time.Millisecond)
		}
	}()
	b, err := audit.Close(t.Context(), in, res)
	if err != nil || !b.OK || b.ChargedCalls != 10 {
		t.Errorf("%v %+v", err, b)
	}
	<-done
}

func TestLoadCommandURL(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	body := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(body, []byte(streamBody), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runLoad(t, "-n", "10", "-c", "2", "-H", "X-Mock-Chunks: 2", "-d", "@"+body, "--stream", "--api-key", "k", url+"/v1/chat/completions")
	if err != nil || !strings.Contains(out, "10/10") || u.Stats().Finished != 10 {
		t.Errorf("%v %s", err, out)
	}
	out, err = runLoad(t, "-n", "4", "-c", "4", "--rate", "1000", "-X", "delete", "-H", "X-Mock-Break: start", url+"/x")
	if err != nil || !strings.Contains(out, "errors, closed: 4") || !strings.Contains(out, "late calls") {
		t.Errorf("%v %s", err, out)
	}
}

func TestLoadCommandErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	admin := filepath.Join(dir, "admin.json")
	if err := os.WriteFile(admin, []byte(`{"admin_url":"http://h"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, demo := newMarket(t, rightly)
	for want, args := range map[string][]string{
		"give --demo demo.json or a URL": {},
		"not both":                       {"--demo", demo, "http://h/"},
		"serve --demo":                   {"--demo", filepath.Join(dir, "none.json")},
		"--role all":                     {"--demo", admin},
		"go with --demo":                 {"--check", "http://h/"},
		"there is no scenario":           {"--demo", demo, "--mix", "none"},
		"whole number":                   {"--demo", demo, "--mix", "chat=x"},
		"give one of":                    {"--api-key", "a", "--app-code", "b", "http://h/"},
		"AppSecret":                      {"--app-key", "a", "http://h/"},
		"--data":                         {"-d", "@" + filepath.Join(dir, "none"), "http://h/"},
	} {
		if out, err := runLoad(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q\n%s", err, want, out)
		}
	}
}

func TestUpstreamCommand(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		c := UpstreamCommand{Listen: "127.0.0.1:0", Model: []string{"m1"}}
		done <- c.run(ctx, w)
		w.Close()
	}()
	var b [512]byte
	n, err := r.Read(b[:])
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	url, ok := strings.CutPrefix(line, "mock upstream at ")
	if !ok {
		t.Fatalf("prints %q", line)
	}
	_, models, err := call(t, "GET", url+"/v1/models", "")
	if err != nil || !strings.Contains(string(models), `"id":"m1"`) {
		t.Errorf("%v %s", err, models)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	c := UpstreamCommand{Listen: "127.0.0.1:999999"}
	if err := c.run(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("error %v", err)
	}
}
