package signtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/basic"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/signer"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/config"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/def"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/request"

	"tollgate/internal/apisign"
)

const (
	key    = "testAppKey0123456789abcdef"
	secret = "testAppSecret-9876543210"
)

// vendorCall builds and signs a request with the low level of the vendor's Go
// SDK and returns it ready to send.
func vendorCall(t *testing.T, b *request.HttpRequestBuilder, ak, sk string) *http.Request {
	t.Helper()
	req := b.Build()
	headers, err := signer.Sign(req, ak, sk)
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
	return out.WithContext(t.Context())
}

// send sends req and returns the server's answer and its verdict.
func send(t *testing.T, s *Server, req *http.Request) (Answer, error) {
	t.Helper()
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a Answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if want := s.LastError() == nil; a.OK != want || (resp.StatusCode == http.StatusOK) != want {
		t.Errorf("answer %d %+v, verdict %v", resp.StatusCode, a, s.LastError())
	}
	return a, s.LastError()
}

// TestVendorSigner: what the low-level signer of the vendor's SDK signs passes
// (gateway-wire 1.4).
func TestVendorSigner(t *testing.T) {
	t.Parallel()
	s := New(t, key, secret)
	for _, tt := range []struct {
		name  string
		build func(b *request.HttpRequestBuilder)
		names string // the client's own list
	}{
		{"no host", func(b *request.HttpRequestBuilder) { b.WithMethod("GET").WithPath("/v1/hello") }, "x-sdk-date"},
		{"root", func(b *request.HttpRequestBuilder) { b.WithMethod("GET").WithPath("/") }, "x-sdk-date"},
		{"no path", func(b *request.HttpRequestBuilder) { b.WithMethod("GET") }, "x-sdk-date"},
		{"host signed", func(b *request.HttpRequestBuilder) {
			b.WithMethod("GET").WithPath("/v1/hello").AddHeaderParam("host", strings.TrimPrefix(s.URL, "http://"))
		}, "host;x-sdk-date"},
		{"query of all kinds", func(b *request.HttpRequestBuilder) {
			b.WithMethod("GET").WithPath("/q").
				AddQueryParam("b", reflect.ValueOf("2")).
				AddQueryParam("a", reflect.ValueOf([]string{"1", "0", "中文", "a b", "a+b"})).
				AddQueryParam("F", reflect.ValueOf(true)).
				AddQueryParam("empty", reflect.ValueOf("")).
				AddQueryParam("sl", reflect.ValueOf("a/b+c?d=e&f;g")).
				AddQueryParam("m", reflect.ValueOf(map[string]string{"x": "y z"}))
		}, "x-sdk-date"},
		{"json body", func(b *request.HttpRequestBuilder) {
			b.WithMethod("POST").WithPath("/p").AddHeaderParam("Content-Type", "application/json").WithBody("", map[string]any{"m": "<中>"})
		}, "x-sdk-date"},
		{"string body", func(b *request.HttpRequestBuilder) {
			b.WithMethod("PUT").WithPath("/p").AddHeaderParam("Content-Type", "application/json").WithBody("", "plain text")
		}, "x-sdk-date"},
		{"body of another type is declared unsigned by the SDK", func(b *request.HttpRequestBuilder) {
			b.WithMethod("POST").WithPath("/p").AddHeaderParam("Content-Type", "text/plain").WithBody("", "hello")
		}, "x-sdk-content-sha256;x-sdk-date"},
		{"own headers, one with an underscore", func(b *request.HttpRequestBuilder) {
			b.WithMethod("DELETE").WithPath("/p/1").AddHeaderParam("X-Stage", "RELEASE").AddHeaderParam("X-Name", " 天气  now ").AddHeaderParam("x_y", "z")
		}, "x-name;x-sdk-date;x-stage"},
		{"path with Chinese, blanks and marks", func(b *request.HttpRequestBuilder) {
			b.WithMethod("GET").WithPath("/v1/天气/a b/(c):d@e,f;g=h&i+j!k'l*m~n")
		}, "x-sdk-date"},
		{"path with an escape in it", func(b *request.HttpRequestBuilder) { b.WithMethod("GET").WithPath("/v1/a%2Fb%20c") }, "x-sdk-date"},
		{"path with a slash at the end and doubled", func(b *request.HttpRequestBuilder) { b.WithMethod("GET").WithPath("/v1//a/") }, "x-sdk-date"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := request.NewHttpRequestBuilder().WithEndpoint(s.URL)
			tt.build(b)
			a, err := send(t, s, vendorCall(t, b, key, secret))
			if err != nil {
				t.Fatalf("%v\n%+v", err, a)
			}
			if a.SignedHeaders != tt.names || a.Access != key {
				t.Errorf("signed %s by %s, want %s", a.SignedHeaders, a.Access, tt.names)
			}
		})
	}
}

