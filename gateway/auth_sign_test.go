package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/signer"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/request"

	"tollgate/gateway"
	"tollgate/internal/apisign"
	"tollgate/internal/directory"
)

// signed makes a request to the API product and signs it.
func (f *fixture) signed(s apisign.Signer, method, path, body string, header ...string) *http.Request {
	f.t.Helper()
	req, err := http.NewRequest(method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	if s.Key == "" {
		s.Key, s.Secret = appKey, appSecret
	}
	if err := s.Sign(req); err != nil {
		f.t.Fatal(err)
	}
	return req
}

func TestSignature(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	big := strings.Repeat("0123456789abcdef", 8<<10) // 128 KiB: not in memory with the header
	for _, tt := range []struct {
		name, method, path, body string
		signer                   apisign.Signer
		header                   []string
	}{
		{"get", "GET", "/signed/a", "", apisign.Signer{}, nil},
		{"query", "GET", "/signed/a?b=2&a=1&a=0&sp=a%20b&zh=%E4%B8%AD&bare&plus=a+b", "", apisign.Signer{}, nil},
		{"escapes", "GET", "/signed/%E5%A4%A9/a%20b/x%2Fy", "", apisign.Signer{}, nil},
		{"double slash", "GET", "/signed//a//", "", apisign.Signer{}, nil},
		{"json", "POST", "/signed/a", `{"a":1}`, apisign.Signer{}, []string{"Content-Type", "application/json", "X-Stage", "RELEASE"}},
		{"large body", "PUT", "/signed/a", big, apisign.Signer{}, nil},
		{"unsigned body", "POST", "/signed/a", "hello", apisign.Signer{UnsignedPayload: true}, nil},
		{"large unsigned body", "POST", "/signed/a", big, apisign.Signer{UnsignedPayload: true}, nil},
		{"repeated header", "GET", "/signed/a", "", apisign.Signer{}, []string{"X-Many", "b", "X-Many", "a"}},
		{"simple authentication on as well", "GET", "/demo/weather/a", "", apisign.Signer{}, nil},
		{"early by 14 minutes", "GET", "/signed/a", "", apisign.Signer{Now: func() time.Time { return time.Now().Add(14 * time.Minute) }}, nil},
		{"late by 14 minutes", "GET", "/signed/a", "", apisign.Signer{Now: func() time.Time { return time.Now().Add(-14 * time.Minute) }}, nil},
	} {
		r := f.send(f.signed(tt.signer, tt.method, tt.path, tt.body, tt.header...))
		if r.StatusCode != 200 {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
			continue
		}
		if e := r.echo(t); e.Body != tt.body || e.Method != tt.method {
			t.Errorf("%s: the upstream got %s with %d bytes, want %d", tt.name, e.Method, e.BodyBytes, len(tt.body))
		}
		if r.Header.Get("X-Tollgate-Charged") != "call=1" {
			t.Errorf("%s: charged %q", tt.name, r.Header.Get("X-Tollgate-Charged"))
		}
	}
}

// TestVendorSigner: what the vendor's own Go SDK signs is accepted.
func TestVendorSigner(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	for _, tt := range []struct {
		name  string
		build func(b *request.HttpRequestBuilder)
		body  string
	}{
		{"get", func(b *request.HttpRequestBuilder) { b.WithMethod("GET").WithPath("/signed/天气/a b") }, ""},
		{"json", func(b *request.HttpRequestBuilder) {
			b.WithMethod("POST").WithPath("/signed/p").AddHeaderParam("Content-Type", "application/json").WithBody("", map[string]any{"m": 1})
		}, `{"m":1}` + "\n"},
		{"text, which the SDK declares unsigned", func(b *request.HttpRequestBuilder) {
			b.WithMethod("POST").WithPath("/signed/p").AddHeaderParam("Content-Type", "text/plain").WithBody("", "hello")
		}, "hello"},
	} {
		b := request.NewHttpRequestBuilder().WithEndpoint(f.url)
		tt.build(b)
		req := b.Build()
		headers, err := signer.Sign(req, appKey, appSecret)
		if err != nil {
			t.Fatal(err)
		}
		out, err := req.ConvertRequest()
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range headers {
			out.Header.Set(k, v)
		}
		r := f.send(out)
		if r.StatusCode != 200 || r.echo(t).Body != tt.body {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
	}
}

// TestBadSignature changes one thing of a good request at a time (AUTH-12,
// AUTH-17, gateway-wire 1).
func TestBadSignature(t *testing.T) {
	t.Parallel()
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Applications = append(s.Applications, directory.Application{ID: "APP2", Account: "BUYER", Name: "own"})
		s.AppKeys = append(s.AppKeys, directory.AppKey{ID: "AK2", Application: "APP2", Key: "unbound-key", Secret: "unbound-secret"})
	})
	ago := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(-d) } }
	for _, tt := range []struct {
		name   string
		signer apisign.Signer
		change func(r *http.Request)
		status int
		code   string
		text   string
	}{
		{"nothing changed", apisign.Signer{}, func(*http.Request) {}, 200, "", ""},
		{"body", apisign.Signer{}, func(r *http.Request) { setBody(r, `{"a":2}`) }, 401, "APIGW.0303", "verify signature fail"},
		{"body removed", apisign.Signer{}, func(r *http.Request) { setBody(r, "") }, 401, "APIGW.0303", "verify signature fail"},
		{"query", apisign.Signer{}, func(r *http.Request) { r.URL.RawQuery = "q=2" }, 401, "APIGW.0303", "verify signature fail"},
		{"query added", apisign.Signer{}, func(r *http.Request) { r.URL.RawQuery += "&z=1" }, 401, "APIGW.0303", "verify signature fail"},
		{"path", apisign.Signer{}, func(r *http.Request) { r.URL.Path += "x" }, 401, "APIGW.0303", "verify signature fail"},
		{"method", apisign.Signer{}, func(r *http.Request) { r.Method = "PUT" }, 401, "APIGW.0303", "verify signature fail"},
		{"host", apisign.Signer{}, func(r *http.Request) { r.Host = "other" }, 401, "APIGW.0303", "verify signature fail"},
		{"signed header", apisign.Signer{}, func(r *http.Request) { r.Header.Set("X-Stage", "TEST") }, 401, "APIGW.0303", "verify signature fail"},
		{"signed header twice", apisign.Signer{}, func(r *http.Request) { r.Header.Add("X-Stage", "TEST") }, 401, "APIGW.0303", "verify signature fail"},
		{"signed header gone", apisign.Signer{}, func(r *http.Request) { r.Header.Del("X-Stage") }, 401, "APIGW.0303", "x-stage"},
		{"unsigned header", apisign.Signer{}, func(r *http.Request) { r.Header.Set("X-Other", "1") }, 200, "", ""},
		{"date", apisign.Signer{}, func(r *http.Request) {
			r.Header.Set("X-Sdk-Date", time.Now().UTC().Add(-time.Minute).Format(apisign.DateLayout))
		}, 401, "APIGW.0303", "verify signature fail"},
		{"date gone", apisign.Signer{}, func(r *http.Request) { r.Header.Del("X-Sdk-Date") }, 401, "APIGW.0303", ""},
		{"stale by 16 minutes", apisign.Signer{Now: ago(16 * time.Minute)}, func(*http.Request) {}, 401, "APIGW.0303", "signature expired"},
		{"early by 16 minutes", apisign.Signer{Now: ago(-16 * time.Minute)}, func(*http.Request) {}, 401, "APIGW.0303", "signature expired"},
		{"wrong secret", apisign.Signer{Key: appKey, Secret: "other"}, func(*http.Request) {}, 401, "APIGW.0303", "verify signature fail"},
		{"unknown AppKey", apisign.Signer{Key: "ffffffffffffffffffffffffffffffff", Secret: appSecret}, func(*http.Request) {}, 401, "APIGW.0303", "app not found, appkey ffff***ffff"},
		{"application not bound", apisign.Signer{Key: "unbound-key", Secret: "unbound-secret"}, func(*http.Request) {}, 403, "APIGW.0304", ""},
		{"signature of another length", apisign.Signer{}, func(r *http.Request) { r.Header.Set("Authorization", r.Header.Get("Authorization")+"00") }, 401, "APIGW.0303", ""},
		{"unsigned payload claimed afterwards", apisign.Signer{}, func(r *http.Request) {
			r.Header.Set("X-Sdk-Content-Sha256", "UNSIGNED-PAYLOAD")
			setBody(r, `{"a":2}`)
		}, 401, "APIGW.0303", ""},
		{"a second Authorization", apisign.Signer{}, func(r *http.Request) { r.Header.Add("Authorization", "Bearer x") }, 401, "APIGW.0303", ""},
	} {
		req := f.signed(tt.signer, "POST", "/signed/a?q=1", `{"a":1}`, "X-Stage", "RELEASE")
		tt.change(req)
		r := f.send(req)
		if r.StatusCode != tt.status || tt.code != "" && r.code(t) != tt.code || !strings.Contains(r.body, tt.text) {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
		if tt.status == 401 && r.Header.Get("Www-Authenticate") == "" {
			t.Errorf("%s: no challenge", tt.name)
		}
		// AUTH-12: a good AppCode beside it does not help, on a product that
		// takes both.
		req = f.signed(tt.signer, "POST", "/demo/weather/a?q=1", `{"a":1}`, "X-Stage", "RELEASE")
		req.Header.Set("X-Apig-AppCode", appCode)
		tt.change(req)
		if r := f.send(req); r.StatusCode != tt.status {
			t.Errorf("%s, with an AppCode beside it: %d %s", tt.name, r.StatusCode, r.body)
		}
	}
	// A broken signature of any form still decides alone.
	for _, auth := range []string{"SDK-HMAC-SHA256", "SDK-HMAC-SHA256 ", "sdk-hmac-sha256 Access=x", "SDK-HMAC-SHA256 Access=" + appKey + ", SignedHeaders=, Signature="} {
		r := f.do("GET", "/demo/weather", "", "Authorization", auth, "X-Apig-AppCode", appCode)
		if r.StatusCode != 401 || r.code(t) != "APIGW.0303" {
			t.Errorf("%q: %d %s", auth, r.StatusCode, r.body)
		}
	}
}

