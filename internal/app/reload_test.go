package app

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"tollgate/internal/testkit/wait"
)

func eventually(t *testing.T, what string, probe func() error) {
	t.Helper()
	wait.Until(t, 20*time.Second, what, func(context.Context) error { return probe() })
}

// running starts the program and returns it, to be reloaded.
func running(t *testing.T, a *App) *App {
	t.Helper()
	t.Cleanup(func() {
		if err := a.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return a
}

// TestCertificateReload replaces the certificate while the port serves: a whole
// pair takes effect, half of one and garbage leave the old one in use.
func TestCertificateReload(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	cfg.Gateway.TLSCert, cfg.Gateway.TLSKey = cert, key
	now := time.Now()
	if err := makeCertificate(cert, key, now); err != nil {
		t.Fatal(err)
	}
	a, err := start(t.Context(), cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	running(t, a)
	serial := func() string {
		t.Helper()
		conn, err := tls.Dial("tcp", a.tlsLn.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	old, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := makeCertificate(cert, key, now); err != nil {
		t.Fatal(err)
	}
	a.reload()
	second := serial()
	if first == second {
		t.Fatal("the new certificate is not in use")
	}
	for name, spoil := range map[string]func() error{
		"another key":      func() error { return os.WriteFile(key, old, 0o600) },
		"garbage":          func() error { return os.WriteFile(cert, []byte("garbage"), 0o600) },
		"no file any more": func() error { return os.Remove(cert) },
	} {
		failed := a.certFailures.Load()
		if err := spoil(); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		a.reload()
		if serial() != second {
			t.Errorf("%s: the certificate changed", name)
		}
		if name == "no file any more" && a.certFailures.Load() == failed {
			t.Errorf("%s: nobody counted the failure", name)
		}
	}
	if err := makeCertificate(cert, key, now); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change of the files to be noticed", func() error {
		if s := serial(); s == second {
			return fmt.Errorf("still %s", s)
		}
		return nil
	})
}

// TestProxyProtocol reads the client's address from PROXY headers of both
// versions where the connection is from a named balancer, and from nobody else.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{true, false} {
		cfg := testConfig(t)
		cfg.Gateway.ProxyProtocol = []string{"127.0.0.0/8"}
		if !trusted {
			cfg.Gateway.ProxyProtocol = []string{"10.0.0.0/8"}
		}
		cfg.Gateway.Deny = []string{"192.0.2.0/24"}
		info, stop := run(t, cfg, Options{Demo: true})
		base, err := url.Parse(info.GatewayURL)
		if err != nil {
			t.Fatal(err)
		}
		secure, err := url.Parse(info.GatewayHTTPSURL)
		if err != nil {
			t.Fatal(err)
		}
		status := func(host string, header *proxyproto.Header, overTLS bool) int {
			t.Helper()
			conn, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if header != nil {
				if _, err := header.WriteTo(conn); err != nil {
					t.Fatal(err)
				}
			}
			if overTLS {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			fmt.Fprintf(conn, "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", info.Demo.LLM.APIKey)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return 0
			}
			_ = resp.Body.Close()
			return resp.StatusCode
		}
		head := func(version byte, from string) *proxyproto.Header {
			return proxyproto.HeaderProxyFromAddrs(version, &net.TCPAddr{IP: net.ParseIP(from), Port: 4711}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80})
		}
		for _, version := range []byte{1, 2} {
			good, bad := status(base.Host, head(version, "198.51.100.1"), false), status(base.Host, head(version, "192.0.2.7"), false)
			if trusted && (good != 200 || bad != 403) {
				t.Errorf("version %d from a balancer: %d and %d, want 200 and 403", version, good, bad)
			}
			if !trusted && (good == 200 || bad == 200) {
				t.Errorf("version %d from nobody known: %d and %d", version, good, bad)
			}
			if trusted {
				if got := status(secure.Host, head(version, "192.0.2.7"), true); got != 403 {
					t.Errorf("version %d over TLS: %d", version, got)
				}
			}
		}
		if got := status(base.Host, nil, false); got != 200 {
			t.Errorf("without a header: %d", got)
		}
		stop()
	}
}

