package gateway

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// noHold counts how it was resolved.
type noHold struct {
	settled, released int
	dry               bool // has three tokens and no more
}

func (h *noHold) Settle(*usage.Record) error { h.settled++; return nil }
func (h *noHold) Release()                   { h.released++ }
func (h *noHold) Note(*usage.Record)         {}

func (h *noHold) Checkpoint(*usage.Record) error { return nil }
func (h *noHold) Free()                          {}

func (h *noHold) Extend(more usage.Units) (usage.Units, error) {
	if h.dry && more != (usage.Units{}) {
		return usage.Units{}, ErrExhausted
	}
	return usage.Units{usage.Token: 3}, nil
}

// testGateway is a gateway for tests of its parts.
func testGateway(cfg Config) *Gateway {
	return New(cfg, Deps{Recorder: &noHold{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
}

// pieces is a reader that returns text in given pieces.
type pieces struct {
	text []byte
	cut  func(left int) int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.text[:p.cut(len(p.text))])
	p.text = p.text[n:]
	return n, nil
}

// relayCall is a call whose answer is text, as a stream of events in the given
// cuts.
func relayCall(g *Gateway, text []byte, strip bool, f family, cut func(left int) int) (*call, *noHold) {
	h := &noHold{}
	c := &call{}
	c.g, c.hold, c.llm, c.family = g, h, true, f
	c.product = &product{metrics: g.metrics.none}
	c.sub = &subscription{Subscription: directory.Subscription{ID: "S", Mode: directory.ModeOnDemand, Units: []usage.Unit{usage.Token}}}
	c.ex.Response.SetStatusCode(200)
	r := &c.stream
	r.c, r.src, r.parse, r.strip = c, &pieces{text, cut}, true, strip
	r.buf = buffers.Get().(*[]byte)
	return c, h
}

// relayed runs text through a relay of events in the given cuts.
func relayed(g *Gateway, text []byte, strip bool, f family, dry bool, cut func(left int) int) (out []byte, c *call, h *noHold) {
	c, h = relayCall(g, text, strip, f, cut)
	h.dry, c.stream.run.grows = dry, dry
	defer buffers.Put(c.stream.buf)
	for {
		b, err := c.stream.step()
		out = append(out, b...)
		if err != nil {
			return out, c, h
		}
	}
}

// FuzzEvents feeds any bytes as a stream of events, whole and cut: nothing
// depends on the cuts, nothing is lost but whole usage chunks, and the call is
// settled once.
func FuzzEvents(f *testing.F) {
	for _, s := range []string{
		"data: {\"choices\":[{}]}\n\ndata: {\"choices\":[],\"usage\":{\"total_tokens\":5}}\n\ndata: [DONE]\n\n",
		"data: {\"choices\":[],\r\ndata: \"usage\":{\"total_tokens\":5}}\r\n\r\ndata:[DONE]\r\n\r\n",
		": c\n\n\n\r\nevent: x\ndata\ndata:\n\n", "data: {\"choices\":[{}]}\r\rdata: {\"choices\":[],\"usage\":{\"total_tokens\":5}}\r\rdata: [DONE]\r\r",
		"\ufeffdata: {\"choices\":[],\"usage\":{\"total_tokens\":5}}\r\r\n\r\n\n\r", "data: [DONE]", "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":5}}}\n\n",
		"data: 0123456789012345678901234567890123456789012345678901234567890123456789\n\ndata: {\"choices\":[],\"usage\":{\"total_tokens\":5}}\n\n",
	} {
		f.Add([]byte(s), uint64(1), uint8(0))
	}
	small := testGateway(Config{MaxEvent: 64})
	large := testGateway(Config{})
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\ndata: {\"text\": \"0123456789012345\"}\n\ndata: {\"delta\":\"abcdefghijklm\\\\\"}\n\n"), uint64(3), uint8(8))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64, how uint8) {
		g := large
		if how&1 != 0 {
			g = small
		}
		fam := familyChat
		if how&4 != 0 {
			fam = familyResponses
		}
		strip := how&2 != 0
		dry := how&8 != 0
		whole, a, ha := relayed(g, text, strip, fam, dry, func(left int) int { return left })
		r := rand.New(rand.NewPCG(seed, 1))
		cut, b, hb := relayed(g, text, strip, fam, dry, func(left int) int { return 1 + r.IntN(min(left, 1+int(seed%9))) })
		if ha.settled != 1 || hb.settled != 1 || ha.released+hb.released != 0 {
			t.Fatalf("settled %d and %d times", ha.settled, hb.settled)
		}
		if !bytes.Equal(whole, cut) {
			t.Fatalf("%q: whole %q, cut %q", text, whole, cut)
		}
		if a.usage != b.usage || a.incomplete != b.incomplete {
			t.Fatalf("%q: whole %+v %v, cut %+v %v", text, a.usage, a.incomplete, b.usage, b.incomplete)
		}
		if a.dry != b.dry {
			t.Fatalf("%q: dry %v, cut %v", text, a.dry, b.dry)
		}
		if a.dry {
			if !bytes.Contains(whole, []byte(`"code":"insufficient_quota"`)) {
				t.Fatalf("%q: %q ends without an error", text, whole)
			}
			return
		}
		if !strip && !bytes.Equal(whole, text) {
			t.Fatalf("%q became %q", text, whole)
		}
		if strip && !bytes.Contains(text, []byte("sage")) && !bytes.Equal(whole, text) {
			t.Fatalf("%q became %q", text, whole)
		}
		// What was dropped is whole lines, in their order.
		if !isSubsequence(lines(whole), lines(text)) {
			t.Fatalf("%q became %q", text, whole)
		}
	})
}

// lines splits a stream behind its line ends: CR, LF or both.
func lines(text []byte) (list [][]byte) {
	for {
		i := bytes.IndexAny(text, "\r\n")
		if i < 0 {
			return append(list, text)
		}
		if i++; text[i-1] == '\r' && i < len(text) && text[i] == '\n' {
			i++
		}
		list, text = append(list, text[:i]), text[i:]
	}
}

func isSubsequence(short, long [][]byte) bool {
	if n := len(short); len(short[n-1]) == 0 {
		short = short[:n-1] // nothing stands behind the last line end
	}
	i := 0
	for _, l := range long {
		if i < len(short) && bytes.Equal(short[i], l) {
			i++
		}
	}
	return i == len(short)
}