// TestUnsignedPayloadIsStreamed: the upload need not have ended for its
// beginning to reach the upstream.
func TestUnsignedPayloadIsStreamed(t *testing.T) {
	t.Parallel()
	began := make(chan string, 1)
	f := startAt(t, upstreamOf(t, func(p *peer) {
		req, err := http.ReadRequest(p.br)
		if err != nil {
			return
		}
		b := make([]byte, 5)
		_, _ = io.ReadFull(req.Body, b)
		began <- string(b)
		rest, _ := io.ReadAll(req.Body)
		p.say("HTTP/1.1 200 OK\nContent-Length: %d\n\n%s", len(rest), rest)
	}), nil)
	body, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", f.url+"/signed/up", body)
	if err != nil {
		t.Fatal(err)
	}
	s := apisign.Signer{Key: appKey, Secret: appSecret, UnsignedPayload: true}
	if err := s.Sign(req); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(w, "begin")
		select {
		case got := <-began:
			_, _ = fmt.Fprintf(w, "|%s|end", got)
		case <-time.After(patience):
		}
		_ = w.Close()
	}()
	if r := f.send(req); r.StatusCode != 200 || r.body != "|begin|end" {
		t.Errorf("%d %q", r.StatusCode, r.body)
	}
}

func setBody(r *http.Request, body string) {
	r.Body = io.NopCloser(bytes.NewReader([]byte(body)))
	r.ContentLength = int64(len(body))
	r.GetBody = nil
}
