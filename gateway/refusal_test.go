package gateway_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// TestRefusals: the answers of gateway-wire section 0, in the envelope of the
// product's kind, with X-Request-Id, and none of them metered (GWERR-3).
func TestRefusals(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, s *directory.Snapshot) {
		c.MaxBody = 1000
		s.Products[2].Methods = []string{"GET", "POST"}
	})
	set := func(left int64, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.admitErr = err
		for id := range f.left {
			f.left[id] = left
		}
	}
	long := strings.Repeat("x", 1001)
	for _, tt := range []struct {
		name   string
		left   int64
		err    error
		api    func() reply
		status int
		code   string
		llm    func() reply
		lstat  int
		lcode  string
		header map[string]string // of the LLM's answer
	}{
		{"used up", 0, nil, f.get("/demo/weather"), 405, "APIGW.0501", f.post(hello), 429, "insufficient_quota", map[string]string{"X-Should-Retry": "false", "Retry-After": ""}},
		{"quota away", 1, gateway.ErrUnavailable, f.get("/demo/weather"), 503, "APIGW.0606", f.post(hello), 503, "quota_unavailable", map[string]string{"X-Should-Retry": "", "Retry-After": "1"}},
		{"quota broken", 1, errors.New("disk on fire"), f.get("/demo/weather"), 503, "APIGW.0606", f.post(hello), 503, "quota_unavailable", nil},
		{"no route", 1, nil, f.get("/nothing"), 404, "APIGW.0101", f.post2("/v1/infers/x/v1/chat/completions"), 404, "unknown_url", nil},
		{
			"method", 1, nil, func() reply { return f.do("PUT", "/demo/weather", "", "X-Apig-AppCode", appCode) }, 404, "APIGW.0101",
			func() reply { return f.do("TRACE", "/v1/models", "") }, 405, "method_not_supported",
			map[string]string{"Allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"},
		},
		{"body too large", 1, nil, func() reply { return f.do("POST", "/demo/weather", long, "X-Apig-AppCode", appCode) }, 413, "APIGW.0201", f.post(long), 413, "request_too_large", nil},
		{"dot segments", 1, nil, f.get("/demo/weather/%2e%2e/x"), 400, "APIGW.0201", f.post2("/v1/x/%2E./y"), 400, "bad_request", nil},
		{"not JSON", 1, nil, f.get("/demo/weather\\x"), 400, "APIGW.0201", f.post("{"), 400, "invalid_request", nil},
	} {
		set(tt.left, tt.err)
		before := f.mock.Stats().Total
		r := tt.api()
		if r.StatusCode != tt.status || r.code(t) != tt.code {
			t.Errorf("%s: %d %s, want %d %s", tt.name, r.StatusCode, r.body, tt.status, tt.code)
		}
		l := tt.llm()
		if l.StatusCode != tt.lstat || l.openAI(t).Code != tt.lcode {
			t.Errorf("%s: %d %s, want %d %s", tt.name, l.StatusCode, l.body, tt.lstat, tt.lcode)
		}
		for k, v := range tt.header {
			if l.Header.Get(k) != v {
				t.Errorf("%s: %s is %q, want %q", tt.name, k, l.Header.Get(k), v)
			}
		}
		for _, r := range []reply{r, l} {
			id := r.Header.Get("X-Request-Id")
			if len(id) != 32 || !strings.Contains(r.body, `"request_id":"`+id+`"`) || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: request id %q, answer %s, type %s", tt.name, id, r.body, r.Header.Get("Content-Type"))
			}
			if r.Header.Get("X-Tollgate-Charged") != "" {
				t.Errorf("%s was charged", tt.name)
			}
		}
		if after := f.mock.Stats().Total; after != before {
			t.Errorf("%s: %d requests went upstream", tt.name, after-before)
		}
	}
	set(1, nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.records) != 0 || len(f.notes) != 0 || f.held != 0 {
		t.Errorf("%d records, %d notes, %d held", len(f.records), len(f.notes), f.held)
	}
}

func (f *fixture) get(path string) func() reply {
	return func() reply {
		w := f.dial()
		w.send(apiHead("GET", path) + "\n")
		return w.reply("GET")
	}
}

