package gateway_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// TestBodyLimit: a body past the limit gets 413 however it is framed, and what
// follows on the connection is never taken for a request.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, _ *directory.Snapshot) { c.MaxBody = 20_000 })
	const poison = "GET /demo/weather/poison HTTP/1.1\r\nHost: gw\r\nX-Apig-AppCode: " + appCode + "\r\n\r\n"
	fill := strings.Repeat(poison, 30_000/len(poison))
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	llm := "POST /v1/chat/completions HTTP/1.1\nHost: gw\nAuthorization: Bearer " + callKey + "\n"
	for _, tt := range []struct{ name, head, body string }{
		{"length", apiHead("POST", "/demo/weather", fmt.Sprintf("Content-Length: %d", len(fill))), fill},
		{"length, far too large", apiHead("POST", "/demo/weather", "Content-Length: 123456789012"), fill},
		{"chunks", apiHead("POST", "/demo/weather", "Transfer-Encoding: chunked"), chunk(fill[:15_000]) + chunk(fill[15_000:]) + "0\r\n\r\n"},
		{"one chunk", apiHead("POST", "/demo/weather", "Transfer-Encoding: chunked"), chunk(fill) + "0\r\n\r\n"},
		{"endless chunk", apiHead("POST", "/demo/weather", "Transfer-Encoding: chunked"), "ffffffff\r\n" + fill},
		{"length, LLM", llm + fmt.Sprintf("Content-Length: %d\n", len(fill)), fill},
		{"chunks, LLM", llm + "Transfer-Encoding: chunked\n", chunk(fill[:15_000]) + chunk(fill[15_000:]) + "0\r\n\r\n"},
	} {
		w := f.dial()
		w.send(tt.head + "\n")
		go func() { _, _ = w.Write([]byte(tt.body)) }()
		r := w.reply("POST")
		if r.StatusCode != 413 || r.code(t) != "APIGW.0201" {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
		}
		// Either the connection ends, or it is in step.
		if r.Close {
			_ = w.Conn.(*net.TCPConn).CloseWrite()
			w.ended()
		} else {
			w.alive()
		}
	}
	for path := range f.mock.Stats().Paths {
		if strings.Contains(path, "poison") {
			t.Errorf("a part of a body was served as a request: %v", f.mock.Stats().Paths)
		}
	}
	// At the limit it passes.
	w := f.dial()
	w.send(apiHead("POST", "/demo/weather", "Content-Length: 20000") + "\n" + strings.Repeat("x", 20_000))
	if r := w.reply("POST"); r.StatusCode != 200 || r.echo(t).BodyBytes != 20_000 {
		t.Errorf("at the limit: %d", r.StatusCode)
	}
	w.alive()
}

