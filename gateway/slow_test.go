package gateway_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// TestSlowClients dribbles requests in, a byte at a time: the header has its
// time, the body has its time, and neither more for each byte. Others are served
// meanwhile.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	const limit = 300 * time.Millisecond
	f := start(t, func(c *gateway.Config, _ *directory.Snapshot) {
		c.HeaderTimeout, c.ReadTimeout = limit, limit
	})
	head := "POST /demo/weather HTTP/1.1\r\nHost: x\r\nX-Apig-AppCode: " + appCode + "\r\n"
	for _, tc := range []struct{ name, at, slowly string }{
		{"header", "", head + strings.Repeat("X-Pad: y\r\n", 100)},
		{"header behind a request", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", head + strings.Repeat("X-Pad: y\r\n", 100)},
		{"small body", head + "Content-Length: 8000\r\n\r\n", strings.Repeat("b", 8000)},
		{"large body", head + "Content-Length: 100000\r\n\r\n", strings.Repeat("b", 100000)},
		{"chunks", head + "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\nb\r\n", 10000)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", f.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(patience))
			began := time.Now()
			if _, err := io.WriteString(conn, tc.at); err != nil {
				t.Fatal(err)
			}
			go func() {
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for i := range tc.slowly {
					<-tick.C
					if _, err := conn.Write([]byte{tc.slowly[i]}); err != nil {
						return
					}
				}
			}()
			text, _ := io.ReadAll(conn) // ends when the gateway gives up
			took := time.Since(began)
			if !strings.Contains(string(text), " 408 ") || took > 10*limit {
				t.Errorf("after %s: %q", took, text)
			}
			if r := f.chat(greeting); r.StatusCode != 200 {
				t.Errorf("another client meanwhile: %d", r.StatusCode)
			}
		})
	}
}

// TestLongTarget is refused by its own setting.
func TestLongTarget(t *testing.T) {
	t.Parallel()
	f := start(t, func(c *gateway.Config, _ *directory.Snapshot) { c.MaxURI = 100 })
	for n, want := range map[int]int{50: 200, 90: 414} {
		if r := f.do("GET", "/demo/weather/"+strings.Repeat("x", n), "", "X-Apig-AppCode", appCode); r.StatusCode != want {
			t.Errorf("%d more: %d, want %d", n, r.StatusCode, want)
		}
	}
}
