package gateway_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// TestSettledBeforeTheEnd: whoever has the end of an answer was charged for it.
// While settling blocks, everything but the end arrives.
func TestSettledBeforeTheEnd(t *testing.T) {
	t.Parallel()
	terminal := "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":12,\"output_tokens\":34,\"total_tokens\":46}}}\n\n"
	for _, tt := range []struct {
		name, path, body string
		events           []string
		before           string // what arrives while settling blocks
		all              string
	}{
		{"chat", "/v1/chat/completions", helloStream, []string{textChunk(0), textChunk(1) + usageChunk + "data: [DONE]\n", "\n"}, textChunk(0), textChunk(0) + textChunk(1) + doneEvent},
		{"chat, the end by itself", "/v1/chat/completions", helloStream, []string{textChunk(0), usageChunk, doneEvent}, textChunk(0), textChunk(0) + doneEvent},
		{"responses", "/v1/responses", `{"model":"demo-chat","stream":true,"input":"x"}`, []string{"data: {\"type\":\"response.created\"}\n\n", terminal}, "data: {\"type\":\"response.created\"}\n\n", "data: {\"type\":\"response.created\"}\n\n" + terminal},
		{"no end of its own", "/v1/rerank", `{}`, []string{"data: {}\n\n", "data: {\"x\":1}\n\n"}, "data: {}\n\ndata: {\"x\":1}\n\n", "data: {}\n\ndata: {\"x\":1}\n\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := startAt(t, sse(t, tt.events, nil), nil)
			entered, leave := make(chan struct{}), make(chan struct{})
			f.onSettle = func(*usage.Record) {
				close(entered)
				<-leave
			}
			w := f.dial()
			w.raw("POST " + tt.path + " HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer " + tokenKey + "\r\nContent-Length: " + itoa(len(tt.body)) + "\r\n\r\n" + tt.body)
			resp, err := http.ReadResponse(w.br, nil)
			if err != nil {
				t.Fatal(err)
			}
			await(t, entered, "the settlement")
			b := make([]byte, len(tt.before))
			if _, err := readFull(resp.Body, b); err != nil || string(b) != tt.before {
				t.Fatalf("%q %v", b, err)
			}
			_ = w.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if c, err := w.br.ReadByte(); err == nil {
				t.Errorf("%q came before the call was settled", c)
			}
			_ = w.SetReadDeadline(time.Now().Add(patience))
			close(leave)
			// The reader has failed once by the deadline; read on below it.
			rest := ""
			for !strings.HasSuffix("\r\n"+rest, "\r\n0\r\n\r\n") {
				c, err := w.br.ReadByte()
				if err != nil {
					t.Fatalf("%q %v", rest, err)
				}
				rest += string(c)
			}
			if want := strings.TrimPrefix(tt.all, tt.before); !strings.Contains(unchunk(rest), want) {
				t.Errorf("the rest is %q, want %q", rest, want)
			}
		})
	}
}

