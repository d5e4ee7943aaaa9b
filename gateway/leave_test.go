package gateway_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestLeave: between the announcement and the shutdown every call is served, on
// connections old and new, and each answer ends its connection.
func TestLeave(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	old := f.dial()
	old.alive()
	f.gateway.Leave()
	if err := f.gateway.Ready(); err == nil {
		t.Error("still ready")
	}
	for name, w := range map[string]*wire{"old": old, "new": f.dial()} {
		w.send(chatHead(hello) + hello)
		if r := w.reply("POST"); r.StatusCode != 200 || !r.Close {
			t.Errorf("%s connection: %d, close %v, %s", name, r.StatusCode, r.Close, r.body)
		}
		w.ended()
	}
}

// TestShutdownServesWhoHasJustConnected: a client that opened its connection a
// moment ago would take its end for a failure.
func TestShutdownServesWhoHasJustConnected(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	w, idle := f.dial(), f.dial()
	half := f.dial()
	text := chatHead(hello) + hello
	half.send(text[:20])
	idle.alive()
	done := make(chan error, 1)
	go func() { done <- f.gateway.Shutdown(context.WithoutCancel(t.Context())) }()
	idle.ended() // the shutdown has begun
	w.send(text)
	half.send(text[20:])
	for _, c := range []*wire{w, half} {
		if r := c.reply("POST"); r.StatusCode != 200 || !r.Close {
			t.Errorf("%d, close %v, %s", r.StatusCode, r.Close, r.body)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestShutdownNeverResets: clients call on kept-alive connections while the
// gateway shuts down. Each call is answered, or its connection ends in order
// before any byte of an answer, and then it was not charged.
func TestShutdownNeverResets(t *testing.T) {
	t.Parallel()
	for range 10 {
		f := start(t, nil)
		var clients, ready sync.WaitGroup
		served := make([]int, 16)
		for i := range served {
			ready.Add(1)
			clients.Go(func() {
				w := f.dial()
				defer func() { _ = w.Close() }()
				for n := 0; ; n++ {
					if _, err := io.WriteString(w, strings.ReplaceAll(chatHead(hello), "\n", "\r\n")+hello); err != nil {
						t.Errorf("send call %d: %v", n, err)
						return
					}
					b, err := w.br.Peek(1)
					if n == 0 {
						ready.Done()
					}
					if len(b) == 0 {
						if !errors.Is(err, io.EOF) || n == 0 {
							t.Errorf("call %d: %v, want an answer or the connection's end", n, err)
						}
						return
					}
					r := w.reply("POST")
					if r.StatusCode != 200 {
						t.Errorf("call %d: %d %s", n, r.StatusCode, r.body)
						return
					}
					served[i]++
					if r.Close {
						return
					}
					pauseFor(time.Duration(i) * time.Millisecond)
				}
			})
		}
		ready.Wait()
		if err := f.gateway.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		clients.Wait()
		sum := 0
		for _, n := range served {
			sum += n
		}
		f.mu.Lock()
		if len(f.records) != sum {
			t.Errorf("%d calls were answered, %d recorded", sum, len(f.records))
		}
		f.mu.Unlock()
	}
}

func pauseFor(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}

// TestRequestOnAnIdleConnectionAtTheEnd: what had come in when the connection
// was about to be closed is served.
func TestRequestOnAnIdleConnectionAtTheEnd(t *testing.T) {
	t.Parallel()
	f := start(t, nil)
	w := f.dial()
	w.alive()
	w.send(chatHead(hello) + hello)
	go func() { _ = f.gateway.Shutdown(context.WithoutCancel(t.Context())) }()
	if r := w.reply("POST"); r.StatusCode != 200 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
}
