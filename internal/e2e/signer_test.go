package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/basic"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/signer"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/def"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/request"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/sdkerr"

	"tollgate/internal/testkit/node"
	"tollgate/internal/testkit/process"
	"tollgate/internal/testkit/tollgate"
)

// echoed is what the demo's API product answers: the request as the upstream
// saw it.
type echoed struct {
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Query   string              `json:"query"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"`
}

// checkStripped fails the test when a credential reached the upstream
// (AUTH-13).
func checkStripped(t *testing.T, api tollgate.API, seen echoed) {
	t.Helper()
	all, err := json.Marshal(seen)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{api.AppKey, api.AppSecret, api.AppCode, "Authorization", "Appcode", "X-Sdk-Date"} {
		if strings.Contains(string(all), secret) {
			t.Errorf("the upstream saw %s: %s", secret, all)
		}
	}
}

// vendorRequest signs a request with the vendor's low-level signer for Go and
// returns it as net/http sends it.
func vendorRequest(t *testing.T, api tollgate.API, build func(b *request.HttpRequestBuilder)) *http.Request {
	t.Helper()
	b := request.NewHttpRequestBuilder().WithEndpoint(origin(t, api.URL)).WithPath(path(t, api.URL)).WithMethod(http.MethodGet)
	build(b)
	r := b.Build()
	headers, err := signer.Sign(r, api.AppKey, api.AppSecret)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		r.AddHeaderParam(name, value)
	}
	req, err := r.ConvertRequest()
	if err != nil {
		t.Fatal(err)
	}
	return req.WithContext(t.Context())
}

func origin(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Scheme + "://" + u.Host
}

func path(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Path
}

// TestVendorSignerForGo proves that the vendor's own signer signs calls that
// pass, and that nothing else passes (AUTH-1 and following).
func TestVendorSignerForGo(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	api := n.Demo.API
	post := func(b *request.HttpRequestBuilder) {
		b.WithMethod(http.MethodPost).WithPath(path(t, api.URL)+"/any/thing").
			AddQueryParam("b", "2").AddQueryParam("a", "1 + 1").AddQueryParam("zh", "中文").
			AddHeaderParam("Content-Type", "application/json").AddHeaderParam("X-Stage", "RELEASE").WithBody("", `{"city":"东莞"}`)
	}
	for _, tc := range []struct {
		name   string
		build  func(b *request.HttpRequestBuilder)
		tamper func(r *http.Request)
		status int
	}{
		{name: "get", build: func(*request.HttpRequestBuilder) {}, status: 200},
		{name: "post with query and body", build: post, status: 200},
		{name: "unsigned payload, as the signer chooses for text", build: func(b *request.HttpRequestBuilder) {
			b.WithMethod(http.MethodPost).AddHeaderParam("Content-Type", "text/plain").WithBody("", "hello")
		}, status: 200},
		{name: "body changed", build: post, tamper: func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(`{"city":"北京"}`)), int64(len(`{"city":"北京"}`))
		}, status: 401},
		{name: "query changed", build: post, tamper: func(r *http.Request) { r.URL.RawQuery += "&c=3" }, status: 401},
		{name: "path changed", build: post, tamper: func(r *http.Request) { r.URL.Path += "/else" }, status: 401},
		{name: "method changed", build: func(*request.HttpRequestBuilder) {}, tamper: func(r *http.Request) { r.Method = http.MethodDelete }, status: 401},
		{name: "signed header changed", build: post, tamper: func(r *http.Request) { r.Header.Set("X-Stage", "TEST") }, status: 401},
		{name: "signed header removed", build: post, tamper: func(r *http.Request) { r.Header.Del("X-Stage") }, status: 401},
		{name: "date changed", build: post, tamper: func(r *http.Request) {
			r.Header.Set("X-Sdk-Date", time.Now().Add(time.Minute).UTC().Format(signer.BasicDateFormat))
		}, status: 401},
		{name: "stale date", build: func(b *request.HttpRequestBuilder) {
			b.AddHeaderParam("X-Sdk-Date", time.Now().Add(-16*time.Minute).UTC().Format(signer.BasicDateFormat))
		}, status: 401},
		{name: "unknown key", build: func(*request.HttpRequestBuilder) {}, tamper: func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), api.AppKey, strings.Repeat("0", len(api.AppKey)), 1))
		}, status: 401},
		{name: "no credentials", build: func(*request.HttpRequestBuilder) {}, tamper: func(r *http.Request) { r.Header.Del("Authorization") }, status: 401},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := vendorRequest(t, api, tc.build)
			if tc.tamper != nil {
				tc.tamper(req)
			}
			resp, body := send(t, http.DefaultClient, req)
			if resp.StatusCode != tc.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, tc.status, body)
			}
			if tc.status != http.StatusOK {
				checkAPIGError(t, resp, body, "APIGW.0303")
				return
			}
			var seen echoed
			if err := json.Unmarshal(body, &seen); err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			checkStripped(t, api, seen)
		})
	}
	waitUsed(t, n, api.SubscriptionID, 3)
}

