package gateway_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// recorder is an upstream that keeps the heads of the requests it gets, line by
// line, and answers with the body.
func recorder(t testing.TB) (url string, heads chan []string) {
	heads = make(chan []string, 100)
	url = upstreamOf(t, func(p *peer) {
		for {
			head, err := p.head()
			if err != nil {
				return
			}
			heads <- head
			body := p.body(head)
			p.say("HTTP/1.1 200 OK\nContent-Length: %d\n\n", len(body))
			_, _ = p.Write([]byte(body))
		}
	})
	return url, heads
}

// body reads a request's body as its head frames it, trailers included as text.
func (p *peer) body(head []string) string {
	var b strings.Builder
	chunked, length := false, 0
	for _, l := range head {
		name, v, _ := strings.Cut(l, ": ")
		switch strings.ToLower(name) {
		case "transfer-encoding":
			chunked = true
		case "content-length":
			length, _ = strconv.Atoi(v)
		}
	}
	read := func(n int) {
		buf := make([]byte, n)
		for got := 0; got < n; {
			m, err := p.br.Read(buf[got:])
			if err != nil {
				return
			}
			got += m
		}
		b.Write(buf)
	}
	if !chunked {
		read(length)
		return b.String()
	}
	for {
		line, err := p.br.ReadString('\n')
		n, perr := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil || perr != nil {
			return b.String()
		}
		if n == 0 {
			trailers, _ := p.head()
			for _, t := range trailers {
				b.WriteString("|" + t)
			}
			return b.String()
		}
		read(int(n))
		_, _ = p.br.ReadString('\n')
	}
}

// ours removes what the gateway adds to a request.
func theirs(head []string) []string {
	var out []string
	for _, l := range head[1:] {
		name, _, _ := strings.Cut(l, ":")
		switch name {
		case "Host", "X-Request-Id", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via":
		default:
			out = append(out, l)
		}
	}
	return out
}

// TestRequestFields: the client's fields arrive as they were sent, but for those
// of its connection (RFC 9110 section 7.6.1).
func TestRequestFields(t *testing.T) {
	t.Parallel()
	url, heads := recorder(t)
	f := startAt(t, url, nil)
	for _, tt := range []struct {
		name string
		in   []string
		want []string
		end  bool
	}{
		{
			"as they came",
			[]string{"X-B: 2", "x-a:1", "X-B:  1 ", "X-Empty:", "X-Mark: a,b;c=\"d\"", "Cookie: b=2;a=1", "Cookie: b=3", "Accept-Encoding: gzip"},
			[]string{"X-B: 2", "x-a:1", "X-B:  1 ", "X-Empty:", "X-Mark: a,b;c=\"d\"", "Cookie: b=2;a=1", "Cookie: b=3", "Accept-Encoding: gzip"},
			false,
		},
		{"not ASCII", []string{"X-City: 北京", "X-Latin: caf\xe9"}, []string{"X-City: 北京", "X-Latin: caf\xe9"}, false},
		{
			"of this connection",
			[]string{"Keep-Alive: timeout=5", "TE: trailers", "Upgrade: websocket", "Connection: upgrade, keep-alive", "Proxy-Connection: x", "HTTP2-Settings: AAA", "Trailer: X-T", "Expect: nothing", "X-Kept: 1"},
			[]string{"X-Kept: 1"},
			false,
		},
		{"named by Connection", []string{"Connection: X-One , x-two,,", "X-One: 1", "X-Two: 2", "x-two: 3", "X-Three: 3"}, []string{"X-Three: 3"}, false},
		{"several Connection fields", []string{"Connection: X-One", "X-One: 1", "X-Two: 2", "connection: X-Two"}, nil, false},
		{"close alone", []string{"Connection: close"}, nil, true},
		{"close in capitals", []string{"Connection: Close"}, nil, true},
		{"close among others", []string{"Connection: X-One, close", "X-One: 1"}, nil, true},
		{"close before others", []string{"Connection: close", "Connection: X-One", "X-One: 1"}, nil, true},
		{"close behind others", []string{"Connection: X-One", "Connection: close", "X-One: 1"}, nil, true},
		{"type and agent, the last of several", []string{"Content-Type: text/a", "User-Agent: a", "content-type: text/b", "user-agent: b"}, []string{"Content-Type: text/b", "User-Agent: b"}, false},
	} {
		w := f.dial()
		w.send(apiHead("GET", "/demo/weather/p", tt.in...) + "\n")
		r := w.reply("GET")
		if r.StatusCode != 200 {
			t.Errorf("%s: %d %s", tt.name, r.StatusCode, r.body)
			continue
		}
		if diff := cmp.Diff(tt.want, theirs(<-heads)); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		if tt.end != r.Close {
			t.Errorf("%s: Connection: close is %v", tt.name, r.Close)
		}
		if tt.end {
			w.ended()
		} else {
			w.alive()
		}
	}
}

