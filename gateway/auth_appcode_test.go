package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

const oddCode = "+odd/code=%with#every$mark!@_-0123456789012345678901234567890123456789"

// TestAppCode: AUTH-3, AUTH-4 and AUTH-9.
func TestAppCode(t *testing.T) {
	t.Parallel()
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		s.AppCodes = append(s.AppCodes, directory.AppCode{ID: "ODD", Application: "APP", Hash: directory.Hash([]byte(pepper), oddCode)})
		s.Applications = append(s.Applications, directory.Application{ID: "APP2", Account: "BUYER", Name: "own"})
		s.AppCodes = append(s.AppCodes, directory.AppCode{ID: "FREE", Application: "APP2", Hash: directory.Hash([]byte(pepper), "unbound")})
	})
	escaped := url.QueryEscape(oddCode)
	for _, tt := range []struct {
		name, query string
		header      []string
		status      int
		code        string
		want        string // the query that arrives
	}{
		{"header", "?a=1", []string{"X-Apig-AppCode", appCode}, 200, "", "a=1"},
		{"header in lower case", "", []string{"x-apig-appcode", appCode}, 200, "", ""},
		{"header with every mark", "", []string{"X-Apig-AppCode", oddCode}, 200, "", ""},
		{"query", "?X-Apig-AppCode=" + appCode, nil, 200, "", ""},
		{"query in lower case, in the middle", "?b=2&x-apig-appcode=" + appCode + "&a=1", nil, 200, "", "b=2&a=1"},
		{"query in upper case, first", "?X-APIG-APPCODE=" + appCode + "&a=%20+", nil, 200, "", "a=%20+"},
		{"query, escaped", "?X-Apig-AppCode=" + escaped, nil, 200, "", ""},
		{"query, plus and equals plain", "?X-Apig-AppCode=" + strings.NewReplacer("%", "%25", "#", "%23").Replace(oddCode), nil, 200, "", ""},
		{"query, name escaped", "?%58-Apig%2DAppCode=" + appCode + "&c", nil, 200, "", "c"},
		{"query, given twice", "?X-Apig-AppCode=" + appCode + "&x=1&X-apig-appcode=other", nil, 200, "", "x=1"},
		{"header wins", "?X-Apig-AppCode=bad", []string{"X-Apig-AppCode", appCode}, 200, "", ""},
		{"header given twice", "", []string{"X-Apig-AppCode", appCode, "X-Apig-AppCode", "other"}, 200, "", ""},
		{"bad header wins too", "?X-Apig-AppCode=" + appCode, []string{"X-Apig-AppCode", "bad"}, 401, "APIGW.0303", ""},
		{"beside a Bearer token", "", []string{"X-Apig-AppCode", appCode, "Authorization", "Bearer x"}, 200, "", ""},
		{"unknown", "", []string{"X-Apig-AppCode", "unknown"}, 401, "APIGW.0303", ""},
		{"empty", "?X-Apig-AppCode=", nil, 401, "APIGW.0303", ""},
		{"none", "?a=1", nil, 401, "APIGW.0303", ""},
		{"an API key", "", []string{"Authorization", "Bearer " + callKey}, 401, "APIGW.0303", ""},
		{"application not bound", "", []string{"X-Apig-AppCode", "unbound"}, 403, "APIGW.0304", ""},
	} {
		r := f.do("GET", "/demo/weather/x"+tt.query, "", tt.header...)
		if r.StatusCode != tt.status || tt.code != "" && r.code(t) != tt.code {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
			continue
		}
		if tt.status == 200 {
			if e := r.echo(t); e.Query != tt.want {
				t.Errorf("%s: the query %q arrived, want %q", tt.name, e.Query, tt.want)
			}
		}
	}
	// AUTH-6: where simple authentication is off a good AppCode does nothing.
	r := f.do("GET", "/signed/x", "", "X-Apig-AppCode", appCode)
	if r.StatusCode != 401 || r.code(t) != "APIGW.0303" || !strings.Contains(r.body, "simple authentication is not enabled") {
		t.Errorf("simple authentication off: %d %s", r.StatusCode, r.body)
	}
	// AUTH-14: not on LLM products.
	if r := f.do("POST", "/v1/chat/completions", hello, "X-Apig-AppCode", appCode); r.StatusCode != 401 {
		t.Errorf("on an LLM product: %d %s", r.StatusCode, r.body)
	}
}

// TestAppCodeNeedsHTTPS: AUTH-5.
func TestAppCodeNeedsHTTPS(t *testing.T) {
	t.Parallel()
	plain := func(c *gateway.Config, _ *directory.Snapshot) { c.PlainAppCode = false }
	f := start(t, plain)
	for _, header := range [][]string{
		{"X-Apig-AppCode", appCode},
		{"X-Apig-AppCode", appCode, "X-Forwarded-Proto", "https"}, // anybody can say so
		{"X-Apig-AppCode", appCode, "Forwarded", "proto=https"},
	} {
		r := f.do("GET", "/demo/weather", "", header...)
		if r.StatusCode != 401 || r.code(t) != "APIGW.0303" || !strings.Contains(r.body, "https only") {
			t.Errorf("over http with %q: %d %s", header[2:], r.StatusCode, r.body)
		}
	}
	// A signature is as good over http.
	if r := f.send(f.signed(signerOf(appKey, appSecret), "GET", "/demo/weather", "")); r.StatusCode != 200 {
		t.Errorf("signature: %d %s", r.StatusCode, r.body)
	}

	trusting := start(t, func(c *gateway.Config, s *directory.Snapshot) {
		plain(c, s)
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	r := trusting.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode, "X-Forwarded-Proto", "https", "X-Forwarded-For", "203.0.113.7")
	if r.StatusCode != 200 {
		t.Fatalf("behind a trusted proxy: %d %s", r.StatusCode, r.body)
	}
	if e := r.echo(t); e.Headers["X-Forwarded-Proto"][0] != "https" || e.Headers["X-Forwarded-For"][0] != "203.0.113.7, 127.0.0.1" {
		t.Errorf("the upstream was told %v", e.Headers)
	}
	if r := trusting.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode, "X-Forwarded-Proto", "http"); r.StatusCode != 401 {
		t.Errorf("a trusted proxy that took plain http: %d", r.StatusCode)
	}
	elsewhere := start(t, func(c *gateway.Config, s *directory.Snapshot) {
		plain(c, s)
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})
	if r := elsewhere.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode, "X-Forwarded-Proto", "https"); r.StatusCode != 401 {
		t.Errorf("a proxy that is not trusted: %d", r.StatusCode)
	}
}

// TestTLS: over the gateway's own https listener an AppCode is accepted and the
// upstream is told.
func TestTLS(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, _ *directory.Snapshot) { c.PlainAppCode = false })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cert, pool := certificate(t)
	done := make(chan error, 1)
	go func() {
		done <- f.gateway.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}}))
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(tr.CloseIdleConnections)
	f.client.Transport = tr
	f.url = "https://" + ln.Addr().String()
	r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode)
	if r.StatusCode != 200 || r.echo(t).Headers["X-Forwarded-Proto"][0] != "https" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if r := f.chat(helloStream); r.StatusCode != 200 || !strings.HasSuffix(r.body, "data: [DONE]\n\n") {
		t.Errorf("stream over https: %d %q", r.StatusCode, r.body)
	}
}

// certificate makes a self-signed certificate for 127.0.0.1.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
