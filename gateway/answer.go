package gateway

import (
	"bytes"
	"io"
	"net"
	"strings"

	"github.com/valyala/fasthttp"

	"tollgate/internal/receipt"
)

// relay relays the upstream's answer: whole, when it is here already or has to
// be read before its header can be written, as a stream otherwise.
func (c *call) relay() refusal {
	up := &c.ex.Response
	c.firstByte = c.g.now()
	c.copyHeader()
	if c.ex.Ended() {
		if err := c.settle(); err != nil {
			return c.unrecorded()
		}
		return c.relayed()
	}
	success := up.StatusCode() >= 200 && up.StatusCode() < 300
	trailers := len(up.Header.PeekTrailerKeys()) > 0
	c.stream.events = isEventStream(up.Header.ContentType())
	switch {
	case c.llm && success && c.stream.events:
		return c.relayEvents()
	case c.llm && success && !trailers && mayBeJSON(up.Header.ContentType()):
		return c.relayWhole(c.g.cfg.MaxAnswerBuffer)
	case trailers || c.stream.events:
		if c.llm && success && mayBeJSON(up.Header.ContentType()) {
			c.stream.scan = c.newScan(nil)
		}
		return c.relayStream(nil)
	default:
		return c.relayFirst()
	}
}

// copyHeader makes the client's answer header out of the upstream's.
func (c *call) copyHeader() {
	h := &c.ctx.Response.Header
	c.ex.Response.Header.CopyTo(h)
	h.SetProtocol([]byte("HTTP/1.1"))
	h.SetNoDefaultContentType(true)
	removeHopByHop(h)
	h.Del("X-Tollgate-Charged")
	if h.StatusCode() == fasthttp.StatusNoContent {
		h.Del(fasthttp.HeaderContentLength) // RFC 9110 section 8.6
	}
	h.SetBytesV("X-Request-Id", c.idText[:])
	if c.grant.Held() {
		c.setLimitHeaders(h)
	}
}

func isEventStream(contentType []byte) bool {
	const t = "text/event-stream"
	return len(contentType) >= len(t) && equalFold(contentType[:len(t)], t)
}

// mayBeJSON reports whether an answer may hold usage. What is known to be
// something else, such as speech, is not kept back to look for it.
func mayBeJSON(contentType []byte) bool {
	return len(contentType) == 0 || bytes.Contains(contentType, []byte("json"))
}

// relayed finishes a call whose answer is complete in ctx.
func (c *call) relayed() refusal {
	_ = c.ctx.Response.Header.SetTrailer("")
	c.setCharged(&c.ctx.Response.Header)
	if c.tape != nil {
		c.tape.begin(&c.ctx.Response.Header)
		c.tape.add(c.ctx.Response.Body())
		c.tape.end(true)
	}
	c.discardBody()
	c.note(c.ctx.Response.StatusCode())
	return refusal{}
}

// unrecorded is the answer of a call that succeeded upstream but could not be
// recorded: it is not charged, and so not given away either.
func (c *call) unrecorded() refusal {
	c.ctx.Response.Reset()
	c.ctx.Response.Header.SetNoDefaultContentType(true)
	return refusal{reason: ReasonJournal}
}

// relayFirst reads once: an answer that came with its header is sent whole, any
// other as a stream, so that nothing waits for the rest.
func (c *call) relayFirst() refusal {
	buf := buffers.Get().(*[]byte)
	n, err := c.ex.Read(*buf)
	switch {
	case err == io.EOF:
		c.bytesOut = int64(n)
		if err := c.settle(); err != nil {
			buffers.Put(buf)
			return c.unrecorded()
		}
		c.ctx.Response.SetBody((*buf)[:n])
		buffers.Put(buf)
		return c.relayed()
	case err != nil && n == 0:
		buffers.Put(buf)
		return c.brokeOff()
	}
	c.stream.buf = buf
	c.stream.err = err
	return c.relayStream((*buf)[:n])
}

