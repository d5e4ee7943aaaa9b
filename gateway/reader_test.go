package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// TestSlowReaders: clients that take nothing of endless streams hold up their
// upstreams, not the gateway's memory: what is buffered for each is bounded, by
// the kernel's sockets and a few buffers, and the rest waits at the upstream.
// Each ends when its client has taken nothing for the write timeout.
func TestSlowReaders(t *testing.T) {
	const (
		readers = 50
		event   = 4 << 10
		most    = 256 << 10 // of the gateway's memory for each
	)
	var sent atomic.Int64
	chunk := []byte("data: {\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("x", event) + "\"}}]}\n\n")
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
			sent.Add(int64(len(chunk)))
		}
	}))
	t.Cleanup(up.Close)
	f := startAt(t, up.URL, func(c *gateway.Config, s *directory.Snapshot) {
		c.WriteTimeout = 2 * time.Second
		s.Products[0].OnDisconnect = "cancel"
	})
	memory := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	before := memory()
	for range readers {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		body := strings.Replace(hello, "{", `{"stream":true,`, 1)
		head := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + callKey + "\r\n"
		if _, err := io.WriteString(conn, head+"Content-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if line, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
			t.Fatalf("%q %v", line, err)
		}
	}
	// They are stuck once the upstream can write no more.
	last := int64(-1)
	f.eventually("the streams to stop", func() error {
		now := sent.Load()
		idle(t, 200*time.Millisecond)
		if last = sent.Load(); last != now {
			return io.ErrShortWrite
		}
		return nil
	})
	if grown := (memory() - before) / readers; grown > most {
		t.Errorf("%d bytes of memory for each slow reader, want at most %d", grown, most)
	} else {
		t.Logf("%d bytes of memory for each slow reader; %d MB wait in sockets", grown, sent.Load()>>20)
	}
	// Others are served meanwhile, and the slow ones do not stay for ever.
	f.eventually("the holds to be given back", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.held != 0 {
			return io.ErrShortBuffer
		}
		return nil
	})
}
