package gateway

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestRelayRead: a caller that reads instead of letting the relay write gets
// the same, in whatever pieces it asks.
func TestRelayRead(t *testing.T) {
	t.Parallel()
	text := []byte("data: {\"choices\":[{}]}\n\ndata: {\"choices\":[],\"usage\":{\"total_tokens\":5}}\n\ndata: [DONE]\n\n")
	g := testGateway(Config{})
	want, _, _ := relayed(g, text, true, familyChat, false, func(left int) int { return left })
	for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader} {
		c, h := relayCall(g, text, true, familyChat, func(left int) int { return min(left, 7) })
		got, err := io.ReadAll(wrap(&c.stream))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q %v, want %q", got, err, want)
		}
		if n, err := c.stream.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("behind the end: %d %v", n, err)
		}
		_ = c.stream.Close()
		_ = c.stream.Close()
		if h.settled != 1 || c.bytesOut != int64(len(want)) {
			t.Errorf("settled %d times, %d bytes out", h.settled, c.bytesOut)
		}
	}
}

// TestRelayPanics: a panic in the middle of a relay breaks the answer, once, and
// the call is settled with what was seen.
func TestRelayPanics(t *testing.T) {
	t.Parallel()
	for _, read := range []bool{true, false} {
		g := testGateway(Config{})
		c, h := relayCall(g, []byte(strings.Repeat("x", 100)), false, familyChat, func(left int) int {
			if left < 50 {
				panic("in the test")
			}
			return 10
		})
		var err error
		if read {
			_, err = io.ReadAll(&c.stream)
		} else {
			_, err = c.stream.WriteTo(io.Discard)
		}
		if !errors.Is(err, errRelay) {
			t.Errorf("%v", err)
		}
		_ = c.stream.Close()
		if h.settled != 1 || h.released != 0 || !c.incomplete || c.clientGone || g.drains.Load() != 0 {
			t.Errorf("settled %d, released %d, incomplete %v, client gone %v", h.settled, h.released, c.incomplete, c.clientGone)
		}
	}
}
