package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// slowStream is an upstream that sends an event each time next allows it, and
// tells on ended when its connection was cut or its stream came to its end.
func slowStream(t testing.TB, events []string) (url string, next chan struct{}, ended chan bool) {
	next, ended = make(chan struct{}, 100), make(chan bool, 1)
	url = upstreamOf(t, func(p *peer) {
		if _, _, err := p.request(); err != nil {
			return
		}
		gone := make(chan struct{})
		go func() { // nothing more is sent to it: this returns when the connection ends
			defer close(gone)
			_, _ = p.br.ReadByte()
		}()
		p.say("HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\n\n")
		for _, e := range events {
			select {
			case <-next:
			case <-gone:
				ended <- false
				return
			case <-time.After(patience):
				return
			}
			if _, err := fmt.Fprintf(p, "%x\r\n%s\r\n", len(e), e); err != nil {
				ended <- false
				return
			}
		}
		p.say("0\n\n")
		ended <- true
		<-gone
	})
	return url, next, ended
}

func await[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// leaves calls the token product for a stream and hangs up after the first
// event.
func (f *fixture) leaves(next chan struct{}) {
	f.t.Helper()
	w := f.dial()
	body := helloStream
	w.send(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\nHost: gw\nAuthorization: Bearer %s\nContent-Length: %d\n\n%s", tokenKey, len(body), body))
	for l := w.line(); l != ""; l = w.line() {
	}
	next <- struct{}{}
	w.chunk()
	_ = w.Conn.(*net.TCPConn).SetLinger(0) // so that the gateway's next write fails
	_ = w.Close()
}

var fullStream = []string{textChunk(0), textChunk(1), textChunk(2), textChunk(3), usageChunk, doneEvent}

// TestClientLeaves: the stream is read on, and the upstream's own figure is
// billed, though nobody reads the answer any more.
func TestClientLeaves(t *testing.T) {
	t.Parallel()
	url, next, ended := slowStream(t, fullStream)
	f := startAt(t, url, nil)
	f.leaves(next)
	for range 10 {
		next <- struct{}{}
	}
	if !await(t, ended, "the upstream's end") {
		t.Error("the upstream was cut off")
	}
	rec := f.record(0)
	if rec.Units[usage.Token] != 46 || rec.Basis != usage.BasisUpstream || !rec.Has(usage.Counted|usage.ClientGone|usage.Streamed) || rec.Has(usage.Incomplete) {
		t.Errorf("%+v", rec)
	}
	f.idle()
}

// TestClientLeavesCancel: where the product says so the upstream is let go.
func TestClientLeavesCancel(t *testing.T) {
	t.Parallel()
	url, next, ended := slowStream(t, fullStream)
	f := startAt(t, url, func(_ *gateway.Config, s *directory.Snapshot) { s.Products[1].OnDisconnect = "cancel" })
	f.leaves(next)
	next <- struct{}{} // the write of these finds the client gone
	next <- struct{}{}
	if await(t, ended, "the upstream's end") {
		t.Error("the upstream was read to its end")
	}
	rec := f.record(0)
	in, out := rec.Units[usage.InputToken], rec.Units[usage.OutputToken]
	if !rec.Has(usage.Counted|usage.ClientGone|usage.Incomplete) || rec.Basis != usage.BasisCounted ||
		in < 1 || out < 1 || out > 20 || rec.Units[usage.Token] != in+out {
		t.Errorf("want the prompt and the chunks relayed, counted: %+v", rec)
	}
}

// TestDrainLimits: reading on is bounded in time, size and number; what was
// seen by then is billed.
func TestDrainLimits(t *testing.T) {
	t.Parallel()
	large := append([]string{usageChunk}, textChunk(1), "data: "+strings.Repeat("x", 5000)+"\n\n", "data: "+strings.Repeat("y", 5000)+"\n\n", textChunk(2), doneEvent)
	for _, tt := range []struct {
		name   string
		events []string
		send   int
		change func(c *gateway.Config)
	}{
		{"time", append([]string{textChunk(9), usageChunk}, fullStream...), 3, func(c *gateway.Config) { c.DrainTimeout = 50 * time.Millisecond }},
		{"size", append([]string{textChunk(9)}, large...), 4, func(c *gateway.Config) { c.DrainBytes = 4000 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url, next, ended := slowStream(t, tt.events)
			f := startAt(t, url, func(c *gateway.Config, _ *directory.Snapshot) { tt.change(c) })
			f.leaves(next)
			for range tt.send {
				next <- struct{}{}
			}
			if await(t, ended, "the upstream's end") {
				t.Error("the upstream was read to its end")
			}
			rec := f.record(0)
			if !rec.Has(usage.Counted|usage.ClientGone|usage.Incomplete) || rec.Units[usage.Token] != 46 || rec.Basis != usage.BasisUpstream {
				t.Errorf("%+v", rec)
			}
			f.idle()
		})
	}
	t.Run("number", func(t *testing.T) {
		t.Parallel()
		f := start(t, func(c *gateway.Config, _ *directory.Snapshot) { c.MaxDrains = 1 })
		for range 2 {
			w := f.dial()
			w.send(fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\nHost: gw\nAuthorization: Bearer %s\nX-Mock-Chunks: 60\nX-Mock-Chunk-Delay: 20ms\nContent-Length: %d\n\n%s", tokenKey, len(helloStream), helloStream))
			for l := w.line(); l != ""; l = w.line() {
			}
			w.chunk()
			_ = w.Conn.(*net.TCPConn).SetLinger(0)
			_ = w.Close()
		}
		if rec := f.record(0); !rec.Has(usage.ClientGone|usage.Incomplete) || rec.Charged(usage.Token) != 0 {
			t.Errorf("one was to be cut off: %+v", rec)
		}
		if rec := f.record(1); !rec.Has(usage.ClientGone) || rec.Has(usage.Incomplete) || rec.Units[usage.Token] != 46 {
			t.Errorf("the other was to be read on: %+v", rec)
		}
	})
}

// TestShutdownCutsDrains: a drain that outlasts the shutdown is cut, and its
// hold resolved.
func TestShutdownCutsDrains(t *testing.T) {
	t.Parallel()
	for _, drains := range []bool{true, false} {
		url, next, _ := slowStream(t, fullStream)
		f := startAt(t, url, nil)
		if drains {
			f.leaves(next)
			next <- struct{}{}
			next <- struct{}{}
		} else {
			w := f.dial()
			w.send(chatHead(helloStream) + helloStream)
			for l := w.line(); l != ""; l = w.line() {
			}
		}
		f.waitHeld(1)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := f.gateway.Shutdown(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "did not end") {
			t.Errorf("shutdown: %v", err)
		}
		f.mu.Lock()
		if f.held != 0 || len(f.records) != 1 || !f.records[0].Has(usage.Counted|usage.Incomplete) {
			t.Errorf("%d held, records %+v", f.held, f.records)
		}
		f.mu.Unlock()
	}
}

// TestUpstreamBreaksStream: the client sees an error, never a regular end; the
// call counts (METER-10) and is marked.
func TestUpstreamBreaksStream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, sent, relayed string
		event               bool // an error event follows
	}{
		{"between events", textChunk(0) + textChunk(1), textChunk(0) + textChunk(1), true},
		{"in an event", textChunk(0) + textChunk(1)[:20], textChunk(0), true},
		{"before the first", "", "", true},
		{"after the usage", textChunk(0) + usageChunk, textChunk(0), true},
		{"after the end", textChunk(0) + usageChunk + doneEvent, textChunk(0) + doneEvent, true},
	} {
		f := startAt(t, upstreamOf(t, func(p *peer) {
			if _, _, err := p.request(); err != nil {
				return
			}
			p.say("HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\n\n")
			if tt.sent != "" {
				_, _ = fmt.Fprintf(p, "%x\r\n%s\r\n", len(tt.sent), tt.sent)
			}
		}), nil)
		w := f.dial()
		w.raw(strings.ReplaceAll(chatHead(helloStream), "\n", "\r\n") + helloStream)
		resp, err := http.ReadResponse(w.br, nil)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		_, err = copyBody(&b, resp)
		rest, ok := strings.CutPrefix(b.String(), tt.relayed)
		if err == nil || !ok || resp.StatusCode != 200 {
			t.Errorf("%s: %d %q, %v", tt.name, resp.StatusCode, b.String(), err)
		}
		if tt.event != strings.HasPrefix(rest, `data: {"error":{"message":"`) {
			t.Errorf("%s: the end is %q", tt.name, rest)
		}
		rec := f.record(0)
		wantTokens := int64(0)
		if strings.Contains(tt.sent, "usage") {
			wantTokens = 46
		}
		if done := strings.Contains(tt.sent, "DONE"); !rec.Has(usage.Counted) || rec.Has(usage.Incomplete) == done || rec.Units[usage.Token] != wantTokens {
			t.Errorf("%s: %+v", tt.name, rec)
		}
	}
}
