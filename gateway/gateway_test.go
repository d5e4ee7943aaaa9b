package gateway_test

import (
	"strings"
	"testing"

	"tollgate/internal/usage"
)

const (
	hello       = `{"model":"demo-chat","messages":[{"role":"user","content":"hello"}]}`
	helloStream = `{"model":"demo-chat","stream":true,"messages":[{"role":"user","content":"hello"}]}`
)

func TestChat(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	r := f.chat(hello, "X-Mock-Tokens", "12,34")
	if r.StatusCode != 200 || !strings.Contains(r.body, `"chat.completion"`) {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	if got := r.Header.Get("X-Tollgate-Charged"); got != "call=1" {
		t.Errorf("X-Tollgate-Charged = %q", got)
	}
	rec := f.record(0)
	if rec.ID.String() != r.Header.Get("X-Request-Id") {
		t.Errorf("the record is %s, the answer %s", rec.ID, r.Header.Get("X-Request-Id"))
	}
	if rec.Units[usage.InputToken] != 12 || rec.Units[usage.OutputToken] != 34 || rec.Units[usage.Token] != 46 || rec.Units[usage.Call] != 1 {
		t.Errorf("units %v", rec.Units)
	}

	r = f.do("POST", "/v1/chat/completions", hello, "Authorization", "Bearer "+tokenKey, "X-Mock-Tokens", "12,34")
	if r.StatusCode != 200 || r.Header.Get("X-Tollgate-Charged") != "token=46;basis=upstream" {
		t.Errorf("%d %v %s", r.StatusCode, r.Header, r.body)
	}
}

func TestChatStream(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	r := f.chat(helloStream, "X-Mock-Tokens", "12,34", "X-Mock-Chunks", "5")
	if r.StatusCode != 200 || !strings.HasSuffix(r.body, "data: [DONE]\n\n") {
		t.Fatalf("%d %q", r.StatusCode, r.body)
	}
	if strings.Contains(r.body, `"choices":[]`) {
		t.Errorf("the usage chunk was not removed: %s", r.body)
	}
	if rec := f.record(0); rec.Units[usage.Token] != 46 || !rec.Has(usage.Streamed|usage.Counted) || rec.Has(usage.Incomplete) {
		t.Errorf("record %+v", rec)
	}
}

func TestAPIEcho(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	r := f.do("PUT", "/demo/weather/a/b?x=1&X-Apig-AppCode="+appCode, "body", "X-Custom", "1")
	if r.StatusCode != 200 || strings.Contains(r.body, appCode) || !strings.Contains(r.body, "/demo/weather/a/b") {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	f.record(0)
}
