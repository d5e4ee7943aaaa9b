package bench

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"
)

// startUpstream runs a mock upstream for one test.
func startUpstream(t testing.TB) (*Upstream, string) {
	t.Helper()
	u := NewUpstream(UpstreamConfig{})
	url, err := u.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u, url
}

// call sends one request with steering headers ("Status: 503").
func call(t testing.TB, method, url, body string, steer ...string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steer {
		name, value, _ := strings.Cut(s, ": ")
		req.Header.Add("X-Mock-"+name, value)
	}
	resp, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, b, err
}

const chatBody = `{"model":"demo-chat","messages":[{"role":"user","content":"hi"}]}`

// events takes an SSE transcript apart.
func events(t testing.TB, b []byte) (data []string) {
	t.Helper()
	sc := bufio.NewScanner(strings.NewReader(string(b)))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if d, ok := strings.CutPrefix(sc.Text(), "data:"); ok {
			d = strings.TrimPrefix(d, " ")
			if d != "[DONE]" && !json.Valid([]byte(d)) {
				t.Errorf("event is not valid JSON: %s", d)
			}
			data = append(data, d)
		}
	}
	return data
}

// TestFlush: every event leaves as it is made. The second one is an hour away,
// so the first can only be read if it was not held back.
func TestFlush(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	for _, steer := range []string{"Chunks: 3", "Split: 7", "Encoding: gzip"} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", url+"/v1/chat/completions", strings.NewReader(streamBody))
		if err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(steer, ": ")
		req.Header.Set("X-Mock-"+name, value)
		req.Header.Set("X-Mock-Chunk-Delay", "1h")
		resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var r io.Reader = resp.Body
		if name == "Encoding" {
			if r, err = gzip.NewReader(r); err != nil {
				t.Fatal(err)
			}
		}
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil || !strings.Contains(line, `"role":"assistant"`) {
			t.Errorf("%s: %v %s", steer, err, line)
		}
	}
	if s := u.Stats(); s.Active != 3 || s.Peak != 3 || s.Finished != 0 {
		t.Errorf("%+v", s)
	}
	// Close must not wait for the hour, and the clients must see a cut.
	if err := u.Close(); err != nil {
		t.Error(err)
	}
	if s := u.Stats(); s.Active != 0 || s.Finished != 0 {
		t.Errorf("after Close: %+v", s)
	}
}

// TestFlushedApart counts the writes of a stream at the socket: 200 events must
// not be merged into fewer.
func TestFlushedApart(t *testing.T) {
	t.Parallel()
	ln := fasthttputil.NewInmemoryListener()
	counting := &countingListener{Listener: ln}
	u := NewUpstream(UpstreamConfig{})
	done := make(chan error, 1)
	go func() { done <- u.Serve(counting) }()
	c, err := ln.Dial()
	if err != nil {
		t.Fatal(err)
	}
	body := streamBody
	request := "POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Mock-Chunks: 200\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n" + body
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), "data: "); n != 203 {
		t.Errorf("%d events", n)
	}
	if n := counting.writes.Load(); n < 203 {
		t.Errorf("%d writes for 203 events", n)
	}
	if err := errors.Join(c.Close(), u.Close(), <-done); err != nil {
		t.Error(err)
	}
}

// countingListener counts the writes of its connections.
type countingListener struct {
	net.Listener
	writes atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l}, err
}

type countingConn struct {
	net.Conn
	l *countingListener
}

func (c countingConn) Write(b []byte) (int, error) {
	c.l.writes.Add(1)
	return c.Conn.Write(b)
}

