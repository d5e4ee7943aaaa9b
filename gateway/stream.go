package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"
)

// bufferSize is the size of the buffers answers pass through.
const bufferSize = 16 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// relay is the body of an answer that is relayed as it comes. fasthttp pulls it
// through WriteTo on the connection's own goroutine, with no pipe between; each
// step delivers what one read of the upstream brought and is flushed.
//
// The call is settled before the step that ends the answer is delivered: ahead
// of "[DONE]", of the last event of the responses API, or of the end of the
// body. So whoever has seen a complete answer has been charged for it, whatever
// dies then.
type relay struct {
	c    *call
	src  io.Reader // the exchange, or a decoder on it
	head []byte    // delivered first
	buf  *[]byte   // from buffers
	err  error     // the end: io.EOF, or why it broke
	ends atomic.Bool

	events bool     // the answer is a stream of events
	scan   *scanner // looks for usage in a long plain answer

	// Event streams of LLM products.
	parse bool
	strip bool   // drop the usage chunk the client did not ask for
	out   []byte // to be delivered
	line  []byte // line under way
	data  []byte // data of the event under way
	event []byte // raw bytes of the event under way, kept back while strip is set
	big   bool   // the event under way is too long to be looked into
	mid   bool   // bytes of the event under way were delivered
	done  bool   // the stream's own end was seen

	pos int // Read's place in out
	cur []byte
}

// SupportsBodyWriteTo tells fasthttp to use WriteTo.
func (r *relay) SupportsBodyWriteTo() bool { return true }