func (f *fixture) post(body string) func() reply { return func() reply { return f.chat(body) } }

func (f *fixture) post2(path string) func() reply {
	return func() reply { return f.do("POST", path, hello, "Authorization", "Bearer "+callKey) }
}

// TestFrozen: arrears are not the same as used up, and other subscriptions
// still serve.
func TestFrozen(t *testing.T) {
	t.Parallel()
	frozen := func(_ *gateway.Config, s *directory.Snapshot) {
		for i := range s.Subscriptions {
			s.Subscriptions[i].State = directory.SubscriptionFrozen
		}
	}
	f := start(t, frozen)
	if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 405 || r.code(t) != "APIGW.0502" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if r := f.chat(hello); r.StatusCode != 403 || r.openAI(t).Code != "account_frozen" || r.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	f = start(t, func(c *gateway.Config, s *directory.Snapshot) {
		frozen(c, s)
		at := time.Unix(1e9, 0)
		for i, id := range []string{"S-B", "S-A"} {
			s.Subscriptions = append(s.Subscriptions, directory.Subscription{
				ID: id, Account: "BUYER", Product: "P-CALL", Mode: directory.ModePerCall,
				State: directory.SubscriptionActive, Units: []usage.Unit{usage.Call}, Created: at.Add(time.Duration(i) * time.Hour),
			})
		}
	})
	f.left["S-B"] = 1
	for i, want := range []string{"S-B", "S-A"} { // the earliest first, then the next
		if r := f.chat(hello); r.StatusCode != 200 {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		if rec := f.record(i); rec.Subscription != want {
			t.Errorf("call %d was charged to %s, want %s", i, rec.Subscription, want)
		}
	}
}

// TestNotYetReady: without a directory the gateway asks to try again, and says
// so to who asks for its health.
func TestNotYetReady(t *testing.T) {
	t.Parallel()
	f := startEmpty(t)
	for _, path := range []string{"/demo/weather", "/v1/chat/completions"} {
		r := f.do("POST", path, hello, "Authorization", "Bearer "+callKey)
		if r.StatusCode != 503 || r.code(t) != "APIGW.0606" || r.Header.Get("Retry-After") != "1" {
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
	}
	if r := f.do("GET", "/readyz", ""); r.StatusCode != 503 {
		t.Errorf("/readyz: %d", r.StatusCode)
	}
	if err := f.gateway.Ready(); err == nil {
		t.Error("ready without a directory")
	}
	if err := f.gateway.Swap(snapshot("http://127.0.0.1:1")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if r := f.do("GET", path, ""); r.StatusCode != 200 || r.body != "ok\n" || r.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %d %s", path, r.StatusCode, r.body)
		}
		if r := f.do("HEAD", path, ""); r.StatusCode != 200 {
			t.Errorf("HEAD %s: %d", path, r.StatusCode)
		}
	}
}

// TestUnreadable: requests that are no HTTP, too long or too slow are answered,
// in the envelope of the side they were for, and the connection closes.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, _ *directory.Snapshot) {
		c.MaxHeader = 4 << 10
		c.ReadTimeout = 200 * time.Millisecond
	})
	fill := strings.Repeat("x", 5<<10)
	for _, tt := range []struct {
		name, text string
		status     int
		llm        bool
	}{
		{"garbage", "\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, false},
		{"no version", "GET /\r\n\r\n", 400, false},
		{"no host", "GET /demo/weather HTTP/1.1\r\n\r\n", 400, false},
		{"two hosts", "GET /demo/weather HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, false},
		{"no host, LLM", "POST /v1/chat/completions HTTP/1.1\r\n\r\n", 400, true},
		{"large header", "GET /demo/weather HTTP/1.1\r\nHost: a\r\nX-Large: " + fill + "\r\n\r\n", 494, false},
		{"large header, LLM", "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Large: " + fill + "\r\n\r\n", 431, true},
		{"long target", "GET /demo/weather?" + fill + " HTTP/1.1\r\nHost: a\r\n\r\n", 414, false},
		{"long target, LLM", "GET /v1/files?" + fill + " HTTP/1.1\r\nHost: a\r\n\r\n", 414, true},
		{"slow header", "GET /demo/weather HTTP/1.1\r\nHost: a\r\n", 408, false},
		{"slow header, LLM", "GET /v1/files HTTP/1.1\r\nHost: a\r\n", 408, true},
		{"slow body, LLM", "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + callKey + "\r\nContent-Length: 10\r\n\r\n{", 408, true},
		{"slow large body, LLM", "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + callKey + "\r\nContent-Length: 100000\r\n\r\n" + fill + fill, 408, true},
		{"slow chunk, LLM", "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + callKey + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", 408, true},
		{"slow chunk, API", "POST /demo/weather HTTP/1.1\r\nHost: a\r\nX-Apig-AppCode: " + appCode + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", 408, false},
		{"slow large body, API", "POST /demo/weather HTTP/1.1\r\nHost: a\r\nX-Apig-AppCode: " + appCode + "\r\nContent-Length: 100000\r\n\r\n" + fill + fill, 408, false},
	} {
		w := f.dial()
		w.raw(tt.text)
		r := w.reply("GET")
		if r.StatusCode != tt.status || len(r.Header.Get("X-Request-Id")) != 32 || !r.Close {
			t.Errorf("%s: %d %v %s", tt.name, r.StatusCode, r.Header, r.body)
		}
		if llm := strings.Contains(r.body, `"error":{`); llm != tt.llm {
			t.Errorf("%s: %s", tt.name, r.body)
		}
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		w.ended()
	}
}

// TestBrokenBodies: a body that breaks off is never taken for a whole one.
func TestBrokenBodies(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	half := `{"model":"demo-chat","messages":[{"role":"user","content":"` + strings.Repeat("x", 10_000)
	for _, tt := range []struct{ name, head, body string }{
		{"length, LLM", "Authorization: Bearer " + callKey + "\nContent-Length: 20000\n", half},
		{"chunks, LLM", "Authorization: Bearer " + callKey + "\nTransfer-Encoding: chunked\n", "2\r\n{}\r\n"},
		{"in a chunk, LLM", "Authorization: Bearer " + callKey + "\nTransfer-Encoding: chunked\n", "4\r\n{}"},
		{"without the last line, LLM", "Authorization: Bearer " + callKey + "\nTransfer-Encoding: chunked\n", "2\r\n{}\r\n0\r\n"},
	} {
		w := f.dial()
		w.send("POST /v1/chat/completions HTTP/1.1\nHost: gw\n" + tt.head + "\n")
		w.raw(tt.body)
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		if r := w.reply("POST"); r.StatusCode != 400 || r.openAI(t).Code != "bad_request" || !strings.Contains(r.body, "broke off") {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
	}
	// One that is whole is served although its client has closed its side.
	for _, tt := range []struct{ head, body string }{
		{"Content-Length: " + itoa(len(hello)), hello}, {"Transfer-Encoding: chunked", itoaHex(len(hello)) + "\r\n" + hello + "\r\n0\r\n\r\n"},
	} {
		w := f.dial()
		w.send("POST /v1/chat/completions HTTP/1.1\nHost: gw\nAuthorization: Bearer " + callKey + "\n" + tt.head + "\n\n")
		w.raw(tt.body)
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		if r := w.reply("POST"); r.StatusCode != 200 {
			t.Errorf("%s: %d %s", tt.head, r.StatusCode, r.body)
		}
	}
}

// TestDraining: a gateway that shuts down says so on connections that are still
// open, and ends them.
func TestDraining(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	w := f.dial()
	w.alive()
	running := make(chan reply, 1)
	go func() { running <- f.chat(helloStream, "X-Mock-Chunks", "10", "X-Mock-Chunk-Delay", "30ms") }()
	f.waitHeld(1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f.gateway.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if r := <-running; r.StatusCode != 200 || !strings.HasSuffix(r.body, "data: [DONE]\n\n") {
		t.Errorf("the running call got %d %q", r.StatusCode, r.body)
	}
	w.ended()
	if err := f.gateway.Ready(); err == nil {
		t.Error("ready after shutdown")
	}
}