// TestSmuggling: a request that two readers could take apart in two ways is
// refused and ends the connection; its second half is never served.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	const hidden = "GET /demo/weather/hidden HTTP/1.1\r\nHost: gw\r\nX-Apig-AppCode: " + appCode + "\r\n\r\n"
	head := "POST /demo/weather HTTP/1.1\r\nHost: gw\r\nX-Apig-AppCode: " + appCode + "\r\n"
	for _, tt := range []struct{ name, text string }{
		{"CL and TE", head + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"},
		{"TE and CL", head + "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX"},
		{"two CL", head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"},
		{"two equal CL", head + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"},
		{"CL list", head + "Content-Length: 5, 5\r\n\r\nhello"},
		{"CL signed", head + "Content-Length: +5\r\n\r\nhello"},
		{"CL negative", head + "Content-Length: -5\r\n\r\nhello"},
		{"CL hexadecimal", head + "Content-Length: 0x5\r\n\r\nhello"},
		{"CL empty", head + "Content-Length: \r\n\r\nhello"},
		{"CL too long", head + "Content-Length: 99999999999999999999\r\n\r\nhello"},
		{"two TE", head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"TE list", head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
		{"TE identity", head + "Transfer-Encoding: identity\r\n\r\n"},
		{"TE identity and CL", head + "Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello"},
		{"TE of another name", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
		{"TE with a blank before the colon", head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"},
		{"CL with a blank before the colon", head + "Content-Length : 5\r\n\r\nhello"},
		{"blank in a name", head + "X Y: 1\r\n\r\n"},
		{"TE folded", head + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"},
		{"folded field", head + "X-A: 1\r\n\tTransfer-Encoding: chunked\r\n\r\n"},
		{"TE behind a bare LF", head + "X-A: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"bare LF ends the header", "POST /demo/weather HTTP/1.1\nHost: gw\nX-Apig-AppCode: " + appCode + "\n\n"},
		{"bare CR in a value", head + "X-A: 1\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"NUL in a value", head + "X-A: 1\x00\r\n\r\n"},
		{"field without a colon", head + "X-A\r\n\r\n"},
		{"empty name", head + ": 1\r\n\r\n"},
		{"TE under HTTP/1.0", strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"chunk size not hexadecimal", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"},
		{"chunk size negative", head + "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"},
		{"chunk size with a prefix", head + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n"},
		{"chunk size too large", head + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n"},
		{"chunk without its end", head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n"},
		{"chunk size ended by LF", head + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n"},
		{"LF in a chunk extension", head + "Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n"},
	} {
		w := f.dial()
		w.raw(tt.text + hidden)
		r := w.reply("POST")
		if r.StatusCode != 400 && r.StatusCode != 413 || !r.Close {
			t.Errorf("%s: %d %v %s", tt.name, r.StatusCode, r.Header, r.body)
		}
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		w.ended()
	}
	for path := range f.mock.Stats().Paths {
		if strings.Contains(path, "hidden") {
			t.Errorf("a hidden request was served: %v", f.mock.Stats().Paths)
		}
	}
}

// TestPipelining: answers come in the order of the requests.
func TestPipelining(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	var all strings.Builder
	const n = 30
	for i := range n {
		switch i % 5 {
		case 0:
			all.WriteString(apiHead("GET", fmt.Sprintf("/demo/weather/%d", i), "X-Mock-1xx: 103") + "\n")
		case 1:
			all.WriteString(apiHead("POST", fmt.Sprintf("/demo/weather/%d", i), "Content-Length: 5") + "\nhello")
		case 2:
			all.WriteString(apiHead("POST", fmt.Sprintf("/demo/weather/%d", i), "Transfer-Encoding: chunked") + "\n5\nhello\n0\n\n")
		case 3:
			all.WriteString(apiHead("GET", fmt.Sprintf("/demo/weather/%d", i), "X-Mock-Chunked: 1", "X-Large: "+strings.Repeat("x", 5000)) + "\n")
		case 4:
			all.WriteString(apiHead("HEAD", fmt.Sprintf("/demo/weather/%d", i)) + "\n")
		}
	}
	w := f.dial()
	go w.send(all.String())
	for i := range n {
		method := "GET"
		if i%5 == 4 {
			method = "HEAD"
		}
		r := w.reply(method)
		if r.StatusCode == 103 { // only where nothing of an earlier answer is in the way
			r = w.reply(method)
		}
		if r.StatusCode != 200 {
			t.Fatalf("answer %d: %d %s", i, r.StatusCode, r.body)
		}
		if method == "GET" && r.echo(t).Path != fmt.Sprintf("/demo/weather/%d", i) {
			t.Fatalf("answer %d is for %s", i, r.echo(t).Path)
		}
	}
	w.alive()
}

// TestExpectContinue: the client is told to go on, once, and the upstream never
// sees the field.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	url, heads := recorder(t)
	f := startAt(t, url, nil)
	for _, framing := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
		w := f.dial()
		w.send(apiHead("POST", "/demo/weather", "Expect: 100-continue", framing) + "\n")
		if l := w.line(); l != "HTTP/1.1 100 Continue" {
			t.Fatalf("%s: %q", framing, l)
		}
		w.line()
		if strings.HasPrefix(framing, "T") {
			w.send("5\nhello\n0\n\n")
		} else {
			w.send("hello")
		}
		if r := w.reply("POST"); r.StatusCode != 200 || r.body != "hello" {
			t.Errorf("%s: %d %q", framing, r.StatusCode, r.body)
		}
		for _, l := range <-heads {
			if strings.HasPrefix(strings.ToLower(l), "expect") {
				t.Errorf("the upstream was asked to %s", l)
			}
		}
		w.alive()
	}
}

// TestExpectRefused: who would be refused anyway is told before the body is
// sent.
func TestExpectRefused(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, _ *directory.Snapshot) { c.MaxBody = 1000 })
	for _, tt := range []struct {
		name, head string
		status     int
	}{
		{"too large", apiHead("POST", "/demo/weather", "Content-Length: 1001"), 413},
		{"no route", apiHead("POST", "/nothing", "Content-Length: 10"), 404},
		{"no credential", "POST /demo/weather HTTP/1.1\nHost: gw\nContent-Length: 10\n", 401},
		{"bad AppCode", "POST /demo/weather HTTP/1.1\nHost: gw\nX-Apig-AppCode: x\nContent-Length: 10\n", 401},
		{"no key", "POST /v1/chat/completions HTTP/1.1\nHost: gw\nContent-Length: 10\n", 401},
		{"bad key", "POST /v1/chat/completions HTTP/1.1\nHost: gw\nAuthorization: Bearer x\nContent-Length: 10\n", 401},
		{"ambiguous", apiHead("POST", "/demo/weather", "Content-Length: 10", "Transfer-Encoding: chunked"), 400},
	} {
		w := f.dial()
		w.send(tt.head + "Expect: 100-continue\n\n")
		r := w.reply("POST")
		if r.StatusCode != tt.status || r.Header.Get("X-Request-Id") == "" || !r.Close {
			t.Errorf("%s: %d %v %s", tt.name, r.StatusCode, r.Header, r.body)
		}
		_ = w.Conn.(*net.TCPConn).CloseWrite()
		w.ended()
	}
	if n := f.mock.Stats().Total; n != 0 {
		t.Errorf("%d requests went upstream", n)
	}
	_ = http.StatusOK
}