// checkAPIGError fails the test unless an answer is the gateway's error
// envelope of API products with the given code and its own request id.
func checkAPIGError(t *testing.T, resp *http.Response, body []byte, code string) {
	t.Helper()
	var e struct {
		Code      string `json:"error_code"`
		Message   string `json:"error_msg"`
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if e.Code != code || e.Message == "" || e.RequestID == "" || e.RequestID != resp.Header.Get("X-Request-Id") {
		t.Errorf("error %s with X-Request-Id %q, want code %s", body, resp.Header.Get("X-Request-Id"), code)
	}
}

type weatherRequest struct {
	City string       `json:"city"`
	Body *weatherBody `json:"body,omitempty"`
}

type weatherBody struct {
	Days int `json:"days"`
}

type weatherResponse struct {
	Method         string `json:"method"`
	Query          string `json:"query"`
	Body           string `json:"body"`
	HttpStatusCode int    `json:"-"`
}

// TestVendorClientForGo proves that the vendor's high-level client, which
// neither signs host nor content-type, works against the demo's API.
func TestVendorClientForGo(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 2})
	api := n.Demo.API
	client := func(secret string) *core.HcHttpClient {
		credentials, err := basic.NewCredentialsBuilder().WithAk(api.AppKey).WithSk(secret).WithProjectId("tollgate").SafeBuild()
		if err != nil {
			t.Fatal(err)
		}
		c, err := core.NewHcHttpClientBuilder().WithEndpoint(origin(t, api.URL)).WithCredential(credentials).SafeBuild()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	call := func(c *core.HcHttpClient, method string, in *weatherRequest) (*weatherResponse, error) {
		definition := def.NewHttpRequestDefBuilder().WithMethod(method).WithPath(path(t, api.URL) + "/any").WithResponse(new(weatherResponse)).
			WithRequestField(def.NewFieldDef().WithName("City").WithJsonTag("city").WithLocationType(def.Query))
		if in.Body != nil {
			definition.WithContentType("application/json").WithRequestField(def.NewFieldDef().WithName("Body").WithLocationType(def.Body))
		}
		out, err := c.Sync(in, definition.Build())
		if err != nil {
			return nil, err
		}
		return out.(*weatherResponse), nil
	}
	good := client(api.AppSecret)
	if got, err := call(good, http.MethodGet, &weatherRequest{City: "Dongguan"}); err != nil || got.Method != "GET" || got.Query != "city=Dongguan" {
		t.Errorf("GET: %+v, %v", got, err)
	}
	if got, err := call(good, http.MethodPost, &weatherRequest{City: "东莞", Body: &weatherBody{Days: 3}}); err != nil || got.Method != "POST" || strings.TrimSpace(got.Body) != `{"days":3}` {
		t.Errorf("POST: %+v, %v", got, err)
	}
	for _, tc := range []struct {
		name   string
		client *core.HcHttpClient
		status int
		code   string
	}{
		{name: "wrong secret", client: client("not-the-secret"), status: 401, code: "APIGW.0303"},
		{name: "used-up package", client: good, status: 405, code: "APIGW.0501"},
	} {
		_, err := call(tc.client, http.MethodGet, &weatherRequest{City: "Dongguan"})
		var failed *sdkerr.ServiceResponseError
		if !errors.As(err, &failed) || failed.StatusCode != tc.status || failed.ErrorCode != tc.code || failed.RequestId == "" {
			t.Errorf("%s: %v, want %d %s with a request id", tc.name, err, tc.status, tc.code)
		}
	}
	waitUsed(t, n, api.SubscriptionID, 2)
}

