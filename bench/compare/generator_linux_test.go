package compare

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/bench"
)

// stallingServer answers every request with "ok", but makes those of one
// interval wait until it is over.
func stallingServer(t *testing.T, from, to time.Duration) (addr string, served func() int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var first time.Time
	n := 0
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		if first.IsZero() {
			first = time.Now()
		}
		at := time.Since(first)
		n++
		mu.Unlock()
		if at >= from && at < to {
			select {
			case <-time.After(to - at):
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "ok")
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return ln.Addr().String(), func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// TestOmission: a server that stalls for 200 ms delays all calls that were due
// meanwhile, and an open loop says so although it has one connection only. A
// generator that waits before it times would report one slow call.
func TestOmission(t *testing.T) {
	t.Parallel()
	addr, served := stallingServer(t, 100*time.Millisecond, 300*time.Millisecond)
	g, err := newGenerator(order{
		Scenario: bench.Scenario{Name: "call", URL: "http://" + addr + "/"}, Connections: 1, Rate: 500, Duration: 600 * time.Millisecond, Body: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if err := g.phase(g.order.Duration, true); err != nil {
		t.Fatal(err)
	}
	g.out.fill(g.total)
	if g.out.Errors > 0 || g.out.Requests < 150 || int64(served()) != g.out.Requests {
		t.Fatalf("%+v, %d served", g.out, served())
	}
	// 100 of about 300 calls were due within the stall; their waits run from 200
	// ms down to none, so a tenth of all calls waited more than 100 ms.
	if p90 := g.total.ValueAtQuantile(90); p90 < 80_000 {
		t.Errorf("p90 is %d µs: the calls that were due in the stall are missing", p90)
	}
	if g.out.Late < 50 {
		t.Errorf("%d calls found no connection free, want about 100", g.out.Late)
	}
}

// TestErrorsAreCounted: what is no right answer is an error, never a call.
func TestErrorsAreCounted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, answer, want string }{
		{"status", "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nok", "status 500"},
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "3 bytes in place of 2"},
		{"cut", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", "EOF"},
		{"form", "nonsense\r\n\r\n", errAnswer.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
						_, _ = c.Write([]byte(tt.answer))
					}
					_ = c.Close()
				}
			}()
			defer func() { _ = ln.Close(); <-done }()
			g, err := newGenerator(order{
				Scenario: bench.Scenario{Name: "call", URL: "http://" + ln.Addr().String() + "/"}, Connections: 1, Rate: 100, Duration: 100 * time.Millisecond, Body: 2,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer g.close()
			if err := g.phase(g.order.Duration, true); err != nil {
				t.Fatal(err)
			}
			if g.out.Requests != 0 || g.out.Errors == 0 || !strings.Contains(g.out.FirstErr, tt.want) {
				t.Errorf("%+v, want an error that names %q", g.out, tt.want)
			}
		})
	}
}

// TestUpstream: the mock's answers are what the targets are held to, and
// several calls on one connection do not get in each other's way.
func TestUpstream(t *testing.T) {
	t.Parallel()
	s := shape{Answer: 600, Chunks: 3, Delay: time.Millisecond}
	u := newUpstream(s)
	addr, err := u.open()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- u.run() }()
	t.Cleanup(func() {
		u.poll.stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	direct := &target{name: nameDirect, exact: true, call: plainCall(addr, addr)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := direct.check(ctx, s); err != nil {
		t.Fatal(err)
	}
	if n := len(s.answer()); n != 600 {
		t.Errorf("an answer of %d bytes, want 600", n)
	}
	for _, stream := range []bool{false, true} {
		o := order{Scenario: direct.call(stream), Connections: 4, Duration: 100 * time.Millisecond, Body: int64(len(s.answer()))}
		if stream {
			o.Body = int64(len(s.streamed()))
		}
		g, err := newGenerator(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.phase(o.Duration, true); err != nil {
			t.Error(err)
		}
		g.close()
		if g.out.Errors != 0 || g.out.Requests < 8 {
			t.Errorf("stream %v: %+v", stream, g.out)
		}
	}
}