// TestSettleFails: a call that cannot be recorded is not given away: a plain
// answer becomes an error, a stream ends without its end.
func TestSettleFails(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"error", "panic"} {
		f := start(t, nil)
		f.settleErr = errors.New("disk full")
		if mode == "panic" {
			f.settleErr = nil
			f.onSettle = func(*usage.Record) { panic("disk on fire") }
		}
		if r := f.chat(hello); r.StatusCode != 503 || r.openAI(t).Code != "not_recordable" || r.Header.Get("X-Tollgate-Charged") != "" || strings.Contains(r.body, "chat.completion") {
			t.Errorf("%s: %d %v %s", mode, r.StatusCode, r.Header, r.body)
		}
		if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 503 || r.code(t) != "APIGW.0606" {
			t.Errorf("%s: %d %s", mode, r.StatusCode, r.body)
		}
		if r := f.do("DELETE", "/demo/weather", "", "X-Apig-AppCode", appCode, "X-Mock-Status", "204"); r.StatusCode != 503 {
			t.Errorf("%s: %d %s", mode, r.StatusCode, r.body)
		}
		for _, header := range [][]string{nil, {"X-Mock-Quirk", "no_done"}, {"X-Mock-Quirk", "crlf"}} {
			text, err := f.broken(helloStream, header...)
			if err == nil || strings.Contains(text, "[DONE]") || !strings.Contains(text, `"code":"not_recordable"`) {
				t.Errorf("%s: a stream ended with %v: %q", mode, err, text)
			}
		}
		// A large plain answer is under way when it fails: it breaks.
		f2 := start(t, nil)
		f2.onSettle, f2.settleErr = f.onSettle, f.settleErr
		resp, err := f2.client.Get(f2.url + "/demo/weather/x?X-Apig-AppCode=" + appCode)
		if err == nil {
			_ = resp.Body.Close()
		}
		// What does not count is answered all the same.
		if r := f.chat(hello, "X-Mock-Status", "404"); r.StatusCode != 404 {
			t.Errorf("%s: %d %s", mode, r.StatusCode, r.body)
		}
		f.idle()
		if n := gauge(t, f.reg, "tollgate_settlement_failures_total"); n < 6 {
			t.Errorf("%s: %v failures counted", mode, n)
		}
		if n := gauge(t, f.reg, "tollgate_panics_total"); (n > 0) != (mode == "panic") {
			t.Errorf("%s: %v panics counted", mode, n)
		}
		if f.records != nil {
			t.Errorf("%s: %d records", mode, len(f.records))
		}
	}
}

// TestLargeAnswerFailsToSettle: the last byte of an answer that is relayed as it
// comes does not leave either.
func TestLargeAnswerFailsToSettle(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 100_000)
	f := startAt(t, answering(t, "HTTP/1.1 200 OK\nContent-Length: 100000\n\n"+big), nil)
	f.settleErr = errors.New("disk full")
	w := f.dial()
	w.send(apiHead("GET", "/demo/weather") + "\n")
	resp, err := http.ReadResponse(w.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if n, err := copyBody(&b, resp); err == nil || n >= 100_000 {
		t.Errorf("%d bytes came, %v", n, err)
	}
	f.idle()
}

// TestPanics: whatever panics, the client gets an error, the hold is resolved
// once, the process lives, and the connection of another call is not touched.
func TestPanics(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	f.onAdmit = func() { panic("admit") }
	for _, r := range []reply{f.chat(hello), f.chat(helloStream), f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode)} {
		if r.StatusCode != 500 || r.code(t) != "APIGW.0601" || r.Header.Get("X-Request-Id") == "" {
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
	}
	if n := gauge(t, f.reg, "tollgate_panics_total"); n != 3 {
		t.Errorf("%v panics counted", n)
	}
	if !strings.Contains(f.logs.String(), "handle a request") {
		t.Error("no panic was logged")
	}
	f.onAdmit = nil
	if r := f.chat(hello); r.StatusCode != 200 {
		t.Errorf("the next call got %d %s", r.StatusCode, r.body)
	}
	// Where a record is not worth an answer, the answer stands.
	f.onNote = func() { panic("note") }
	if r := f.chat(hello, "X-Mock-Status", "404"); r.StatusCode != 404 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if r := f.chat(hello, "X-Mock-Break", "start"); r.StatusCode != 502 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	f.onNote = nil
	f.idle()
}

// TestBrokenAnswersAreNotCounted: GWERR-3. An upstream that gives no whole plain
// answer is a 502 of the gateway's own.
func TestBrokenAnswersAreNotCounted(t *testing.T) {
	t.Parallel()
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {})
	for _, brk := range []string{"start", "0", "20", "20;rst"} {
		r := f.chat(hello, "X-Mock-Break", brk)
		if r.StatusCode != 502 || r.openAI(t).Type != "server_error" {
			t.Errorf("cut off at %s: %d %s", brk, r.StatusCode, r.body)
		}
	}
	f.idle()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.records) != 0 || len(f.notes) != 4 {
		t.Errorf("%d records, %d notes", len(f.records), len(f.notes))
	}
	for _, n := range f.notes {
		if n.Has(usage.Counted) || n.Reason != "upstream" || n.Status != 502 {
			t.Errorf("%+v", n)
		}
	}
}