// TestTargets: path and query go upstream byte for byte.
func TestTargets(t *testing.T) {
	t.Parallel()
	url, heads := recorder(t)
	f := startAt(t, url, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Products[2].Upstreams[0].URL = url + "/base/"
		s.Products = append(s.Products, directory.Product{
			ID: "P-STRIP", Kind: directory.KindAPI, Path: "/strip", StripPath: true, SimpleAuth: true,
			Upstreams: []directory.Upstream{{ID: "u", URL: url}},
		})
		s.Products = append(s.Products, directory.Product{
			ID: "P-INNER", Kind: directory.KindAPI, Path: "/demo/weather/inner", SimpleAuth: true,
			Upstreams: []directory.Upstream{{ID: "u", URL: url}},
		})
		s.Applications[0].Bound = append(s.Applications[0].Bound, "P-STRIP", "P-INNER")
		for _, p := range []string{"P-STRIP", "P-INNER"} {
			sub := s.Subscriptions[2]
			sub.ID, sub.Product = "S-"+p, p
			s.Subscriptions = append(s.Subscriptions, sub)
		}
	})
	for _, tt := range []struct{ in, want string }{
		{"/demo/weather", "/base/demo/weather"},
		{"/demo/weather/", "/base/demo/weather/"},
		{"/demo/weather?", "/base/demo/weather"},
		{"/demo/weather//a//", "/base/demo/weather//a//"},
		{"/demo/weather/a%2Fb%2f..%5c", ""},
		{"/demo/weather/a%2Fb", "/base/demo/weather/a%2Fb"},
		{"/demo/weather/%e5%A4%a9/%41+b;c=d:@!$&'()*,~", "/base/demo/weather/%e5%A4%a9/%41+b;c=d:@!$&'()*,~"},
		{"/demo/weather/\xe5\xa4\xa9", "/base/demo/weather/\xe5\xa4\xa9"},
		{"/demo/weather?a=1&&b=%20+&c&=&u=http://x/?y//z", "/base/demo/weather?a=1&&b=%20+&c&=&u=http://x/?y//z"},
		{"http://gw/demo/weather/x?a=%2f", "/base/demo/weather/x?a=%2f"},
		{"https://gw/demo/weather/x", "/base/demo/weather/x"},
		{"/strip", "/"},
		{"/strip/a%20b?c", "/a%20b?c"},
		{"/strip?c=1", "/?c=1"},
		{"/demo/weather/inner/x", "/demo/weather/inner/x"},
		{"/demo/weather/innerx", "/base/demo/weather/innerx"},

		// Other spellings of the inner product would be served under the outer
		// one's rights.
		{"/demo/weather/%69nner/x", ""},
		{"/demo/weather//inner/x", ""},
		{"/demo/weather/%2Finner", ""},
		{"/demo/weather/inner%2Fx", ""},

		{"/demo/weather/..", ""},
		{"/demo/weather/./x", ""},
		{"/demo/weather/%2e%2E/x", ""},
		{"/demo/weather/.%2e/", ""},
		{"/demo/weather/x/%2e", ""},
		{"/demo/weather/..%2fx", ""},
		{"/demo/weather/..\\x", ""},
		{"/demo/weather/%5c..", ""},
		{"/demo/weather/%", ""},
		{"/demo/weather/%zz", ""},
		{"/demo/weather/%00", ""},
		{"/demo/weather/%0d%0aX-A:1", ""},
		{"/demo/weather/#x", ""},
		{"/demo/weather?a#b", ""},
	} {
		w := f.dial()
		w.raw("GET " + tt.in + " HTTP/1.1\r\nHost: gw\r\nX-Apig-AppCode: " + appCode + "\r\n\r\n")
		r := w.reply("GET")
		if tt.want == "" {
			if r.StatusCode != 400 || r.code(t) != "APIGW.0201" {
				t.Errorf("%q: %d %s", tt.in, r.StatusCode, r.body)
			}
			continue
		}
		if r.StatusCode != 200 {
			t.Errorf("%q: %d %s", tt.in, r.StatusCode, r.body)
			continue
		}
		if got, want := (<-heads)[0], "GET "+tt.want+" HTTP/1.1"; got != want {
			t.Errorf("%q became %q, want %q", tt.in, got, want)
		}
	}
	// LLM: what stands behind /v1 goes behind the upstream's base.
	w := f.dial()
	w.send("GET /v1/infers/" + callInfer + "/v1/files/a%2Fb?x=%20 HTTP/1.1\nHost: gw\nAuthorization: Bearer " + callKey + "\n\n")
	if r := w.reply("GET"); r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	if got := (<-heads)[0]; got != "GET /v1/files/a%2Fb?x=%20 HTTP/1.1" {
		t.Errorf("LLM: %s", got)
	}
}

