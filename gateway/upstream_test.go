package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// refusing is an address where nobody listens.
func refusing(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	return "http://" + ln.Addr().String()
}

// TestFailover: an upstream that cannot be reached is passed over, also with a
// streamed body, of which nothing was read yet; one that can is asked once.
func TestFailover(t *testing.T) {
	t.Parallel()
	dead := refusing(t)
	f := start(t, func(_ *gateway.Config, s *directory.Snapshot) {
		for i := range s.Products {
			live := s.Products[i].Upstreams[0]
			s.Products[i].Upstreams = []directory.Upstream{
				{ID: "dead", URL: dead, Weight: 1000}, live, {ID: "dead2", URL: dead + "/2", Weight: 1000},
			}
		}
	})
	for i := range 20 {
		if r := f.chat(hello); r.StatusCode != 200 {
			t.Fatalf("call %d: %d %s", i, r.StatusCode, r.body)
		}
	}
	big := strings.Repeat("x", 100_000)
	if r := f.do("POST", "/demo/weather", big, "X-Apig-AppCode", appCode); r.StatusCode != 200 || r.echo(t).Body != big {
		t.Errorf("%d", r.StatusCode)
	}
	if n := f.mock.Stats().Total; n != 21 {
		t.Errorf("%d requests arrived, want 21", n)
	}

	all := startAt(t, dead, nil)
	for i := range 10 {
		r := all.chat(hello)
		want := "upstream_unavailable"
		if i >= 5 {
			want = "no_backend" // the breaker spares the try
		}
		if r.StatusCode != 502 || r.openAI(t).Code != want {
			t.Errorf("call %d: %d %s", i, r.StatusCode, r.body)
		}
	}
	if r := all.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 502 || r.code(t) != "APIGW.0202" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	none := startAt(t, dead, func(_ *gateway.Config, s *directory.Snapshot) { s.Products[2].Upstreams = nil })
	if r := none.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 502 || r.code(t) != "APIGW.0610" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
}

// TestBalance: calls one after another go by weight.
func TestBalance(t *testing.T) {
	t.Parallel()
	var counts [3]atomic.Int64
	url := func(i int) string {
		return upstreamOf(t, func(p *peer) {
			for {
				if _, _, err := p.request(); err != nil {
					return
				}
				counts[i].Add(1)
				p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
			}
		})
	}
	a, b, c := url(0), url(1), url(2)
	f := startAt(t, a, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Products[2].Upstreams = []directory.Upstream{{ID: "a", URL: a, Weight: 6}, {ID: "b", URL: b, Weight: 3}, {ID: "c", URL: c}}
	})
	const n = 1000
	for range n {
		if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 200 {
			t.Fatal(r.StatusCode)
		}
	}
	for i, want := range []float64{.6, .3, .1} {
		if got := float64(counts[i].Load()) / n; got < want-.06 || got > want+.06 {
			t.Errorf("upstream %d got %v of the calls, want %v", i, got, want)
		}
	}
}

