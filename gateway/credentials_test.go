package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/apisign"
	"tollgate/internal/directory"
)

func signerOf(key, secret string) apisign.Signer { return apisign.Signer{Key: key, Secret: secret} }

// TestCredentialsStop: AUTH-13. Nothing that could be used again reaches the
// upstream, in whatever spelling and however often it was sent.
func TestCredentialsStop(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	const secret = "never-to-be-seen"
	t.Run("api", func(t *testing.T) {
		for _, head := range []string{
			apiHead("GET", "/demo/weather?X-Apig-AppCode="+secret+"&%78-apig-appcode="+secret, "Authorization: Bearer "+secret, "authorization: Basic "+secret),
			apiHead("GET", "/demo/weather", "x-apig-appcode: "+secret, "X-APIG-APPCODE: "+secret, "X_Apig_AppCode: "+secret),
			apiHead("GET", "/demo/weather", "X-Sdk-Date: "+secret, "x-sdk-date: "+secret, "X-Sdk-Content-Sha256: "+secret, "X-SDK-Nonce: "+secret, "X-Sdk-Anything: "+secret, "x_sdk_date: "+secret),
			apiHead("GET", "/demo/weather", "Proxy-Authorization: "+secret, "X-Proxy-Signed-Headers: "+secret),
			apiHead("GET", "/demo/weather", "Connection: x-apig-appcode, Authorization", "Authorization: Bearer "+secret),
		} {
			w := f.dial()
			w.send(head + "\n")
			r := w.reply("GET")
			if r.StatusCode != 200 {
				t.Fatalf("%d %s", r.StatusCode, r.body)
			}
			for _, s := range []string{secret, appCode} {
				if strings.Contains(r.body, s) {
					t.Errorf("%s\narrived: %s", head, r.body)
				}
			}
		}
		req := f.signed(apisign.Signer{}, "GET", "/signed/x", "")
		auth := req.Header.Get("Authorization")
		if r := f.send(req); strings.Contains(r.body, appKey) || strings.Contains(r.body, auth[len(auth)-64:]) || strings.Contains(r.body, "X-Sdk-Date") {
			t.Errorf("the signature arrived: %s", r.body)
		}
	})
	t.Run("llm", func(t *testing.T) {
		w := f.dial()
		w.send("GET /v1/echo?x-apig-appcode=" + secret + " HTTP/1.1\nHost: gw\nAuthorization: Bearer " + callKey + "\nauthorization: Bearer " + secret + "\nX-Api-Key: " + secret + "\nx-api-key: " + secret + "\nX_API_KEY: " + secret + "\n\n")
		r := w.reply("GET")
		if r.StatusCode != 200 || strings.Contains(r.body, secret) || strings.Contains(r.body, callKey) {
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
	})
	// What is no credential of ours goes through.
	w := f.dial()
	w.send(apiHead("GET", "/demo/weather", "X-Api-Key: theirs", "Cookie: a=1; b=2", "Cookie: c=3", "X-Sdk: theirs") + "\n")
	r := w.reply("GET")
	for _, s := range []string{`"X-Api-Key":["theirs"]`, "a=1; b=2; c=3", `"X-Sdk":["theirs"]`} {
		if !strings.Contains(r.body, s) {
			t.Errorf("%s did not arrive: %s", s, r.body)
		}
	}
}

// TestOurFields: what the gateway tells the upstream is not the client's to
// say.
func TestOurFields(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	forged := []string{
		"X-Request-Id: forged", "x-request-id: forged", "X_Request_Id: forged", "X-Customer-Id: forged", "X-Customer-Name: forged", "X_CUSTOMER_ID: forged",
		"X-Forwarded-For: forged", "X-Forwarded-Proto: forged", "X-Forwarded-Host: forged", "X-Forwarded-Port: forged", "X-Forwarded-Anything: forged",
		"X-Real-Ip: forged", "Forwarded: for=forged", "X-Tollgate-Charged: kept",
	}
	check := func(r reply, customer string) {
		t.Helper()
		if r.StatusCode != 200 || strings.Contains(r.body, "forged") {
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
		e := r.echo(t)
		want := map[string]string{
			"X-Request-Id": r.Header.Get("X-Request-Id"), "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http",
			"X-Forwarded-Host": "gw", "Via": "1.1 tollgate", "X-Customer-Id": customer,
		}
		for name, v := range want {
			if got := strings.Join(e.Headers[name], "|"); got != v {
				t.Errorf("%s: %q arrived, want %q", name, got, v)
			}
		}
		if len(r.Header.Get("X-Request-Id")) != 32 {
			t.Errorf("request id %q", r.Header.Get("X-Request-Id"))
		}
	}
	w := f.dial()
	w.send(apiHead("GET", "/demo/weather", forged...) + "\n")
	check(w.reply("GET"), "")
	w.send("GET /v1/echo HTTP/1.1\nHost: gw\nAuthorization: Bearer " + callKey + "\n" + lines(forged) + "\n")
	check(w.reply("GET"), "BUYER") // EXT-2
}

// TestUpstreamHeaders: the constant headers of an upstream replace the
// client's; X-Mock-* passes only where the product says so.
func TestUpstreamHeaders(t *testing.T) {
	t.Parallel()
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Products[2].ForwardMock = false
		s.Products[2].Upstreams[0].Headers = []directory.KV{
			{Name: "Authorization", Value: "Bearer upstream"}, {Name: "X-Tenant", Value: "ours"}, {Name: "Content-Type", Value: "text/x"}, {Name: "user-agent", Value: "gate"},
		}
	})
	w := f.dial()
	w.send(apiHead("POST", "/demo/weather", "x-tenant: theirs", "Content-Type: text/plain", "User-Agent: curl", "X-Mock-Status: 503", "x_mock_status: 503", "Content-Length: 2") + "\nok")
	r := w.reply("POST")
	if r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	e := r.echo(t)
	for name, want := range map[string]string{"Authorization": "Bearer upstream", "X-Tenant": "ours", "Content-Type": "text/x", "User-Agent": "gate", "X-Mock-Status": ""} {
		if got := strings.Join(e.Headers[name], "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if r := f.do("GET", "/signed", ""); r.StatusCode != 401 {
		t.Errorf("%d", r.StatusCode)
	}
	if r := f.send(f.signed(apisign.Signer{}, "GET", "/signed", "", "X-Mock-Status", "418")); r.StatusCode != http.StatusTeapot {
		t.Errorf("X-Mock-Status did not pass: %d", r.StatusCode)
	}
}