// TestVendorClientForNode proves the same of the vendor's SDK for Node.js,
// which signs content-type and host.
func TestVendorClientForNode(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	type answer struct {
		Status  int    `json:"status"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	var got map[string]answer
	node.Run(t, "huawei.mjs", map[string]string{"url": n.Demo.API.URL, "app_key": n.Demo.API.AppKey, "app_secret": n.Demo.API.AppSecret}, &got)
	for _, name := range []string{"get", "query", "post"} {
		if got[name].Status != http.StatusOK {
			t.Errorf("%s: %+v", name, got[name])
		}
	}
	if wrong := got["wrong_secret"]; wrong.Status != 401 || wrong.Code != "APIGW.0303" {
		t.Errorf("wrong secret: %+v, want 401 APIGW.0303", wrong)
	}
	waitUsed(t, n, n.Demo.API.SubscriptionID, 3)
}

// TestAppCode holds simple authentication: header or query, https only
// (AUTH-6), never a way out for a failed signature (AUTH-12).
func TestAppCode(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	api := n.Demo.API
	for _, tc := range []struct {
		name    string
		url     string
		headers steer
		status  int
	}{
		{name: "header", url: api.HTTPSURL, headers: steer{"X-Apig-AppCode": api.AppCode}, status: 200},
		{name: "query", url: api.HTTPSURL + "?x=1&X-Apig-AppCode=" + url.QueryEscape(api.AppCode), status: 200},
		{name: "wrong code", url: api.HTTPSURL, headers: steer{"X-Apig-AppCode": strings.Repeat("0", 64)}, status: 401},
		{name: "over http", url: api.URL, headers: steer{"X-Apig-AppCode": api.AppCode}, status: 401},
		{name: "beside a failed signature", url: api.HTTPSURL, headers: steer{
			"X-Apig-AppCode": api.AppCode, "X-Sdk-Date": time.Now().UTC().Format(signer.BasicDateFormat),
			"Authorization": "SDK-HMAC-SHA256 Access=" + api.AppKey + ", SignedHeaders=x-sdk-date, Signature=" + strings.Repeat("0", 64),
		}, status: 401},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, body := send(t, insecure, newRequest(t, tc.url, "", tc.headers))
			if resp.StatusCode != tc.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, tc.status, body)
			}
			if tc.status != http.StatusOK {
				checkAPIGError(t, resp, body, "APIGW.0303")
				return
			}
			var seen echoed
			if err := json.Unmarshal(body, &seen); err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			checkStripped(t, api, seen)
		})
	}
	waitUsed(t, n, api.SubscriptionID, 2)
}

// TestSignCommand pastes what `tollgate sign` prints into a shell.
func TestSignCommand(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	process.Find(t, "curl", "curl")
	signed, exit := tollgate.Run(t, settleLimit, "sign", "--demo", filepath.Join(n.Dir(), "demo.json"), "-d", `{"city":"东莞"}`)
	if exit != 0 || !strings.HasPrefix(signed.Stdout(), "curl ") {
		t.Fatalf("tollgate sign ended with %d: %s", exit, signed.Output())
	}
	line := strings.Replace(strings.TrimSpace(signed.Stdout()), "curl ", "curl -sS --fail-with-body ", 1)
	called, exit := process.Run(t, time.Minute, process.Spec{Path: "/bin/sh", Args: []string{"-c", line}, Dir: t.TempDir()})
	var seen echoed
	if err := json.Unmarshal([]byte(called.Stdout()), &seen); err != nil || exit != 0 || seen.Method != http.MethodPost || seen.Body != `{"city":"东莞"}` {
		t.Fatalf("%s\nended with %d, %v: %s", line, exit, err, called.Output())
	}
	checkStripped(t, n.Demo.API, seen)
}