// TestStatsExact counts 1,600 answers of 16 clients over 8 paths.
func TestStatsExact(t *testing.T) {
	t.Parallel()
	u, url := startUpstream(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for i := range 100 {
				req, err := http.NewRequestWithContext(t.Context(), "GET", url+"/p"+strconv.Itoa(i%8), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if i%5 == 0 {
					req.Header.Set("X-Mock-Status", "503")
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if err := errors.Join(err, resp.Body.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := u.Stats()
	if s.Total != 1600 || s.Total2xx != 1280 || s.Total5xx != 320 || len(s.Paths) != 8 || s.Active != 0 || s.Peak < 1 || s.Peak > 16 {
		t.Errorf("%+v", s)
	}
	var sum int64
	for p := range s.Paths {
		sum += s.Of(p, 200) + s.Of(p, 503)
	}
	if sum != 1600 {
		t.Errorf("the paths add up to %d", sum)
	}

	// What the mock's own interface says is the same, and is not counted.
	resp, b, err := call(t, "GET", url+"/mock/stats", "")
	var got Stats
	if err != nil || resp.StatusCode != 200 || json.Unmarshal(b, &got) != nil {
		t.Fatalf("%v %s", err, b)
	}
	if d := cmp.Diff(s, got); d != "" {
		t.Error(d)
	}
	if resp, _, err := call(t, "POST", url+"/mock/reset", ""); err != nil || resp.StatusCode != 200 {
		t.Errorf("%v %v", err, resp)
	}
	if s := u.Stats(); s.Total != 0 || len(s.Paths) != 0 || s.Peak != 0 {
		t.Errorf("after the reset: %+v", s)
	}
	// Other paths below /mock/ are echoed like any other.
	if _, _, err := call(t, "GET", url+"/mock/other", ""); err != nil || u.Stats().Of("/mock/other", 200) != 1 {
		t.Errorf("%v %+v", err, u.Stats())
	}
}

func TestManyPaths(t *testing.T) {
	t.Parallel()
	var c counters
	c.init()
	for i := range maxPaths + 50 {
		c.answered([]byte("/p"+strconv.Itoa(i)), 200)
		c.answered([]byte("/p"+strconv.Itoa(i)), 404)
	}
	s := c.snapshot()
	if s.Total != 2*(maxPaths+50) || len(s.Paths) != maxPaths+1 || s.Of(otherPath, 200) != 50 || s.Of(otherPath, 404) != 50 {
		t.Errorf("total %d, %d paths, %v others", s.Total, len(s.Paths), s.Paths[otherPath])
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	var seen atomic.Int64
	u := NewUpstream(UpstreamConfig{OnRequest: func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Request.Header.Peek("Authorization")) != "" {
			seen.Add(1)
		}
	}})
	url, err := u.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if resp, _, err := call(t, "GET", url+"/mock/last", ""); err != nil || resp.StatusCode != 404 {
		t.Errorf("%v %v", err, resp)
	}
	for _, record := range []string{"1", ""} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", url+"/v1/chat/completions?r="+record, strings.NewReader(chatBody))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer upstream-key")
		if record != "" {
			req.Header.Set("X-Mock-Record", record)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(err, resp)
		}
		resp.Body.Close()
	}
	_, b, err := call(t, "GET", url+"/mock/last", "")
	var e Echo
	if err != nil || json.Unmarshal(b, &e) != nil || e.Body != chatBody || e.Query != "r=1" || e.Headers["Authorization"][0] != "Bearer upstream-key" {
		t.Errorf("%v %s", err, b)
	}
	if seen.Load() != 2 {
		t.Errorf("OnRequest saw %d", seen.Load())
	}
}

// TestBodies sends large, chunked and expected bodies.
func TestBodies(t *testing.T) {
	t.Parallel()
	_, url := startUpstream(t)
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	for name, set := range map[string]func(*http.Request){
		"with a length":           func(*http.Request) {},
		"chunked":                 func(r *http.Request) { r.ContentLength = -1 },
		"with Expect":             func(r *http.Request) { r.Header.Set("Expect", "100-continue") },
		"chunked and with Expect": func(r *http.Request) { r.ContentLength = -1; r.Header.Set("Expect", "100-continue") },
	} {
		req, err := http.NewRequestWithContext(t.Context(), "PUT", url+"/x", strings.NewReader(big))
		if err != nil {
			t.Fatal(err)
		}
		set(req)
		resp, err := (&http.Transport{ExpectContinueTimeout: time.Minute, DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(name, err)
		}
		var e Echo
		if err := errors.Join(json.NewDecoder(resp.Body).Decode(&e), resp.Body.Close()); err != nil || e.Body != big {
			t.Errorf("%s: %v, %d bytes", name, err, len(e.Body))
		}
	}
}

// TestClose: a closed upstream refuses to serve and can be closed again.
func TestClose(t *testing.T) {
	t.Parallel()
	u := NewUpstream(UpstreamConfig{})
	url, err := u.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := call(t, "GET", url+"/", ""); err == nil {
		t.Error("it still answers")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Serve(ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve after Close: %v", err)
	}
	if _, err := u.Start("127.0.0.1:999999"); err == nil {
		t.Error("an impossible address is taken")
	}
}

func BenchmarkUpstream(b *testing.B) {
	u := NewUpstream(UpstreamConfig{})
	for name, body := range map[string]string{"chat": chatBody, "stream": streamBody} {
		b.Run(name, func(b *testing.B) {
			var ctx fasthttp.RequestCtx
			ctx.Request.Header.SetMethod("POST")
			ctx.Request.SetRequestURI("/v1/chat/completions")
			ctx.Request.Header.SetHost("h")
			ctx.Request.SetBodyString(body)
			b.ReportAllocs()
			for b.Loop() {
				ctx.Response.Reset()
				u.handle(&ctx)
				if err := ctx.Response.Write(bufio.NewWriter(io.Discard)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