// TestAccessLog writes a line for each request, none of them with a secret, and
// opens the file anew when told to.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	file := filepath.Join(t.TempDir(), "access.log")
	cfg.Gateway.AccessLog.File, cfg.Gateway.PlainAppCode = file, true
	a, err := start(t.Context(), cfg, Options{Demo: true})
	if err != nil {
		t.Fatal(err)
	}
	running(t, a)
	demo := a.demo
	lines := func(name string, n int) (out []map[string]any) {
		t.Helper()
		eventually(t, "lines of the access log", func() error {
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			out = nil
			for line := range strings.Lines(string(text)) {
				var m map[string]any
				if err := json.Unmarshal([]byte(line), &m); err != nil {
					return fmt.Errorf("%s: %w", line, err)
				}
				out = append(out, m)
			}
			for _, secret := range []string{demo.LLM.APIKey, demo.API.AppCode, demo.API.AppSecret, "hello"} {
				if strings.Contains(string(text), secret) {
					t.Fatalf("the access log shows %q", secret)
				}
			}
			if len(out) != n {
				return fmt.Errorf("%d lines, want %d", len(out), n)
			}
			return nil
		})
		return out
	}
	if status, text := call(t, "POST", demo.LLM.BaseURL+"/chat/completions", demo.LLM.APIKey, hello); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	call(t, "POST", demo.LLM.BaseURL+"/chat/completions", "sk-wrong", hello)
	call(t, "POST", demo.LLM.BaseURL+"/chat/completions", demo.LLM.APIKey, strings.Replace(hello, "{", `{"stream":true,`, 1))
	if resp, err := http.Get(demo.API.URL + "?x-apig-appcode=" + url.QueryEscape(demo.API.AppCode)); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	got := lines(file, 4)
	slices.SortStableFunc(got, func(a, b map[string]any) int { return strings.Compare(a["time"].(string), b["time"].(string)) })
	for i, want := range []map[string]any{
		{"status": 200., "auth": "apikey", "model": "demo-chat", "charged_call": 1., "method": "POST", "address": "127.0.0.1"},
		{"status": 401., "reason": "bad_api_key"},
		{"status": 200., "streamed": true, "charged_call": 1.},
		{"status": 200., "auth": "appcode", "path": "/demo/weather", "method": "GET"},
	} {
		for k, v := range want {
			if got[i][k] != v {
				t.Errorf("line %d: %s is %v, want %v: %v", i, k, got[i][k], v, got[i])
			}
		}
	}
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	a.reload()
	call(t, "POST", demo.LLM.BaseURL+"/chat/completions", demo.LLM.APIKey, hello)
	lines(file, 1)
	lines(file+".1", 4)
}

// TestTraces exports to a receiver that speaks OTLP: each call has a span with
// its place in the caller's trace, the upstream gets the context of a child, and
// nothing of what was said is in any attribute.
func TestTraces(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var spans []*tracepb.Span
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var req collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &req); err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				spans = append(spans, ss.GetSpans()...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer receiver.Close()
	contexts := make(chan string, 10)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		contexts <- r.Header.Get("Traceparent")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"secret answer"}}],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}`)
	}))
	defer upstream.Close()
	cfg := testConfig(t)
	cfg.Gateway.Trace.Endpoint, cfg.Gateway.Trace.Sample = receiver.URL+"/v1/traces", 0
	info, stop := run(t, cfg, Options{Demo: true, DemoUpstream: upstream.URL})
	send := func(parent string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", info.Demo.LLM.BaseURL+"/chat/completions", strings.NewReader(hello))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+info.Demo.LLM.APIKey)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Traceparent", parent)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatal(resp.StatusCode)
		}
		return <-contexts
	}
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	sampled := send("00-" + id + "-" + parent + "-01")
	if not := "00-" + id + "-" + parent + "-00"; send(not) != not {
		t.Error("the context of a call that is not sampled did not go on as it came")
	}
	stop() // sends what waits
	mu.Lock()
	defer mu.Unlock()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want the call and its upstream: %v", len(spans), spans)
	}
	slices.SortFunc(spans, func(a, b *tracepb.Span) int { return int(a.GetKind()) - int(b.GetKind()) })
	server, client := spans[0], spans[1]
	if fmt.Sprintf("%x %x", server.GetTraceId(), server.GetParentSpanId()) != id+" "+parent || server.GetName() != "chat demo-chat" {
		t.Errorf("server span %v", server)
	}
	if string(client.GetParentSpanId()) != string(server.GetSpanId()) || sampled != fmt.Sprintf("00-%s-%x-01", id, client.GetSpanId()) {
		t.Errorf("the upstream got %s, span %v", sampled, client)
	}
	got := map[string]string{}
	for _, a := range server.GetAttributes() {
		v := a.GetValue().String()
		got[a.GetKey()] = v
		for _, secret := range []string{"hello", "secret answer", info.Demo.LLM.APIKey} {
			if strings.Contains(v, secret) {
				t.Errorf("%s shows %q", a.GetKey(), secret)
			}
		}
	}
	for k, want := range map[string]string{
		"gen_ai.operation.name": "chat", "gen_ai.request.model": "demo-chat", "gen_ai.usage.input_tokens": "12",
		"gen_ai.usage.output_tokens": "34", "http.response.status_code": "200", "tollgate.subscription": info.Demo.LLM.SubscriptionID,
	} {
		if !strings.Contains(got[k], want) {
			t.Errorf("%s is %q, want %s", k, got[k], want)
		}
	}
}