// relayWhole reads an LLM product's plain answer to its end, for the usage in
// it and the charge in the header. One longer than limit goes on as a stream.
func (c *call) relayWhole(limit int) refusal {
	resp := &c.ctx.Response
	body := resp.BodyWriter()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for total := 0; ; {
		n, err := c.ex.Read(*buf)
		total += n
		_, _ = body.Write((*buf)[:n])
		switch {
		case err == io.EOF:
			c.bytesOut = int64(total)
			c.readUsage(resp.Body())
			c.renameAnswer()
			if err := c.settle(); err != nil {
				return c.unrecorded()
			}
			return c.relayed()
		case err != nil:
			return c.brokeOff()
		case total > limit:
			c.stream.scan = c.newScan(resp.Body())
			return c.relayStream(bytes.Clone(resp.Body()))
		}
	}
}

// brokeOff is the answer to a call whose upstream broke its answer off before
// any of it was relayed. The upstream's status was its final word: METER-10
// counts it where it was 2xx, but here the client gets an error instead, and a
// gateway error is never metered (GWERR-3).
func (c *call) brokeOff() refusal {
	c.ctx.Response.Reset()
	c.ctx.Response.Header.SetNoDefaultContentType(true)
	c.incomplete = true
	return refusal{reason: ReasonUpstream}
}

// maxUnpack bounds how far a packed answer is unpacked, against bombs.
const maxUnpack = 64 << 20

// readUsage takes the usage out of a whole JSON answer.
func (c *call) readUsage(body []byte) {
	if coding := c.ex.Response.Header.ContentEncoding(); len(coding) > 0 && !equalFold(coding, "identity") {
		s := scanner{tally: c.tally}
		d, err := newDecoder(string(coding), &byteReader{b: body})
		if err != nil || !s.readFrom(d, maxUnpack) {
			return
		}
		if rep, ok := s.report(); ok {
			c.usage.merge(rep)
		}
		return
	}
	c.measureAnswer(body)
	if rep, ok := findUsage(body); ok {
		c.usage.merge(rep)
	} else {
		c.countAnswer(body)
	}
}

// relayStream hands the rest of the answer to the server as a stream behind
// head. From here on the relay owns the exchange and the hold.
func (c *call) relayStream(head []byte) refusal {
	c.escaped = true
	r := &c.stream
	r.c, r.src, r.head = c, &c.ex, head
	if r.buf == nil {
		r.buf = buffers.Get().(*[]byte)
	}
	if len(c.sub.Units) == 1 && !metersTokens(c.sub.Units) && !r.events {
		if counted, _ := judge(c.sub.Mode, c.ex.Response.StatusCode(), c.g.now(), c.g.cfg.PerCallSwitch); counted {
			// The unit is held; it is charged before the last byte leaves.
			c.ctx.Response.Header.Set("X-Tollgate-Charged", "call=1")
		}
	}
	c.follow()
	c.send(c.ex.Response.Header.ContentLength())
	return refusal{}
}

// relayEvents relays a stream of events, looking into each.
func (c *call) relayEvents() refusal {
	c.escaped = true
	r := &c.stream
	r.c, r.src, r.parse = c, &c.ex, true
	r.buf = buffers.Get().(*[]byte)
	r.strip = c.pay.stream && c.family.takesStreamOptions() && !c.pay.wantsUsage
	if c.product.Traffic.MapModelBack {
		r.alias = c.pay.model
	}
	h := &c.ctx.Response.Header
	if coding := c.ex.Response.Header.ContentEncoding(); len(coding) > 0 && !equalFold(coding, "identity") {
		d, err := newDecoder(string(coding), &c.ex)
		if err != nil {
			// It cannot be read, so it can only be passed on.
			r.parse = false
		} else {
			r.src = d
			h.Del(fasthttp.HeaderContentEncoding)
		}
	}
	c.follow()
	c.send(-1)
	return refusal{}
}

