package fastsign

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"tollgate/internal/apisign"
)

const (
	key    = "testAppKey0123456789abcdef"
	secret = "testAppSecret-9876543210"
	date   = "20260102T030405Z"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// verify is what a gateway's handler does.
func verify(ctx *fasthttp.RequestCtx) error {
	v := apisign.Acquire()
	defer apisign.Release(v)
	var r apisign.Request
	Fill(&r, ctx)
	r.Body = ctx.Request.Body()
	var p apisign.Parsed
	if found, err := v.FromHeaders(&p, r.Headers); err != nil || !found {
		return fmt.Errorf("found %v: %w", found, err)
	}
	return v.Verify(&p, &r, []byte(secret), now, 0)
}

// serve runs a fasthttp server that answers "ok" or the error.
func serve(t *testing.T, raw bool) *fasthttputil.InmemoryListener {
	t.Helper()
	ln := fasthttputil.NewInmemoryListener()
	s := &fasthttp.Server{DisableHeaderNamesNormalizing: raw, Handler: func(ctx *fasthttp.RequestCtx) {
		if err := verify(ctx); err != nil {
			ctx.SetStatusCode(401)
			ctx.SetBodyString(err.Error())
			return
		}
		ctx.SetBodyString("ok")
	}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		_ = ln.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln
}

// exchange sends a request byte for byte and returns the answer's body.
func exchange(t *testing.T, ln *fasthttputil.InmemoryListener, text string) string {
	t.Helper()
	c, err := ln.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	var resp fasthttp.Response
	if err := resp.Read(bufio.NewReader(c)); err != nil {
		t.Fatal(err)
	}
	return string(resp.Body())
}

// listed is a set of header fields a client signed.
type listed [][2]string

func (l listed) AppendValues(dst [][]byte, name []byte) [][]byte {
	for _, f := range l {
		if strings.EqualFold(f[0], string(name)) {
			dst = append(dst, []byte(f[1]))
		}
	}
	return dst
}

// TestRaw sends requests exactly as clients write them, over servers that
// normalise header names and that do not.
func TestRaw(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		target  string // as signed and, without sent, as sent
		sent    string
		headers listed // signed and sent
		extra   string // sent beside them
		body    string
		ok      bool
	}{
		{name: "plain", target: "/v1/hello", ok: true},
		{name: "doubled slashes are kept", target: "//v1//hello", ok: true},
		{name: "doubled slashes are not folded", target: "/v1/hello", sent: "//v1/hello"},
		{name: "dot segments are not resolved", target: "/v1/hello", sent: "/x/../v1/hello"},
		{name: "escaped dot segments are not resolved", target: "/v1/hello", sent: "/x/%2e%2e/v1/hello"},
		{name: "escapes", target: "/a%20b%2Fc?x=%E4%B8%AD&y=a+b&z", ok: true},
		{name: "a question mark in the query", target: "/a?x=1?y=2", ok: true},
		{name: "absolute form", target: "/a?x=1", sent: "http://h/a?x=1", ok: true},
		{name: "headers in any case", target: "/", headers: listed{{"x-LOWER-upper", "v"}, {"X-UP", "w"}}, ok: true},
		{name: "several values", target: "/", headers: listed{{"X-A", "b"}, {"x-a", "a"}}, ok: true},
		{name: "smuggled value", target: "/", headers: listed{{"X-A", "b"}}, extra: "x-a: c\r\n"},
		{name: "smuggled value in front", target: "/", headers: listed{{"X-A", "b"}}, extra: "X-a: a\r\n"},
		{name: "special fields", target: "/", headers: listed{
			{"Content-Type", "text/plain; charset=x"},
			{"User-Agent", "a/1 (b; c)"},
			{"Cookie", "a=b;c=d;  e"},
			{"Accept", "*/*"},
			{"Content-Length", "5"},
		}, body: "hello", ok: true},
		{name: "second content type", target: "/", headers: listed{{"Content-Type", "text/plain"}}, extra: "content-type: text/html\r\n"},
		{name: "second user agent", target: "/", headers: listed{{"User-Agent", "a"}}, extra: "user-agent: b\r\n"},
		{name: "second authorization", target: "/", extra: "Authorization: Bearer x\r\n"},
		{name: "cookie changed", target: "/", headers: listed{{"Cookie", "a=b"}}, extra: "Cookie: c=d\r\n"},
		{name: "Chinese value", target: "/", headers: listed{{"X-City", "北京"}}, ok: true},
		{name: "empty value", target: "/", headers: listed{{"X-Empty", ""}}, ok: true},
		{name: "connection", target: "/", headers: listed{{"Connection", "keep-alive"}}, ok: true},
		{name: "chunked body", target: "/", headers: listed{{"Transfer-Encoding", "chunked"}}, body: "5\r\nhello\r\n0\r\n\r\n"},
	} {
		for _, raw := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, raw names %v", tt.name, raw), func(t *testing.T) {
				path, query, _ := strings.Cut(tt.target, "?")
				headers := append(listed{{"X-Sdk-Date", date}}, tt.headers...)
				var names []string
				for _, h := range tt.headers {
					if h[0] != "Transfer-Encoding" {
						names = append(names, h[0])
					}
				}
				body := tt.body
				if tt.name == "chunked body" {
					body = "hello"
				}
				r := apisign.Request{
					Method: []byte("POST"), Path: []byte(path), Query: []byte(query), Host: []byte("h"),
					Headers: headers, Body: []byte(body),
				}
				auth, err := apisign.AppendAuthorization(nil, &r, key, []byte(secret), names)
				if err != nil {
					t.Fatal(err)
				}
				target := tt.target
				if tt.sent != "" {
					target = tt.sent
				}
				var b strings.Builder
				fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: h\r\n", target)
				sized := false
				for _, h := range headers {
					fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
					sized = sized || h[0] == "Content-Length" || h[0] == "Transfer-Encoding"
				}
				if !sized {
					fmt.Fprintf(&b, "Content-Length: %d\r\n", len(tt.body))
				}
				fmt.Fprintf(&b, "%sAuthorization: %s\r\n\r\n%s", tt.extra, auth, tt.body)
				got := exchange(t, serve(t, raw), b.String())
				if want := tt.ok || tt.name == "chunked body"; (got == "ok") != want {
					t.Errorf("%q: %s", b.String(), got)
				}
			})
		}
	}
}

// TestAbsent: a header on the list that was not sent is reported, also those
// for which fasthttp has an empty value at hand.
func TestAbsent(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"content-length", "trailer", "cookie", "user-agent", "content-type", "connection", "x-none"} {
		var req fasthttp.Request
		req.Header.SetMethod("GET")
		req.Header.DelBytes([]byte("Content-Length"))
		for _, raw := range []bool{false, true} {
			if raw {
				req.Header.DisableNormalizing()
			}
			if v := (Headers{&req.Header}).AppendValues(nil, []byte(name)); len(v) != 0 {
				t.Errorf("%s: %q", name, v)
			}
			if got := req.Header.DisableNormalizing(); got != raw {
				t.Errorf("the look-up changed the normalising to %v", got)
			}
			if !raw {
				req.Header.EnableNormalizing()
			}
		}
	}
}
