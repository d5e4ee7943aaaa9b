//go:build !race

package gateway_test

import (
	"bufio"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// TestAllocations: a call allocates next to nothing, whatever its credential.
// The upstream and the client of the test allocate nothing.
func TestAllocations(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		most          float64
	}{
		{"AppCode", "GET /demo/weather/today?city=beijing HTTP/1.1\r\n" + benchFields + "X-Apig-AppCode: " + appCode + "\r\n\r\n", 1.5},
		{"API key", fmt.Sprintf("POST /v1/infers/%s/v1/chat/completions HTTP/1.1\r\n%sAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", callInfer, benchFields, callKey, len(hello), hello), 0.5},
	} {
		up := fixedUpstream(t, []byte(benchAnswer("application/json", `{"x":"`+strings.Repeat("x", 1000)+`","usage":{"prompt_tokens":12,"completion_tokens":34}}`)))
		c, err := net.Dial("tcp", benchGateway(t, up))
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReaderSize(c, 64<<10)
		var h fasthttp.ResponseHeader
		request := []byte(tt.request)
		one := func() {
			_, _ = c.Write(request)
			if err := h.Read(br); err != nil || h.StatusCode() != 200 {
				t.Fatal(err, h.StatusCode())
			}
			_, _ = br.Discard(h.ContentLength())
		}
		for range 100 {
			one()
		}
		const n = 2000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			one()
		}
		runtime.ReadMemStats(&after)
		_ = c.Close()
		if got := float64(after.Mallocs-before.Mallocs) / n; got > tt.most {
			t.Errorf("%s: %.1f allocations a call, want at most %v", tt.name, got, tt.most)
		}
	}
}