// send starts the stream; size is its length, below 0 when that is not known.
func (c *call) send(size int) {
	resp := &c.ctx.Response
	c.discardBody()
	if c.tape != nil {
		c.tape.begin(&resp.Header)
	}
	if size < 0 && !c.ctx.Request.Header.IsHTTP11() {
		c.sendUnframed()
		return
	}
	if size >= 0 {
		_ = resp.Header.SetTrailer("")
	} else {
		size = -1
	}
	resp.ImmediateHeaderFlush = true
	resp.SetBodyStream(&c.stream, size)
}

// interim forwards an interim answer of the upstream (RFC 9110 section 15.2).
// It goes to the connection directly, ahead of the answer. A client of HTTP/1.0
// does not know interim answers, and one that pipelines may have an earlier
// answer still in the buffer: neither gets them.
func (c *call) interim(h *fasthttp.ResponseHeader) {
	if !c.ctx.Request.Header.IsHTTP11() || !c.fresh {
		return
	}
	c.early = true
	removeHopByHop(h)
	out := appendHead(nil, h, func(name []byte) bool {
		switch string(name) {
		case fasthttp.HeaderContentLength, fasthttp.HeaderContentType, fasthttp.HeaderDate, fasthttp.HeaderServer, fasthttp.HeaderTrailer:
			return false
		}
		return true
	})
	// When the client is gone the final answer will find out.
	_, _ = c.ctx.Conn().Write(append(out, "\r\n"...))
}

// appendHead appends the status line and the wanted fields of h.
func appendHead(dst []byte, h *fasthttp.ResponseHeader, want func(name []byte) bool) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = fasthttp.AppendUint(dst, h.StatusCode())
	dst = append(append(append(dst, ' '), fasthttp.StatusMessage(h.StatusCode())...), "\r\n"...)
	for k, v := range h.All() {
		if want(k) {
			dst = append(append(append(append(dst, k...), ": "...), v...), "\r\n"...)
		}
	}
	return dst
}

// sendUnframed relays an answer of unknown length to a client of HTTP/1.0,
// which does not know chunks: the end of the connection ends it.
func (c *call) sendUnframed() {
	out := appendHead(nil, &c.ctx.Response.Header, func(name []byte) bool {
		switch string(name) {
		case fasthttp.HeaderContentLength, fasthttp.HeaderTransferEncoding, fasthttp.HeaderConnection, fasthttp.HeaderTrailer:
			return false
		}
		return true
	})
	out = append(out, "Connection: close\r\n\r\n"...)
	r := &c.stream
	c.ctx.HijackSetNoResponse(true)
	c.ctx.Hijack(func(conn net.Conn) {
		defer func() { _ = r.Close() }() // it never fails
		if _, err := conn.Write(out); err != nil {
			return
		}
		_, _ = r.WriteTo(conn) // why it ended is in the record
	})
	c.detach()
}

// hopByHopFields are the fields of an answer that concern one connection only
// (RFC 9110 section 7.6.1), and the receipt, which is the gateway's to give.
var hopByHopFields = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	receipt.Header,
}

// removeHopByHop deletes the hop-by-hop fields of h, those named by its
// Connection fields among them.
func removeHopByHop(h *fasthttp.ResponseHeader) {
	var listed []string
	found := 0                  // bits of hopByHopFields
	for k, v := range h.All() { // Peek shows "close" alone where that is among several
		if string(k) == fasthttp.HeaderConnection {
			options(v, func(o []byte) {
				if !equalFold(o, "close") && !equalFold(o, "keep-alive") {
					listed = append(listed, string(o))
				}
			})
		}
		for i, name := range hopByHopFields {
			if len(k) == len(name) && strings.EqualFold(view(k), name) {
				found |= 1 << i
			}
		}
	}
	h.ResetConnectionClose()
	for _, name := range listed {
		h.Del(name)
	}
	// Each Del looks through the whole header, and most answers hold none.
	for i, name := range hopByHopFields {
		if found&(1<<i) != 0 {
			h.Del(name)
		}
	}
}
