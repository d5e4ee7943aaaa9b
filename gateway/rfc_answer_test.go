package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAnswerFraming: however the upstream frames its answer, the client gets it
// whole and both connections stay in step.
func TestAnswerFraming(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, answer string
		status               int
		body                 string
		want, none           []string // fields that must and must not be there
	}{
		{"length", "GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 200, "hello", []string{"Content-Length: 5"}, []string{"Transfer-Encoding", "Content-Type"}},
		{"length 0", "GET", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200, "", []string{"Content-Length: 0"}, []string{"Content-Type"}},
		{"chunked", "GET", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nhel\n2\nlo\n0\n\n", 200, "hello", []string{"Transfer-Encoding: chunked"}, []string{"Content-Length", "Content-Type"}},
		{"chunked and length", "GET", "HTTP/1.1 200 OK\nContent-Length: 99\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n", 200, "hello", nil, []string{"Content-Length: 99"}},
		{"until the end", "GET", "HTTP/1.1 200 OK\nConnection: close\n\nhello", 200, "hello", []string{"Transfer-Encoding: chunked"}, []string{"Connection"}},
		{"until the end, HTTP/1.0", "GET", "HTTP/1.0 200 OK\nX-A: 1\n\nhello", 200, "hello", []string{"X-A: 1", "Transfer-Encoding: chunked"}, nil},
		{"length and close", "GET", "HTTP/1.1 200 OK\nConnection: close\nContent-Length: 5\n\nhello", 200, "hello", []string{"Content-Length: 5"}, []string{"Connection"}},
		{"trailers", "GET", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: X-Sum, X-Gone\n\n5\nhello\n0\nX-Sum: 7\nX-Unsaid: 1\n\n", 200, "hello", []string{"Trailer: X-Sum", "trailer X-Sum: 7"}, []string{"trailer X-Gone", "X-Unsaid", "trailer X-Unsaid"}},
		{"204", "DELETE", "HTTP/1.1 204 No Content\nX-A: 1\n\n", 204, "", []string{"X-A: 1"}, []string{"Content-Length", "Transfer-Encoding", "Content-Type"}},
		{"204 with a length", "DELETE", "HTTP/1.1 204 No Content\nContent-Length: 0\n\n", 204, "", nil, []string{"Content-Length", "Transfer-Encoding"}},
		{"205", "POST", "HTTP/1.1 205 Reset Content\nContent-Length: 0\n\n", 205, "", []string{"Content-Length: 0"}, nil},
		{"304", "GET", "HTTP/1.1 304 Not Modified\nEtag: \"a\"\n\n", 304, "", []string{"Etag: \"a\""}, []string{"Content-Length", "Transfer-Encoding", "Content-Type"}},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\nContent-Length: 500\n\n", 304, "", []string{"Content-Length: 500"}, []string{"Transfer-Encoding"}},
		{"HEAD with a length", "HEAD", "HTTP/1.1 200 OK\nContent-Length: 500\nContent-Type: a/b\n\n", 200, "", []string{"Content-Length: 500", "Content-Type: a/b"}, nil},
		{"HEAD, chunked", "HEAD", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", 200, "", nil, []string{"Content-Length", "Content-Type"}},
		{"HEAD without a length", "HEAD", "HTTP/1.1 200 OK\nX-A: 1\n\n", 200, "", []string{"X-A: 1"}, []string{"Content-Length", "Content-Type"}},
		{"HEAD, 404", "HEAD", "HTTP/1.1 404 Not Found\nContent-Length: 9\n\n", 404, "", []string{"Content-Length: 9"}, nil},
		{
			"of the connection", "GET", "HTTP/1.1 200 OK\nContent-Length: 2\nConnection: X-One, keep-alive\nConnection: x-two\nX-One: 1\nX-Two: 2\nX-Three: 3\nKeep-Alive: timeout=9\nProxy-Connection: x\nUpgrade: h2c\nTE: x\n\nok", 200, "ok",
			[]string{"X-Three: 3"},
			[]string{"X-One", "X-Two", "Keep-Alive", "Proxy-Connection", "Upgrade", "Te", "Connection"},
		},
		{"named beside close", "GET", "HTTP/1.1 200 OK\nContent-Length: 2\nConnection: X-One\nX-One: 1\nConnection: close\n\nok", 200, "ok", nil, []string{"X-One", "Connection"}},
		{
			"repeated fields", "GET", "HTTP/1.1 200 OK\nContent-Length: 0\nSet-Cookie: a=1; Path=/\nSet-Cookie: b=2\nSet-Cookie: a=3\nX-Many: 1\nX-Many: 2\nServer: theirs\n\n", 200, "",
			[]string{"Set-Cookie: a=1; Path=/", "Set-Cookie: b=2", "Set-Cookie: a=3", "X-Many: 1", "X-Many: 2", "Server: theirs"},
			nil,
		},
		{"not ASCII", "GET", "HTTP/1.1 200 OK\nContent-Length: 0\nX-City: 北京\nX-Latin: caf\xe9\n\n", 200, "", []string{"X-City: 北京", "X-Latin: caf\xe9"}, nil},
		{"redirect", "GET", "HTTP/1.1 302 Found\nLocation: http://elsewhere/\nContent-Length: 0\n\n", 302, "", []string{"Location: http://elsewhere/"}, nil},
		{"unknown status", "GET", "HTTP/1.1 299 Odd\nContent-Length: 2\n\nok", 299, "ok", nil, nil},
		{"forged charge", "GET", "HTTP/1.1 404 Not Found\nContent-Length: 0\nX-Tollgate-Charged: call=9\nX-Request-Id: theirs\n\n", 404, "", nil, []string{"X-Tollgate-Charged", "X-Request-Id: theirs"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := startAt(t, answering(t, tt.answer), nil)
			w := f.dial()
			for range 2 {
				w.send(apiHead(tt.method, "/demo/weather") + "\n")
				r := w.reply(tt.method)
				if r.StatusCode != tt.status || r.body != tt.body || r.Close {
					t.Errorf("%d %q, close %v", r.StatusCode, r.body, r.Close)
				}
				has := fieldLines(r)
				for _, l := range tt.want {
					if !slices.Contains(has, l) {
						t.Errorf("%q is missing in %q", l, has)
					}
				}
				for _, l := range tt.none {
					for _, h := range has {
						if strings.HasPrefix(h, l+":") || h == l {
							t.Errorf("%q is there", h)
						}
					}
				}
				if n := len(r.Header.Values("X-Request-Id")); n != 1 {
					t.Errorf("%d request ids", n)
				}
				w.alive()
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if counted := tt.status >= 200 && tt.status < 300; counted != (len(f.records) == 2) {
				t.Errorf("%d calls were counted", len(f.records))
			}
		})
	}
}

// fieldLines lists the fields of an answer as "Name: value", its framing and
// its trailers included.
func fieldLines(r reply) []string {
	var out []string
	for k, vs := range r.Header {
		for _, v := range vs {
			out = append(out, k+": "+v)
		}
	}
	for k, vs := range r.Trailer {
		out = append(out, "Trailer: "+k)
		for _, v := range vs {
			out = append(out, "trailer "+k+": "+v)
		}
	}
	for _, te := range r.TransferEncoding {
		out = append(out, "Transfer-Encoding: "+te)
	}
	return out
}

// TestInterim: 1xx answers of the upstream reach a client that knows them, in
// order, ahead of the answer (RFC 9110 section 15.2), and are never counted
// (METER-7).
func TestInterim(t *testing.T) {
	t.Parallel()
	f := startAt(t, answering(t, "HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </a>\nConnection: X-Hop\nX-Hop: 1\n\nHTTP/1.1 103 Early Hints\nLink: </b>\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok"), nil)
	w := f.dial()
	for range 3 { // also on a connection that has served before
		w.send(apiHead("GET", "/demo/weather") + "\n")
		for _, want := range []string{"</a>", "</b>"} {
			if r := w.reply("GET"); r.StatusCode != 103 || r.Header.Get("Link") != want || r.Header.Get("X-Hop") != "" {
				t.Errorf("%d %v", r.StatusCode, r.Header)
			}
		}
		if r := w.reply("GET"); r.StatusCode != 200 || r.body != "ok" {
			t.Errorf("%d %q", r.StatusCode, r.body)
		}
	}
	w.send(strings.Replace(apiHead("GET", "/demo/weather"), "HTTP/1.1", "HTTP/1.0", 1) + "\n")
	if r := w.reply("GET"); r.StatusCode != 200 {
		t.Errorf("a client of HTTP/1.0 got %d", r.StatusCode)
	}
	f.mu.Lock()
	n := len(f.records)
	f.mu.Unlock()
	if n != 4 {
		t.Errorf("%d calls were counted, want 4", n)
	}
}

// TestInterimPipelined: with an earlier answer still in the server's buffer an
// interim one would land in the middle of it, so it is left out.
func TestInterimPipelined(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 6000) // one and a half of the server's buffers
	f := startAt(t, answering(t, "HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 200 OK\nContent-Length: 6000\n\n"+big), nil)
	w := f.dial()
	w.send(strings.Repeat(apiHead("GET", "/demo/weather")+"\n", 4))
	for i := range 4 {
		r := w.reply("GET")
		if i == 0 && r.StatusCode == 103 {
			r = w.reply("GET")
		}
		if r.StatusCode != 200 || r.body != big {
			t.Fatalf("answer %d: %d, %d bytes", i, r.StatusCode, len(r.body))
		}
	}
}

// TestHTTP10: a client of HTTP/1.0 never gets chunks, and keeps its connection
// only where the answer's length is known.
func TestHTTP10(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, answer, body string
		keep               bool
	}{
		{"length", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "hello", true},
		{"chunked", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nX-A: 1\nTrailer: X-T\n\n5\nhello\n0\nX-T: 1\n\n", "hello", false},
		{"chunked, one read", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nX-A: 1\n\n5\nhello\n0\n\n", "hello", false},
		{"events", "HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\n\nb\ndata: 1\n\n\n0\n\n", "data: 1\r\n\r\n", false},
	} {
		f := startAt(t, answering(t, tt.answer), nil)
		for _, keep := range []bool{false, true} {
			w := f.dial()
			head := strings.Replace(apiHead("GET", "/demo/weather"), "HTTP/1.1", "HTTP/1.0", 1)
			if keep {
				head += "Connection: keep-alive\n"
			}
			w.send(head + "\n")
			r := w.reply("GET")
			if r.StatusCode != 200 || r.body != tt.body || len(r.TransferEncoding) > 0 {
				t.Errorf("%s: %d %q %v", tt.name, r.StatusCode, r.body, r.TransferEncoding)
			}
			if keep && tt.keep {
				w.alive()
			} else {
				w.ended()
			}
		}
		f.idle()
	}
}

// TestLargeAnswer: an answer of 50 MB goes through in little memory and whole.
func TestLargeAnswer(t *testing.T) {
	t.Parallel()
	block := strings.Repeat("0123456789abcdef", 64<<10)
	sizes := map[string]int{"/demo/weather": 50 << 20, "/v1/files/x/content": 8 << 20}
	url := upstreamOf(t, func(p *peer) {
		for {
			req, _, err := p.request()
			if err != nil {
				return
			}
			size := sizes[req.URL.Path]
			p.say("HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: %d\n\n", size)
			for range size / len(block) {
				if _, err := io.WriteString(p, block); err != nil {
					return
				}
			}
		}
	})
	f := startAt(t, url, nil)
	for path, size := range sizes {
		req, err := http.NewRequestWithContext(t.Context(), "GET", f.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Apig-AppCode", appCode)
		req.Header.Set("Authorization", "Bearer "+callKey)
		resp, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		before := heap()
		if _, err := io.CopyN(io.Discard, resp.Body, int64(size/2)); err != nil {
			t.Fatal(err)
		}
		if grown := heap() - before; grown > 16<<20 {
			t.Errorf("%s: %d MiB of memory for an answer under way", path, grown>>20)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || n != int64(size/2) || resp.ContentLength != int64(size) {
			t.Errorf("%s: %d more bytes of %d, %v", path, n, resp.ContentLength, err)
		}
	}
	f.idle()
}

// TestTrickle: each part of a slow answer leaves as it comes, whatever its
// framing.
func TestTrickle(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"length":        "HTTP/1.1 200 OK\nContent-Length: 20\n\n",
		"chunked":       "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n",
		"until the end": "HTTP/1.1 200 OK\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next := make(chan struct{}, 1)
			f := startAt(t, upstreamOf(t, func(p *peer) {
				if _, _, err := p.request(); err != nil {
					return
				}
				p.say("%s", head)
				for i := range 10 {
					select {
					case <-next:
					case <-time.After(patience):
						return
					}
					part := fmt.Sprintf("p%d", i)
					if name == "chunked" {
						part = "2\r\n" + part + "\r\n"
					}
					_, _ = io.WriteString(p, part)
				}
				if name == "chunked" {
					p.say("0\n\n")
				}
			}), nil)
			w := f.dial()
			w.send(apiHead("GET", "/demo/weather") + "\n")
			next <- struct{}{} // one part may have to be there for the head to leave
			resp, err := http.ReadResponse(w.br, nil)
			if err != nil {
				t.Fatal(err)
			}
			body := bufio.NewReader(resp.Body)
			for i := range 10 {
				part := make([]byte, 2)
				if _, err := io.ReadFull(body, part); err != nil || string(part) != fmt.Sprintf("p%d", i) {
					t.Fatalf("part %d: %q %v", i, part, err)
				}
				if i < 9 {
					next <- struct{}{} // the next is sent only now
				}
			}
			if b, err := io.ReadAll(body); err != nil || len(b) > 0 {
				t.Errorf("%q %v", b, err)
			}
		})
	}
}

// TestAnswerBreaks: a client is never left to take a part for the whole.
func TestAnswerBreaks(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"length":          "HTTP/1.1 200 OK\nContent-Length: 50000\n\nhello",
		"chunk":           "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n50\nhel",
		"before the last": "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n",
		"bad chunk":       "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\nzz\n",
	} {
		f := startAt(t, upstreamOf(t, func(p *peer) {
			if _, _, err := p.request(); err == nil {
				p.say("%s", answer)
			}
		}), nil)
		w := f.dial()
		w.send(apiHead("GET", "/demo/weather") + "\n")
		resp, err := http.ReadResponse(w.br, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err == nil || !strings.HasPrefix(string(b), "hello") {
			t.Errorf("%s: %q ended with %v", name, b, err)
		}
		if diff := cmp.Diff(200, f.record(0).Status); diff != "" { // METER-10
			t.Error(diff)
		}
	}
}