// TestStaleConnection: an upstream that closes idle connections costs no call,
// and nothing is sent twice: not a POST, whose first copy may have had its
// effect.
func TestStaleConnection(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	closing := make(chan chan struct{}, 10)
	f := startAt(t, upstreamOf(t, func(p *peer) {
		if _, _, err := p.request(); err != nil {
			return
		}
		served.Add(1)
		p.say("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
		done := make(chan struct{})
		closing <- done
		<-done // then it closes, unannounced
	}), nil)
	for i, method := range []string{"POST", "POST", "GET", "PUT", "DELETE", "POST", "PATCH"} {
		if r := f.do(method, "/demo/weather", "body", "X-Apig-AppCode", appCode); r.StatusCode != 200 {
			t.Errorf("%s: %d %s", method, r.StatusCode, r.body)
		}
		close(await(t, closing, "the upstream"))
		idle(t, 5*time.Millisecond) // the end of the connection is on its way
		if n := served.Load(); n != int64(i+1) {
			t.Errorf("after %s the upstream served %d, want %d", method, n, i+1)
		}
	}
}

// idle lets d pass. It stands where there is nothing to ask whether it is time:
// what is waited for is on its way between two sockets.
func idle(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// TestRetries: a connection that breaks while its request is on the way is asked
// again only where that is harmless and nothing came back.
func TestRetries(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, body string
		want         int // requests that arrive
		status       int
	}{
		{"GET", "", 2, 200},
		{"PUT", "x", 2, 200},
		{"DELETE", "", 2, 200},
		{"HEAD", "", 2, 200},
		{"OPTIONS", "", 2, 200},
		{"POST", "x", 1, 502},
		{"PATCH", "x", 1, 502},
		{"POST", "", 1, 502},
		{"PUT", strings.Repeat("x", 20_000), 1, 502}, // its stream cannot be read again
	} {
		var mu sync.Mutex
		arrived := 0
		f := startAt(t, upstreamOf(t, func(p *peer) {
			for i := 0; ; i++ {
				req, _, err := p.request()
				if err != nil {
					return
				}
				if req.URL.Path == "/demo/weather/first" {
					p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
					continue
				}
				mu.Lock()
				arrived++
				mu.Unlock()
				if i > 0 { // a kept connection that goes just now
					return
				}
				p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
			}
		}), nil)
		f.do("GET", "/demo/weather/first", "", "X-Apig-AppCode", appCode)
		r := f.do(tt.method, "/demo/weather", tt.body, "X-Apig-AppCode", appCode)
		mu.Lock()
		if r.StatusCode != tt.status || arrived != tt.want {
			t.Errorf("%s with %d bytes: %d, %d arrived, want %d, %d", tt.method, len(tt.body), r.StatusCode, arrived, tt.status, tt.want)
		}
		mu.Unlock()
	}
	// On a fresh connection nothing is repeated at all.
	var n atomic.Int64
	f := startAt(t, upstreamOf(t, func(p *peer) {
		if _, _, err := p.request(); err == nil {
			n.Add(1)
		}
	}), nil)
	if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 502 || n.Load() != 1 {
		t.Errorf("%d, %d arrived", r.StatusCode, n.Load())
	}
}

// TestUpstreamTimeouts: an upstream that does not answer is 504, one that stops
// in its answer breaks it, and none of it is charged but what began as 2xx.
func TestUpstreamTimeouts(t *testing.T) {
	t.Parallel()
	silent := func(answer string) string {
		return upstreamOf(t, func(p *peer) {
			if _, _, err := p.request(); err != nil {
				return
			}
			p.say("%s", answer)
			_, _ = p.br.ReadByte() // until the gateway has enough
		})
	}
	short := func(c *gateway.Config, _ *directory.Snapshot) {
		c.FirstByteTimeout, c.StreamIdleTimeout = 100*time.Millisecond, 100*time.Millisecond
	}
	for _, answer := range []string{"", "HTTP/1.1 200 OK\nX-Half: 1", "HTTP/1.1 103 Early Hints\n\n"} {
		f := startAt(t, silent(answer), short)
		if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 504 || r.code(t) != "APIGW.0203" {
			t.Errorf("%q: %d %s", answer, r.StatusCode, r.body)
		}
		if r := f.chat(hello); r.StatusCode != 504 || r.openAI(t).Code != "upstream_timeout" {
			t.Errorf("%q: %d %s", answer, r.StatusCode, r.body)
		}
		f.mu.Lock()
		if len(f.records) != 0 || len(f.notes) != 2 {
			t.Errorf("%q: %d records, %d notes", answer, len(f.records), len(f.notes))
		}
		f.mu.Unlock()
	}
	f := startAt(t, silent("HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n"+textChunk(0)), short)
	text, err := f.broken(helloStream)
	if err == nil || !strings.Contains(text, `data: {"error":{`) {
		t.Errorf("a stream that stopped: %q %v", text, err)
	}
	if rec := f.record(0); !rec.Has(usage.Counted | usage.Incomplete) {
		t.Errorf("%+v", rec)
	}
}

// TestBadAnswers: what is no answer is 502, and the next call gets another
// connection.
func TestBadAnswers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"garbage":         "\x00\x01\x02 hello\r\n\r\n",
		"no status":       "HTTP/1.1 OK\r\n\r\n",
		"status of two":   "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
		"large header":    "HTTP/1.1 200 OK\r\nX-Large: " + strings.Repeat("x", 20_000) + "\r\n\r\n",
		"two lengths":     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"bad length":      "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab",
		"unknown coding":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
		"switched":        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"interim without": strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 200) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"half a header":   "HTTP/1.1 200 OK\r\nContent-Le",
		"nothing":         "",
	} {
		var conns atomic.Int64
		f := startAt(t, upstreamOf(t, func(p *peer) {
			for {
				req, _, err := p.request()
				if err != nil {
					return
				}
				if req.URL.Path == "/demo/weather/good" {
					conns.Add(1)
					p.say("HTTP/1.1 200 OK\nContent-Length: 0\n\n")
					continue
				}
				_, _ = io.WriteString(p, answer)
				return
			}
		}), nil)
		if r := f.do("POST", "/demo/weather", "x", "X-Apig-AppCode", appCode); r.StatusCode != 502 || r.code(t) != "APIGW.0202" {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.body)
		}
		if r := f.do("POST", "/demo/weather/good", "x", "X-Apig-AppCode", appCode); r.StatusCode != 200 {
			t.Errorf("%s: the next call got %d %s", name, r.StatusCode, r.body)
		}
		f.mu.Lock()
		if len(f.records) != 1 {
			t.Errorf("%s: %d records", name, len(f.records))
		}
		f.mu.Unlock()
	}
}

