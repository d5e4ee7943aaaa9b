package gateway

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidwall/gjson"
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

	events bool        // the answer is a stream of events
	scan   *answerScan // looks for usage in a long plain answer
	parse  bool        // the events are looked into
	eventParser
	run running

	pending int    // bytes on their way out when the call is settled
	rest    []byte // what Read has not handed out yet
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
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.rest, err = r.step(); err != nil {
			r.err = err // told when rest is out
		}
	}
	n = copy(p, r.rest)
	r.rest = r.rest[n:]
	r.c.bytesOut += int64(n)
	return n, nil
}

// errRelay ends an answer whose relay panicked.
var errRelay = errors.New("gateway: the relay failed")

// recovered turns a panic in the relay into a broken answer.
func (r *relay) recovered(err *error) {
	if r.c.caught("relay an answer", recover()) {
		r.c.incomplete = true
		r.err = errRelay
		*err = errRelay
	}
}

// step returns the next bytes to deliver; they are valid until the next call.
// An error may come with bytes, which are to be delivered first.
func (r *relay) step() ([]byte, error) {
	b, err := r.next()
	if t := r.c.tape; t != nil {
		if t.add(b); err != nil {
			t.end(err == io.EOF)
		}
	}
	return b, err
}

func (r *relay) next() ([]byte, error) {
	if b := r.head; b != nil {
		r.head = nil
		if r.err != nil {
			return r.end(b, r.err)
		}
		if len(b) > 0 {
			r.checkpoint(len(b))
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
			ferr := r.feed(b)
			if ferr == errDry {
				return r.cutShort()
			}
			if ferr != nil {
				r.failEvent(ReasonJournal)
				r.err = ferr
				return r.out, ferr
			}
			b = r.out
		}
		if err != nil {
			return r.end(b, err)
		}
		if len(b) > 0 {
			r.checkpoint(len(b))
			return b, nil
		}
	}
}

// end is called once, when the upstream's answer ended. It settles the call and
// returns last, the last bytes to deliver, and the error the client's answer
// ends with. What cannot be recorded is not completed.
func (r *relay) end(last []byte, err error) ([]byte, error) {
	c := r.c
	switch {
	case err != io.EOF:
		c.incomplete = true
	case r.parse:
		r.finish()
		last = r.out
		if !r.done && (c.family.takesStreamOptions() || c.family.last() != nil) {
			c.incomplete = true // LLM-38
		}
	}
	r.readScan()
	r.pending = len(last)
	serr := c.settle()
	switch {
	case serr != nil && !r.parse:
		last, err = nil, serr
	case serr != nil:
		r.failEvent(ReasonJournal)
		last, err = r.out, serr
	case err != io.EOF:
		r.failEvent(ReasonUpstream)
		if r.parse {
			last = r.out
		}
	default:
		c.copyTrailers()
	}
	r.err = err
	return last, err
}

// readScan ends the scan and takes what it found.
func (r *relay) readScan() {
	if r.scan == nil {
		return
	}
	if rep, ok := r.scan.stop(); ok {
		r.c.usage.merge(rep)
	}
	r.scan = nil
}

// failEvent appends an error event, which makes every OpenAI SDK raise
// (gateway-wire section 4.2), unless it would land inside another event.
func (r *relay) failEvent(reason Reason) {
	if !r.parse || r.mid {
		return
	}
	if r.c.family == familyMessages {
		r.out = appendAnthropicEvent(r.out, r.c.g.cfg.ErrorPrefix, reason, r.c.idText[:])
		return
	}
	w := &table[reason]
	msg := w.llmMsg
	if msg == "" {
		msg = w.msg
	}
	if r.named {
		// The responses API has an event of this name, with the fields of the
		// error beside its type; Anthropic's has the error alone.
		r.out = append(r.out, "event: error\n"...)
	}
	r.out = append(r.out, "data: "...)
	at := len(r.out)
	r.out = appendEnvelope(r.out, true, r.c.g.cfg.ErrorPrefix, w, msg, "", r.c.idText[:])
	if r.named {
		head := append([]byte(nil), `{"type":"error",`...)
		if r.c.family == familyResponses {
			head = gjson.AppendJSONString(append(head, `"code":`...), w.llmCode)
			head = gjson.AppendJSONString(append(head, `,"message":`...), msg)
			head = append(head, `,"param":null,`...)
			if r.run.seq > 0 {
				head = append(strconv.AppendInt(append(head, `"sequence_number":`...), r.run.seq, 10), ',')
			}
		}
		r.out = slices.Replace(r.out, at, at+1, head...)
	}
	r.out = append(r.out, "\n\n"...)
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
	}
	c.close()
	return nil
}

// close settles a call whose relay has ended, if that was not done yet, and
// gives its exchange back. METER-10: what began as 2xx counts.
func (c *call) close() {
	c.stream.readScan()
	if c.tape != nil {
		// A client may leave at the stream's own end mark.
		defer func() { c.tape.end(c.stream.done) }()
	}
	_ = c.settle() // it has logged and counted its failure; the answer is broken already
	c.note(c.ex.Response.StatusCode())
	c.ex.Close()
	c.free()
	if c.stream.buf != nil {
		buffers.Put(c.stream.buf)
		c.stream.buf = nil
	}
}

// copyTrailers carries the trailers of a chunked answer over; they are known
// only now that it ended. Announced ones that did not come are not written.
func (c *call) copyTrailers() {
	if c.ctx == nil {
		return
	}
	up, h := &c.ex.Response.Header, &c.ctx.Response.Header
	var came []string
	for _, k := range up.PeekTrailerKeys() {
		if v := up.PeekBytes(k); len(v) > 0 {
			h.SetBytesKV(k, v)
			came = append(came, string(k))
		}
	}
	_ = h.SetTrailer(strings.Join(came, ", ")) // they were accepted once
}