// TestRequestBodies: every framing, small and large, arrives whole, and the
// connection serves on in step.
func TestRequestBodies(t *testing.T) {
	t.Parallel()
	url, heads := recorder(t)
	f := startAt(t, url, nil)
	chunks := func(size int, parts ...string) string {
		var b strings.Builder
		for _, p := range parts {
			for len(p) > 0 {
				n := min(size, len(p))
				fmt.Fprintf(&b, "%x\r\n%s\r\n", n, p[:n])
				p = p[n:]
			}
		}
		return b.String() + "0\r\n"
	}
	big := strings.Repeat("0123456789abcdef", 20<<10)
	for _, tt := range []struct {
		name, method string
		fields       []string
		body, want   string
		framing      string // of the upstream request
	}{
		{"none", "GET", nil, "", "", ""},
		{"none, POST", "POST", nil, "", "", "Content-Length: 0"},
		{"none, DELETE", "DELETE", nil, "", "", ""},
		{"none, said", "POST", []string{"Content-Length: 0"}, "", "", "Content-Length: 0"},
		{"small", "POST", []string{"Content-Length: 5"}, "hello", "hello", "Content-Length: 5"},
		{"of a GET", "GET", []string{"Content-Length: 5"}, "hello", "hello", "Content-Length: 5"},
		{"of a DELETE", "DELETE", []string{"Content-Length: 5"}, "hello", "hello", "Content-Length: 5"},
		{"at the prefetch limit", "PUT", []string{"Content-Length: 8192"}, big[:8192], big[:8192], "Content-Length: 8192"},
		{"past the prefetch limit", "PUT", []string{"Content-Length: 8193"}, big[:8193], big[:8193], "Content-Length: 8193"},
		{"large", "POST", []string{fmt.Sprintf("Content-Length: %d", len(big))}, big, big, fmt.Sprintf("Content-Length: %d", len(big))},
		{"chunked", "POST", []string{"Transfer-Encoding: chunked"}, chunks(3, "hello world") + "\r\n", "hello world", "Transfer-Encoding: chunked"},
		{"chunked, empty", "POST", []string{"Transfer-Encoding: chunked"}, chunks(3) + "\r\n", "", "Transfer-Encoding: chunked"},
		{"chunked, capitals", "POST", []string{"Transfer-Encoding: Chunked"}, chunks(30, "hello world") + "\r\n", "hello world", "Transfer-Encoding: chunked"},
		{"chunked, large", "POST", []string{"Transfer-Encoding: chunked"}, chunks(100_000, big) + "\r\n", big, "Transfer-Encoding: chunked"},
		{"chunked, extensions", "POST", []string{"Transfer-Encoding: chunked"}, "5;a=b\r\nhello\r\n0\r\n\r\n", "hello", "Transfer-Encoding: chunked"},
		{"chunked, trailers", "POST", []string{"Transfer-Encoding: chunked", "Trailer: X-Sum, X-Gone"}, chunks(3, "hello") + "X-Sum: 12\r\nX-Secret: 1\r\n\r\n", "hello|X-Sum: 12", "Transfer-Encoding: chunked"},
		{"chunked, trailers of ours", "POST", []string{"Transfer-Encoding: chunked", "Trailer: X-Customer-Id, X-Apig-AppCode, X-Sdk-Date"}, chunks(3, "hello") + "X-Customer-Id: 12\r\nX-Apig-AppCode: 1\r\nX-Sdk-Date: 2\r\n\r\n", "hello", "Transfer-Encoding: chunked"},
	} {
		w := f.dial()
		w.raw(strings.ReplaceAll(apiHead(tt.method, "/demo/weather", tt.fields...)+"\n", "\n", "\r\n"))
		w.raw(tt.body)
		r := w.reply(tt.method)
		head := <-heads
		if r.StatusCode != 200 || r.body != tt.want {
			t.Errorf("%s: %d, %d bytes came back, want %d: %.100q", tt.name, r.StatusCode, len(r.body), len(tt.want), r.body)
		}
		framing := ""
		for _, l := range head {
			if strings.HasPrefix(l, "Content-Length:") || strings.HasPrefix(l, "Transfer-Encoding:") {
				framing += l
			}
		}
		if framing != tt.framing {
			t.Errorf("%s: framed by %q, want %q", tt.name, framing, tt.framing)
		}
		w.alive()
	}
}

// TestChunkedLLM: a chunked JSON body is read whole, so that its usage can be
// asked for.
func TestChunkedLLM(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	w := f.dial()
	w.send("POST /v1/chat/completions HTTP/1.1\nHost: gw\nAuthorization: Bearer " + callKey + "\nTransfer-Encoding: chunked\n\n")
	for i := range len(hello) {
		w.raw("1\r\n" + hello[i:i+1] + "\r\n")
	}
	w.raw("0\r\nX-Trailer: 1\r\n\r\n")
	if r := w.reply("POST"); r.StatusCode != 200 || r.Header.Get("X-Tollgate-Charged") != "call=1" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	w.alive()
}