// TestUnaskedBytes: what an upstream sends behind its answer is never taken for
// the answer to the next request.
func TestUnaskedBytes(t *testing.T) {
	t.Parallel()
	sent := make(chan struct{}, 16)
	f := startAt(t, upstreamOf(t, func(p *peer) {
		for i := 0; ; i++ {
			if _, _, err := p.request(); err != nil {
				return
			}
			p.say("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
			p.say("HTTP/1.1 200 OK\nContent-Length: 6\n\npoison")
			sent <- struct{}{}
		}
	}), nil)
	for range 5 {
		if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 200 || r.body != "ok" {
			t.Errorf("%d %q", r.StatusCode, r.body)
		}
		<-sent
		idle(t, 3*time.Millisecond) // beyond which a connection is looked at before it is used
	}
}

// TestEarlyAnswer: an upstream that answers while the upload runs is heard at
// once, whether it then reads on, stops or closes.
func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"stops", "stops late", "reads on", "closes", "resets"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			f := startAt(t, upstreamOf(t, func(p *peer) {
				if _, err := p.head(); err != nil {
					return
				}
				if how == "stops late" {
					idle(t, 300*time.Millisecond) // the gateway is in the middle of a write by then
				}
				p.say("HTTP/1.1 413 Content Too Large\nContent-Length: 4\n\nmuch")
				switch how {
				case "stops", "stops late":
					idle(t, patience)
				case "reads on":
					_, _ = io.Copy(io.Discard, p.br)
				case "closes":
					_ = p.Conn.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, io.LimitReader(p.br, 1<<20))
				case "resets":
					idle(t, 20*time.Millisecond)
					_ = p.Conn.(*net.TCPConn).SetLinger(0)
				}
			}), func(c *gateway.Config, _ *directory.Snapshot) { c.MaxBody = 1 << 40 })
			const size = 64 << 20 // more than the sockets between hold
			w := f.dial()
			w.send(apiHead("POST", "/demo/weather", fmt.Sprintf("Content-Length: %d", size)) + "\n")
			go func() {
				block := make([]byte, 64<<10)
				for range size / len(block) {
					if _, err := w.Write(block); err != nil {
						return
					}
					if how == "reads on" {
						idle(t, 10*time.Millisecond) // ten seconds for all of it
					}
				}
			}()
			began := time.Now()
			r := w.reply("POST")
			if r.StatusCode != 413 || r.body != "much" || !r.Close {
				t.Errorf("%d %q, close %v", r.StatusCode, r.body, r.Close)
			}
			if d := time.Since(began); d > patience/2 {
				t.Errorf("the answer took %v", d)
			}
		})
	}
}

// TestUploadAborted: a client that hangs up in its upload is no failure of the
// upstream, and is not charged.
func TestUploadAborted(t *testing.T) {
	t.Parallel()
	for _, framing := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
		got := make(chan error, 1)
		f := startAt(t, upstreamOf(t, func(p *peer) {
			req, err := http.ReadRequest(p.br)
			if err != nil {
				return
			}
			_, err = io.Copy(io.Discard, req.Body)
			got <- err
		}), nil)
		w := f.dial()
		w.send(apiHead("POST", "/demo/weather", framing) + "\n")
		if strings.HasPrefix(framing, "T") {
			w.send("2710\n" + strings.Repeat("x", 10_000) + "\n")
		} else {
			w.raw(strings.Repeat("x", 10_000))
		}
		f.waitHeld(1)
		_ = w.Close()
		if err := await(t, got, "the upstream"); err == nil {
			t.Errorf("%s: the upstream took the part for the whole", framing)
		}
		f.idle()
		f.mu.Lock()
		if len(f.records) != 0 {
			t.Errorf("%s: %+v", framing, f.records)
		}
		f.mu.Unlock()
	}
}

// TestKeepAlive: connections to an upstream are used again, and those of a
// target that left the directory are closed.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	var conns, open atomic.Int64
	url := upstreamOf(t, func(p *peer) {
		conns.Add(1)
		open.Add(1)
		defer open.Add(-1)
		for {
			if _, _, err := p.request(); err != nil {
				return
			}
			p.say("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
		}
	})
	f := startAt(t, url, nil)
	call := func() {
		t.Helper()
		if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 200 {
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
	}
	for range 10 {
		call()
	}
	next := snapshot(url)
	next.Version = 2
	if err := f.gateway.Swap(next); err != nil {
		t.Fatal(err)
	}
	call()
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 11 calls", n)
	}
	if err := f.gateway.Swap(snapshot(refusing(t))); err != nil {
		t.Fatal(err)
	}
	f.eventually("the old connection to close", func() error {
		if n := open.Load(); n != 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
}
