package listen_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"tollgate/internal/listen"
)

func open(t *testing.T, addr string, o listen.Options) *listen.Listener {
	t.Helper()
	ln, err := listen.TCP(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// serve answers every connection with name until the port is given up.
func serve(ln net.Listener, name string) (done chan error) {
	done = make(chan error, 1)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				done <- err
				return
			}
			_, _ = c.Write([]byte(name))
			_ = c.Close()
		}
	}()
	return done
}

// TestWhatWaitsIsTaken: connections that nobody had accepted when the drain
// began are served, not reset.
func TestWhatWaitsIsTaken(t *testing.T) {
	t.Parallel()
	ln := open(t, "127.0.0.1:0", listen.Options{})
	var waiting []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		waiting = append(waiting, c)
	}
	drained := make(chan error, 1)
	go func() { drained <- ln.Drain() }()
	done := serve(ln, "a")
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept ended with %v, want net.ErrClosed", err)
	}
	for i, c := range waiting {
		if text, err := io.ReadAll(c); err != nil || string(text) != "a" {
			t.Errorf("connection %d: %q, %v", i, text, err)
		}
	}
	if c, err := net.DialTimeout("tcp", ln.Addr().String(), 5*time.Second); err == nil {
		_ = c.Close()
		t.Error("the port is open after the drain")
	}
}

// TestHandOver: two listeners share a port; while clients go on connecting one
// of them gives it up, and not one client notices.
func TestHandOver(t *testing.T) {
	t.Parallel()
	old := open(t, "127.0.0.1:0", listen.Options{ReusePort: true})
	addr := old.Addr().String()
	if other, err := listen.TCP(addr, listen.Options{}); err == nil {
		_ = other.Close()
		t.Fatal("a port was shared by one that did not ask for it")
	}
	serve(old, "old")
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.DialTimeout("tcp", addr, 10*time.Second)
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				text, err := io.ReadAll(c)
				_ = c.Close()
				if err != nil || len(text) == 0 {
					t.Errorf("read: %q, %v", text, err)
					return
				}
				mu.Lock()
				seen[string(text)]++
				mu.Unlock()
			}
		})
	}
	for round, name := range []string{"1", "2", "3"} {
		next := open(t, addr, listen.Options{ReusePort: true})
		serve(next, name)
		for {
			mu.Lock()
			n := seen[name]
			mu.Unlock()
			if n > 50 || t.Failed() {
				break
			}
			tick := time.NewTimer(time.Millisecond)
			<-tick.C
		}
		if err := old.Drain(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		old = next
	}
	close(stop)
	clients.Wait()
}