// WriteTo delivers the answer to w, flushing each step.
func (r *relay) WriteTo(w io.Writer) (total int64, err error) {
	defer r.recovered(&err)
	flush, _ := w.(*bufio.Writer) // fixed length; chunks are flushed by their writer
	for {
		b, err := r.step()
		if len(b) > 0 {
			n, werr := w.Write(b)
			total += int64(n)
			r.c.bytesOut += int64(n)
			if werr == nil && flush != nil {
				werr = flush.Flush()
			}
			if werr != nil {
				r.c.clientGone = true
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Read delivers the answer to a caller that does not use WriteTo.
func (r *relay) Read(p []byte) (n int, err error) {
	defer r.recovered(&err)
	for r.pos == len(r.cur) {
		if r.err != nil && r.cur != nil {
			return 0, r.err
		}
		b, err := r.step()
		r.cur, r.pos = b, 0
		if err != nil {
			r.err = err
			if len(b) == 0 {
				return 0, err
			}
		}
	}
	n = copy(p, r.cur[r.pos:])
	r.pos += n
	r.c.bytesOut += int64(n)
	return n, nil
}

// recovered turns a panic in the relay into a broken answer.
func (r *relay) recovered(err *error) {
	if p := recover(); p != nil {
		c := r.c
		c.g.metrics.panics.Inc()
		c.g.log.Error("panic in a relay", "request_id", c.idString(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		c.incomplete = true
		*err = errors.New("gateway: the relay failed")
	}
}

// step returns the next bytes to deliver; they are valid until the next call.
// An error may come with bytes, which are to be delivered first.
func (r *relay) step() ([]byte, error) {
	if r.head != nil {
		b := r.head
		r.head = nil
		if r.err != nil {
			return b, r.end(r.err)
		}
		if len(b) > 0 {
			return b, nil
		}
	}
	for {
		n, err := r.src.Read(*r.buf)
		b := (*r.buf)[:n]
		if r.scan != nil {
			r.scan.feed(b)
		}
		if r.parse {
			r.out = r.out[:0]
			if ferr := r.feed(b); ferr != nil {
				return r.out, ferr
			}
			b = r.out
		}
		if err != nil {
			err = r.end(err)
			if r.parse {
				b = r.out
			}
			return b, err
		}
		if len(b) > 0 {
			return b, nil
		}
	}
}

// end is called once when the upstream's answer ended. It settles the call and
// returns the error the client's answer ends with.
func (r *relay) end(err error) error {
	c := r.c
	if err != io.EOF {
		c.incomplete = true
	} else if r.parse && !r.done && c.family.takesStreamOptions() {
		c.incomplete = true // LLM-38
	}
	if r.scan != nil {
		if rep, ok := r.scan.report(); ok {
			c.usage = rep
		}
	}
	if r.parse {
		r.flushPartial(err == io.EOF)
	}
	serr := c.settle()
	switch {
	case serr != nil:
		r.failEvent(ReasonJournal)
		err = serr
	case err != io.EOF:
		r.failEvent(ReasonUpstream)
	default:
		c.copyTrailers()
	}
	r.err = err
	return err
}

// flushPartial delivers what is left of an event that was not ended by a blank
// line: at a regular end it is the client's to judge, at a break it is dropped
// where nothing of it was delivered yet.
func (r *relay) flushPartial(regular bool) {
	if !regular {
		return
	}
	if len(r.line) > 0 {
		r.takeLine(r.line, false)
	}
	if len(r.data) > 0 && !r.big {
		_, _ = r.dispatch()
	}
	if r.strip && !r.big {
		r.out = append(r.out, r.event...)
	}
	r.event = r.event[:0]
}

// failEvent appends an error event, which makes every OpenAI SDK raise
// (gateway-wire section 4.2), unless it would land inside another event.
func (r *relay) failEvent(reason Reason) {
	if !r.parse || r.mid {
		return
	}
	w := &table[reason]
	msg := w.llmMsg
	if msg == "" {
		msg = w.msg
	}
	r.out = append(r.out, "data: "...)
	r.out = appendEnvelope(r.out, true, r.c.g.cfg.ErrorPrefix, w, msg, "", r.c.idText[:])
	r.out = append(r.out, "\n\n"...)
}

// feed takes the next bytes of an event stream apart into lines and appends to
// out what is to be delivered. It does not matter where the bytes were cut.
func (r *relay) feed(b []byte) error {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			r.keep(b)
			r.line = append(r.line, b...)
			if len(r.line)+len(r.data) > r.c.g.cfg.MaxEvent {
				r.giveUp()
			}
			return nil
		}
		seg := b[:i+1]
		b = b[i+1:]
		line := seg
		if len(r.line) > 0 {
			r.line = append(r.line, seg...)
			line = r.line
		}
		blank := isBlankLine(line)
		if blank {
			// The event ends here: judge it before its last byte is delivered.
			drop, err := r.dispatch()
			if err != nil {
				r.failEvent(ReasonJournal)
				r.err = err
				return err
			}
			if !drop {
				r.keep(seg)
				r.out = append(r.out, r.event...)
			}
			r.event, r.mid, r.big = r.event[:0], false, false
			if cap(r.event) > bufferSize {
				r.event = nil
			}
		} else {
			if isDoneLine(line) {
				// Some clients act on this line without waiting for the blank one.
				r.done = true
				if err := r.c.settle(); err != nil {
					r.failEvent(ReasonJournal)
					r.err = err
					return err
				}
			}
			r.keep(seg)
			r.takeLine(line, true)
		}
		r.line = r.line[:0]
	}
	return nil
}

// keep delivers bytes of the event under way, or keeps them back where the
// whole event may have to be dropped.
func (r *relay) keep(b []byte) {
	if r.strip && !r.big {
		r.event = append(r.event, b...)
		return
	}
	r.out = append(r.out, b...)
	r.mid = true
}

// giveUp stops looking into the event under way: it is delivered as it comes.
func (r *relay) giveUp() {
	r.out = append(r.out, r.event...)
	r.mid = true
	r.event, r.data, r.line = nil, nil, r.line[:0]
	r.big = true
}

// takeLine adds the payload of a data line to the event under way.
func (r *relay) takeLine(line []byte, whole bool) {
	if r.big {
		return
	}
	line = bytes.TrimRight(line, "\r\n")
	payload, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		return
	}
	if len(payload) > 0 && payload[0] == ' ' {
		payload = payload[1:]
	}
	if len(r.data) > 0 {
		r.data = append(r.data, '\n')
	}
	r.data = append(r.data, payload...)
	if whole && len(r.data) > r.c.g.cfg.MaxEvent {
		r.giveUp()
	}
}

func isDoneLine(line []byte) bool {
	payload, ok := bytes.CutPrefix(line, []byte("data:"))
	return ok && string(bytes.TrimSpace(payload)) == "[DONE]"
}

func isBlankLine(line []byte) bool {
	return len(line) == 1 || len(line) == 2 && line[0] == '\r'
}

// dispatch looks into a complete event: usage is read, the stream's own end
// settles the call. It reports whether the event is to be dropped.
func (r *relay) dispatch() (drop bool, err error) {
	c := r.c
	data := bytes.TrimSpace(r.data)
	defer func() {
		if cap(r.data) > bufferSize {
			r.data = nil
		}
		r.data = r.data[:0]
	}()
	if len(data) == 0 || r.big {
		return false, nil
	}
	if string(data) == "[DONE]" {
		r.done = true
		return false, c.settle()
	}
	if rep, ok := findUsage(data); ok {
		c.usage = rep // the last one counts; chunks with usage are cumulative
		if r.strip && isUsageChunk(data) {
			drop = true
		}
	}
	if c.product.BillEstimates {
		c.textRunes += countText(data)
	}
	if c.family == familyResponses && isTerminal(data) {
		r.done = true
		return drop, c.settle()
	}
	return drop, nil
}

// isUsageChunk reports whether a chunk carries nothing but the usage: choices
// is there and empty (LLM-34).
func isUsageChunk(data []byte) bool {
	choices := gjson.GetBytes(data, "choices")
	if !choices.IsArray() {
		return false
	}
	empty := true
	choices.ForEach(func(_, _ gjson.Result) bool {
		empty = false
		return false
	})
	return empty
}

// isTerminal reports whether data is the last event of the responses API.
func isTerminal(data []byte) bool {
	switch gjson.GetBytes(data, "type").Str {
	case "response.completed", "response.incomplete", "response.failed":
		return true
	}
	return false
}

// countText counts the characters of generated text in an answer or a chunk.
func countText(data []byte) int64 {
	var n int64
	root := gjson.ParseBytes(data)
	root.Get("choices").ForEach(func(_, ch gjson.Result) bool {
		for _, path := range []string{"delta.content", "delta.reasoning_content", "message.content", "message.reasoning_content", "text"} {
			if v := ch.Get(path); v.Type == gjson.String {
				n += int64(len([]rune(v.Str)))
			}
		}
		return true
	})
	if root.Get("type").Str == "response.output_text.delta" {
		n += int64(len([]rune(root.Get("delta").Str)))
	}
	return n
}

// Close ends the relay. fasthttp calls it after the last byte, and early when
// the client is gone; only the first call does anything.
func (r *relay) Close() error {
	if !r.ends.CompareAndSwap(false, true) {
		return nil
	}
	c := r.c
	if r.err == nil && !c.resolved {
		c.clientGone = true
		if c.drainWanted() && c.g.startDrain() {
			c.detach()
			go c.drain()
			return nil
		}
		c.incomplete = true
		if r.scan != nil {
			if rep, ok := r.scan.report(); ok {
				c.usage = rep
			}
		}
	}
	c.close()
	return nil
}

// close settles a call whose relay has ended, if that was not done yet, and
// gives its exchange back. METER-10: what began as 2xx counts.
func (c *call) close() {
	_ = c.settle()
	c.note(c.ex.Response.StatusCode())
	c.ex.Close()
	if c.stream.buf != nil {
		buffers.Put(c.stream.buf)
		c.stream.buf = nil
	}
}

// drainWanted reports whether the rest of the answer is worth reading although
// the client left: for its usage.
func (c *call) drainWanted() bool {
	status := c.ex.Response.StatusCode()
	return c.llm && c.product.OnDisconnect != "cancel" && status >= 200 && status < 300 && (c.stream.parse || c.stream.scan != nil)
}

// detach cuts the call loose from the connection it came by, which fasthttp
// uses again.
func (c *call) detach() {
	c.ctx = nil
	c.path, c.query, c.route.rest, c.route.infer = nil, nil, nil, nil
}

// drain reads the answer on to its end, within limits of time and size, so that
// the upstream's own usage is billed although the client left.
func (c *call) drain() {
	defer c.g.endDrain()
	r := &c.stream
	timer := time.AfterFunc(c.g.cfg.DrainTimeout, c.ex.Interrupt)
	defer timer.Stop()
	var n int64
	func() {
		var err error
		defer r.recovered(&err)
		for err == nil {
			var b []byte
			b, err = r.step()
			if n += int64(len(b)); n > c.g.cfg.DrainBytes {
				c.incomplete = true
				return
			}
		}
	}()
	c.close()
}

// copyTrailers carries the trailers of a chunked answer over; they are known
// only now that it ended.
func (c *call) copyTrailers() {
	if c.ctx == nil {
		return
	}
	for _, k := range c.ex.Response.Header.PeekTrailerKeys() {
		if v := c.ex.Response.Header.PeekBytes(k); len(v) > 0 {
			c.ctx.Response.Header.SetBytesKV(k, v)
		}
	}
}

// sendUnframed relays an answer of unknown length to a client of HTTP/1.0,
// which does not know chunks: the end of the connection ends it.
func (c *call) sendUnframed() {
	h := &c.ctx.Response.Header
	out := []byte("HTTP/1.1 ")
	out = fasthttp.AppendUint(out, h.StatusCode())
	out = append(append(append(out, ' '), fasthttp.StatusMessage(h.StatusCode())...), "\r\n"...)
	for k, v := range h.All() {
		switch string(k) {
		case fasthttp.HeaderContentLength, fasthttp.HeaderTransferEncoding, fasthttp.HeaderConnection, fasthttp.HeaderTrailer:
			continue
		}
		out = append(append(append(append(out, k...), ": "...), v...), "\r\n"...)
	}
	out = append(out, "Connection: close\r\n\r\n"...)
	r := &c.stream
	c.ctx.HijackSetNoResponse(true)
	c.ctx.Hijack(func(conn net.Conn) {
		defer func() { _ = r.Close() }()
		if _, err := conn.Write(out); err != nil {
			return
		}
		_, _ = r.WriteTo(conn)
	})
	c.detach()
}
