package gateway_test

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/gateway"
	"tollgate/internal/apisign"
	"tollgate/internal/directory"
)

// TestMetrics: the families of design section 5, and that nothing a client can
// make up becomes a label.
func TestMetrics(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	for i := range 20 {
		odd := fmt.Sprintf("made-up-%d", i)
		f.chat(hello)
		f.chat(strings.ReplaceAll(hello, "demo-chat", odd))
		f.do("POST", "/v1/infers/"+odd+"/v1/chat/completions", hello, "Authorization", "Bearer "+callKey)
		f.do("POST", "/v1/"+odd, "x", "Authorization", "Bearer "+callKey)
		f.do("GET", "/v1/models/"+odd, "", "Authorization", "Bearer "+callKey)
		f.do("GET", "/"+odd, "")
		f.do("GET", "/demo/weather/"+odd, "", "X-Apig-AppCode", appCode)
		f.do("GET", "/demo/weather", "", "X-Apig-AppCode", odd)
		f.do(strings.ToUpper("X"+strings.ReplaceAll(odd, "-", "")), "/demo/weather", "", "X-Apig-AppCode", appCode)
		f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode, "X-Mock-Status", fmt.Sprint(400+i))
	}
	f.chat(helloStream)
	f.send(f.signed(apisign.Signer{}, "GET", "/signed", ""))
	f.do("POST", "/v1/embeddings", `{"model":"demo-chat","input":"x"}`, "Authorization", "Bearer "+tokenKey)

	families, err := f.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	values := map[string]map[string]bool{} // by label
	requests, overhead := 0.0, uint64(0)
	for _, fam := range families {
		names[fam.GetName()] = true
		for _, m := range fam.GetMetric() {
			if fam.GetName() == "tollgate_requests_total" {
				requests += m.GetCounter().GetValue()
			}
			if fam.GetName() == "tollgate_overhead_seconds" {
				overhead += m.GetHistogram().GetSampleCount()
			}
			for _, l := range m.GetLabel() {
				if values[l.GetName()] == nil {
					values[l.GetName()] = map[string]bool{}
				}
				values[l.GetName()][l.GetValue()] = true
				if strings.Contains(l.GetValue(), "made") {
					t.Errorf("%s has the label %s=%q", fam.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
	for _, want := range []string{
		"tollgate_requests_total", "tollgate_request_duration_seconds", "tollgate_overhead_seconds", "tollgate_upstream_duration_seconds", "tollgate_time_to_first_byte_seconds",
		"tollgate_units_charged_total", "tollgate_rejections_total", "tollgate_breaker_state", "tollgate_panics_total", "tollgate_settlement_failures_total",
		"tollgate_requests_in_flight", "tollgate_drains_in_flight", "tollgate_directory_version", "tollgate_directory_faults",
		"gen_ai_server_request_duration_seconds", "gen_ai_server_time_to_first_token_seconds", "gen_ai_client_token_usage",
	} {
		if !names[want] {
			t.Errorf("there is no %s", want)
		}
	}
	if requests != 20*10+3 || overhead != 20*10+3 {
		t.Errorf("%v requests and %d overheads were counted", requests, overhead)
	}
	for label, want := range map[string][]string{
		"product": {"P-API", "P-CALL", "P-SIGNED", "P-TOKEN", "none"},
		"api":     {"/demo/weather", "/signed", "chat.completions", "embeddings", "models", "other"},
		"auth":    {"apikey", "appcode", "none", "signature"},
	} {
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(values[label]))); diff != "" {
			t.Errorf("label %s: %s", label, diff)
		}
	}
	if n := gauge(t, f.reg, "tollgate_requests_in_flight"); n != 0 {
		t.Errorf("%v requests in flight", n)
	}
	if n := gauge(t, f.reg, "tollgate_directory_version"); n != 1 {
		t.Errorf("directory version %v", n)
	}
}

// TestNothingSecretIsLogged: at every level, whatever fails.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	const prompt = "the-secret-prompt"
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Products[2].Upstreams[0].Headers = []directory.KV{{Name: "X-Upstream-Key", Value: "upstream-secret"}}
	})
	body := strings.ReplaceAll(hello, "hello", prompt)
	stream := strings.ReplaceAll(helloStream, "hello", prompt)
	f.chat(body)
	f.chat(stream)
	f.chat(body + "}")
	f.chat(strings.ReplaceAll(body, "demo-chat", prompt))
	for _, brk := range []string{"start", "0", "5", "5;rst"} {
		f.chat(body, "X-Mock-Break", brk)
		_, _ = f.broken(stream, "X-Mock-Break", brk)
		w := f.dial()
		w.send(apiHead("GET", "/demo/weather?q="+prompt, "X-Mock-Break: "+brk, "Connection: close") + "\n")
		_, _ = io.Copy(io.Discard, w.br)
	}
	f.do("POST", "/v1/chat/completions", body, "Authorization", "Bearer sk-bad-secret")
	f.do("POST", "/v1/chat/completions", body, "X-Api-Key", "sk-bad-secret")
	f.do("GET", "/demo/weather?X-Apig-AppCode=bad-code-secret", "")
	f.do("GET", "/demo/weather", "", "X-Apig-AppCode", "bad-code-secret")
	var signatures []string
	for _, s := range []apisign.Signer{{}, {Key: appKey, Secret: "wrong-secret"}, {Key: "unknown-key-0123456789", Secret: "wrong-secret"}, {Now: func() time.Time { return time.Unix(0, 0) }}} {
		req := f.signed(s, "POST", "/signed", body)
		auth := req.Header.Get("Authorization")
		signatures = append(signatures, auth[len(auth)-64:])
		f.send(req)
	}
	for _, text := range []string{"GET /demo/weather?X-Apig-AppCode=" + appCode + " HTTP/1.1\nAuthorization: Bearer " + callKey + "\n\n", "GARBAGE " + appCode + "\n\n", "GET / HTTP/1.1\nHost: a\nAuthorization: Bearer " + callKey + "\x00\n\n", "POST /demo/weather HTTP/1.1\nHost: a\nX-Apig-AppCode: " + appCode + "\nTransfer-Encoding: chunked\n\nzz" + prompt + "\n"} {
		w := f.dial()
		w.send(text)
		w.reply("GET")
	}
	f.onAdmit = func() { panic("a panic in the test") }
	f.chat(body)
	f.onAdmit = nil
	f.admitErr = fmt.Errorf("quota: broken")
	f.chat(body)

	logs := f.logs.String()
	if !strings.Contains(logs, "quota: broken") || !strings.Contains(logs, "a panic in the test") || !strings.Contains(logs, "level=DEBUG") {
		t.Fatalf("the logs were not captured: %s", logs)
	}
	secrets := append([]string{prompt, callKey, tokenKey, appKey, appSecret, appCode, pepper, "sk-bad-secret", "bad-code-secret", "wrong-secret", "unknown-key-0123456789", "upstream-secret"}, signatures...)
	for _, s := range secrets {
		if i := strings.Index(logs, s); i >= 0 {
			t.Errorf("%q was logged: …%s…", s, logs[max(0, i-200):min(len(logs), i+200)])
		}
	}
}
