package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tollgate/internal/testkit/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// server runs serve on each connection until the test ends.
func server(t *testing.T, serve func(c net.Conn, br *bufio.Reader)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + ln.Addr().String()
}

// answer answers every request with text.
func answer(text string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			_, _ = io.WriteString(c, text)
		}
	}
}

func target(t *testing.T, url string, cfg Config) *Target {
	t.Helper()
	target, err := NewTarget(url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Abort)
	return target
}

func get() *Request {
	return &Request{Method: []byte("GET"), Target: []byte("/"), Header: []byte("Host: h\r\n")}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func idleConns(t *Target) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.idle)
}

func (t *Target) busyConns() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := t.busy; c != nil; c = c.next {
		n++
	}
	return n
}

// TestSweep: an idle connection is closed when its time is over although nobody
// calls any more.
func TestSweep(t *testing.T) {
	t.Parallel()
	tg := target(t, server(t, answer(ok)), Config{KeepAlive: 50 * time.Millisecond})
	var all [5]Exchange
	for i := range all {
		if err := all[i].Do(tg, get(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := tg.busyConns(); n != 5 || tg.InFlight() != 5 {
		t.Errorf("%d connections, %d exchanges in use", n, tg.InFlight())
	}
	for i := range all {
		if b, err := io.ReadAll(&all[i]); err != nil || string(b) != "ok" {
			t.Errorf("%q %v", b, err)
		}
		all[i].Close()
		all[i].Close() // does nothing
	}
	if n := idleConns(tg); n != 5 || tg.busyConns() != 0 || tg.InFlight() != 0 {
		t.Errorf("%d idle, %d busy, %d in flight", n, tg.busyConns(), tg.InFlight())
	}
	wait.Until(t, patience, "the idle connections to close", func(context.Context) error {
		if n := idleConns(tg); n > 0 {
			return fmt.Errorf("%d idle", n)
		}
		return nil
	})
	// And it works again after.
	var e Exchange
	if err := e.Do(tg, get(), nil); err != nil {
		t.Fatal(err)
	}
	e.Close()
}

// TestInterrupt wakes a read that waits, and a later one fails at once.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	tg := target(t, server(t, answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")), Config{IdleTimeout: time.Hour})
	var e Exchange
	if err := e.Do(tg, get(), nil); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := e.Read(buf); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := e.Read(buf)
		done <- err
	}()
	e.Interrupt()
	select {
	case err := <-done:
		var failed *Error
		if !errors.As(err, &failed) || failed.Op != OpBody {
			t.Errorf("%v", err)
		}
	case <-time.After(patience):
		t.Fatal("the read was not woken")
	}
	if _, err := e.Read(buf); err == nil {
		t.Error("a read after the interruption went through")
	}
	e.Close()
	e.Interrupt() // nothing is there any more
	if idleConns(tg) != 0 {
		t.Error("the connection was kept")
	}
	// The exchange serves again.
	tg2 := target(t, server(t, answer(ok)), Config{})
	if err := e.Do(tg2, get(), nil); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(&e); err != nil || string(b) != "ok" {
		t.Errorf("%q %v", b, err)
	}
	e.Close()
}

// TestAbort cuts what is in use and refuses what comes later.
func TestAbort(t *testing.T) {
	t.Parallel()
	tg := target(t, server(t, func(_ net.Conn, br *bufio.Reader) { _, _ = br.ReadByte(); _, _ = io.Copy(io.Discard, br) }), Config{})
	done := make(chan error, 3)
	for range 3 {
		go func() {
			var e Exchange
			done <- e.Do(tg, get(), nil)
		}()
	}
	wait.Until(t, patience, "the exchanges", func(context.Context) error {
		if n := tg.busyConns(); n != 3 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	tg.Abort()
	for range 3 {
		select {
		case err := <-done:
			if err == nil {
				t.Error("an exchange went through")
			}
		case <-time.After(patience):
			t.Fatal("an exchange was not cut")
		}
	}
	var e Exchange
	var failed *Error
	if err := e.Do(tg, get(), nil); !errors.As(err, &failed) || failed.Op != OpConnect {
		t.Errorf("%v", err)
	}
	if tg.busyConns() != 0 || tg.InFlight() != 0 {
		t.Errorf("%d busy, %d in flight", tg.busyConns(), tg.InFlight())
	}
}

// TestRequestForms: how each kind of body stands on the wire.
func TestRequestForms(t *testing.T) {
	t.Parallel()
	heads := make(chan string, 1)
	tg := target(t, server(t, func(c net.Conn, br *bufio.Reader) {
		for {
			var head strings.Builder
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				head.WriteString(line)
				if line == "\r\n" {
					break
				}
			}
			_, _ = io.CopyN(io.Discard, br, int64(br.Buffered()))
			heads <- head.String()
			_, _ = io.WriteString(c, ok)
		}
	}), Config{})
	for _, tt := range []struct {
		method string
		req    Request
		want   string
	}{
		{"GET", Request{}, "GET /p?q HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"DELETE", Request{}, "DELETE /p?q HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"POST", Request{}, "POST /p?q HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"},
		{"GET", Request{Body: []byte("x")}, "GET /p?q HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"},
		{"PUT", Request{Stream: strings.NewReader("xyz"), Length: 3}, "PUT /p?q HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"},
		{"PUT", Request{Stream: strings.NewReader("xyz"), Length: -1}, "PUT /p?q HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"},
	} {
		tt.req.Method, tt.req.Target, tt.req.Header = []byte(tt.method), []byte("/p?q"), []byte("Host: h\r\n")
		var e Exchange
		if err := e.Do(tg, &tt.req, nil); err != nil {
			t.Fatal(err)
		}
		e.Close() // its body unread: the connection is not used again
		if got := <-heads; got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	// A stream of another length than said is the source's fault. This server
	// never answers: an early answer would be what counts.
	silent := target(t, server(t, func(_ net.Conn, br *bufio.Reader) { _, _ = io.Copy(io.Discard, br) }), Config{})
	for _, n := range []int64{2, 4} {
		var e Exchange
		err := e.Do(silent, &Request{Method: []byte("PUT"), Target: []byte("/"), Header: []byte("Host: h\r\n"), Stream: strings.NewReader("xyz"), Length: n}, nil)
		var failed *Error
		if !errors.As(err, &failed) || failed.Op != OpClient {
			t.Errorf("length %d: %v", n, err)
		}
	}
}

func TestNewTarget(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"http://h": "h:80 h ", "https://h": "h:443 h ", "http://h:8080/a/b/": "h:8080 h:8080 /a/b", "http://[::1]/x": "[::1]:80 [::1] /x", "http://h/a%20b": "h:80 h /a%20b",
	} {
		tg, err := NewTarget(url, Config{})
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if got := tg.addr + " " + tg.Host() + " " + tg.Base(); got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
		if (tg.tls != nil) != strings.HasPrefix(url, "https") {
			t.Errorf("%s: tls %v", url, tg.tls)
		}
	}
	for _, url := range []string{"", "h", "ftp://h", "http://", "http://u:secret@h", "http://h?q", "http://h#f", "http://[::1"} {
		if _, err := NewTarget(url, Config{}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