// TestVendorTampering changes one thing of a call of the vendor's signer on
// its way and expects the error that names it.
func TestVendorTampering(t *testing.T) {
	t.Parallel()
	s := New(t, key, secret)
	for _, tt := range []struct {
		name   string
		tamper func(r *http.Request)
		want   error
	}{
		{"body", func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"m":"X"}` + "\n")) }, apisign.ErrMismatch},
		{"header", func(r *http.Request) { r.Header.Set("X-Stage", "TEST") }, apisign.ErrMismatch},
		{"header removed", func(r *http.Request) { r.Header.Del("X-Stage") }, apisign.ErrHeaderMissing},
		{"header added twice", func(r *http.Request) { r.Header.Add("X-Stage", "RELEASE") }, apisign.ErrMismatch},
		{"query", func(r *http.Request) { r.URL.RawQuery = "a=2" }, apisign.ErrMismatch},
		{"query added", func(r *http.Request) { r.URL.RawQuery += "&b=1" }, apisign.ErrMismatch},
		{"path", func(r *http.Request) { r.URL.Path = "/other" }, apisign.ErrMismatch},
		{"method", func(r *http.Request) { r.Method = "PUT" }, apisign.ErrMismatch},
		{"date", func(r *http.Request) {
			d, err := time.Parse(apisign.DateLayout, r.Header.Get(apisign.HeaderDate))
			if err != nil {
				panic(err)
			}
			r.Header.Set(apisign.HeaderDate, d.Add(-time.Second).Format(apisign.DateLayout))
		}, apisign.ErrMismatch},
		{"date removed", func(r *http.Request) { r.Header.Del(apisign.HeaderDate) }, apisign.ErrDateMissing},
		{"authorization removed", func(r *http.Request) { r.Header.Del(apisign.HeaderAuthorization) }, ErrUnsigned},
		{"authorization doubled", func(r *http.Request) {
			r.Header.Add(apisign.HeaderAuthorization, r.Header.Get(apisign.HeaderAuthorization))
		}, apisign.ErrMalformed},
		{"payload declared unsigned", func(r *http.Request) {
			r.Header.Set(apisign.HeaderContentSHA256, apisign.UnsignedPayload)
			r.Body = io.NopCloser(strings.NewReader(`{"m":"X"}` + "\n"))
		}, apisign.ErrMismatch},
		{"hash of another body claimed", func(r *http.Request) {
			r.Header.Set(apisign.HeaderContentSHA256, strings.Repeat("0", 64))
		}, apisign.ErrBodyHash},
		{"dot segments", func(r *http.Request) { r.URL.Path = "/x/../p" }, apisign.ErrPath},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := request.NewHttpRequestBuilder().WithEndpoint(s.URL).WithMethod("POST").WithPath("/p").
				AddQueryParam("a", reflect.ValueOf("1")).AddHeaderParam("X-Stage", "RELEASE").
				AddHeaderParam("Content-Type", "application/json").WithBody("", map[string]any{"m": "m"})
			req := vendorCall(t, b, key, secret)
			tt.tamper(req)
			if _, err := send(t, s, req); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}

	call := func(ak, sk string) error {
		b := request.NewHttpRequestBuilder().WithEndpoint(s.URL).WithMethod("GET").WithPath("/p")
		_, err := send(t, s, vendorCall(t, b, ak, sk))
		return err
	}
	if err := call(key, "another secret"); !errors.Is(err, apisign.ErrMismatch) {
		t.Errorf("another secret: %v", err)
	}
	if err := call("anotherKey", secret); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("unknown key: %v", err)
	}
	b := request.NewHttpRequestBuilder().WithEndpoint(s.URL).WithMethod("GET").WithPath("/p").
		AddHeaderParam("X-Sdk-Date", time.Now().Add(-16*time.Minute).UTC().Format(apisign.DateLayout))
	if _, err := send(t, s, vendorCall(t, b, key, secret)); !errors.Is(err, apisign.ErrExpired) {
		t.Errorf("stale date: %v", err)
	}
}

// The request types of a generated SDK, as HcHttpClient wants them.
type (
	callBody struct {
		Text string `json:"text"`
	}
	callRequest struct {
		City  string    `json:"city"`
		Tags  *[]string `json:"tags,omitempty"`
		Trace *string   `json:"X-Trace,omitempty"`
		Body  *callBody `json:"body,omitempty"`
	}
	callResponse struct {
		OK             bool   `json:"ok"`
		SignedHeaders  string `json:"signed_headers"`
		Error          string `json:"error"`
		HttpStatusCode int    `json:"-"`
	}
)

// TestVendorHighLevel: the vendor's HcHttpClient, from credential to decoded
// answer.
func TestVendorHighLevel(t *testing.T) {
	t.Parallel()
	s := New(t, key, secret)
	credential := func(ak, sk string) *basic.Credentials {
		c, err := basic.NewCredentialsBuilder().WithAk(ak).WithSk(sk).WithProjectId("p1").SafeBuild()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	client := func(ak, sk string, tamper func(*http.Request)) *core.HcHttpClient {
		cfg := config.DefaultHttpConfig()
		if tamper != nil {
			cfg = cfg.WithHttpRoundTripper(tampering(tamper))
		}
		c, err := core.NewHcHttpClientBuilder().WithEndpoint(s.URL).WithCredential(credential(ak, sk)).WithHttpConfig(cfg).SafeBuild()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	fields := func() *def.HttpRequestDef {
		return def.NewHttpRequestDefBuilder().WithMethod(http.MethodPost).WithPath("/v1/{city}/weather").
			WithResponse(new(callResponse)).WithContentType("application/json;charset=UTF-8").
			WithRequestField(def.NewFieldDef().WithName("City").WithJsonTag("city").WithLocationType(def.Path)).
			WithRequestField(def.NewFieldDef().WithName("Tags").WithJsonTag("tags").WithLocationType(def.Query)).
			WithRequestField(def.NewFieldDef().WithName("Trace").WithJsonTag("X-Trace").WithLocationType(def.Header)).
			WithRequestField(def.NewFieldDef().WithName("Body").WithLocationType(def.Body)).Build()
	}
	tags, trace := []string{"b", "a", "中 文"}, "trace-1"
	in := &callRequest{City: "北京", Tags: &tags, Trace: &trace, Body: &callBody{Text: "<hi> & 天气"}}

	resp, err := client(key, secret, nil).Sync(in, fields())
	if err != nil {
		t.Fatal(err)
	}
	got := resp.(*callResponse)
	if !got.OK || got.SignedHeaders != "user-agent;x-project-id;x-sdk-date;x-trace" {
		t.Errorf("%+v", got)
	}

	get := def.NewHttpRequestDefBuilder().WithMethod(http.MethodGet).WithPath("/v1/hello").WithResponse(new(callResponse)).Build()
	resp, err = client(key, secret, nil).Sync(&struct{}{}, get)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.(*callResponse); !got.OK || got.SignedHeaders != "user-agent;x-project-id;x-sdk-date" {
		t.Errorf("%+v", got)
	}

	for _, tt := range []struct {
		name   string
		ak, sk string
		tamper func(*http.Request)
		want   error
	}{
		{"another secret", key, "another secret", nil, apisign.ErrMismatch},
		{"unknown key", "anotherKey", secret, nil, ErrUnknownKey},
		{"body", key, secret, func(r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				panic(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(bytes.Replace(b, []byte("hi"), []byte("ho"), 1)))
		}, apisign.ErrMismatch},
		{"user agent", key, secret, func(r *http.Request) { r.Header.Set("User-Agent", "x") }, apisign.ErrMismatch},
		{"query", key, secret, func(r *http.Request) { r.URL.RawQuery += "&tags=c" }, apisign.ErrMismatch},
		{"stale date", key, secret, func(r *http.Request) { r.Header.Set("X-Sdk-Date", "20200101T000000Z") }, apisign.ErrExpired},
		{"date", key, secret, func(r *http.Request) {
			r.Header.Set("X-Sdk-Date", time.Now().Add(-time.Minute).UTC().Format(apisign.DateLayout))
		}, apisign.ErrMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := client(tt.ak, tt.sk, tt.tamper).Sync(in, fields()); err == nil {
				t.Error("the client sees no error")
			}
			if err := s.LastError(); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// tampering is a transport that changes requests after they were signed.
type tampering func(*http.Request)

func (f tampering) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	f(r)
	return http.DefaultTransport.RoundTrip(r)
}

// TestOwnSigner: our signer against the same server, through a real client.
func TestOwnSigner(t *testing.T) {
	t.Parallel()
	s := New(t, key, secret)
	sign := apisign.Signer{Key: key, Secret: secret}
	for _, tt := range []struct {
		name, method, target, body string
		header                     http.Header
		signer                     *apisign.Signer
		names                      string
	}{
		{name: "get", method: "GET", target: "/a%2Fb?q=a+b&r", names: "host;x-sdk-date"},
		{
			name: "post", method: "POST", target: "/天 气", body: "hello", header: http.Header{"Content-Type": {"text/plain"}, "X-Two": {"b", "a"}, "X_y": {"z"}},
			names: "content-type;host;x-sdk-date;x-two",
		},
		{
			name: "unsigned", method: "POST", target: "/", body: "hello", signer: &apisign.Signer{Key: key, Secret: secret, UnsignedPayload: true},
			names: "host;x-sdk-content-sha256;x-sdk-date",
		},
		{
			name: "own list", method: "POST", target: "/", body: "hello", header: http.Header{"X-A": {"1"}, "X-B": {"2"}},
			signer: &apisign.Signer{Key: key, Secret: secret, Headers: []string{"X-B"}}, names: "host;x-b;x-sdk-date",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := url.Parse(s.URL + tt.target)
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequestWithContext(t.Context(), tt.method, u.String(), strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			for k, v := range tt.header {
				req.Header[k] = v
			}
			if tt.signer == nil {
				tt.signer = &sign
			}
			if err := tt.signer.Sign(req); err != nil {
				t.Fatal(err)
			}
			a, err := send(t, s, req)
			if err != nil || a.SignedHeaders != tt.names || a.BodyBytes != len(tt.body) {
				t.Errorf("%v %+v", err, a)
			}
		})
	}
	for name, bad := range map[string]*apisign.Signer{
		"no key": {Secret: "s"}, "no secret": {Key: "k"}, "impossible key": {Key: "a b", Secret: "s"},
		"absent header": {Key: "k", Secret: "s", Headers: []string{"x-none"}},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := bad.Sign(req); err == nil || req.Header.Get("Authorization") != "" {
			t.Errorf("%s: signs", name)
		}
	}
}
