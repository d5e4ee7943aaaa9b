package gateway

import (
	"errors"
	"io"
	"time"

	"tollgate/internal/usage"
)

// upload is a request body that is sent on as it comes.
type upload struct {
	r     wholeBody
	left  int64 // bytes that may still come
	n     int64
	err   error // why the client's side broke off
	ended bool
}

// wholeBody reads a streamed request body and tells a body that ended from one
// that broke off, which fasthttp does not: to it, a connection that ends between
// two chunks, or within a body of known length, ends the body. Since it reads
// the connection only for what is missing, a body is whole exactly when the
// connection has not ended at its end.
type wholeBody struct {
	r io.Reader
	w *watch // nil when the connection is not watched
}

func (c *call) wholeBody() wholeBody {
	b := wholeBody{r: c.ctx.RequestBodyStream()}
	if wc, ok := c.ctx.Conn().(watched); ok {
		b.w = wc.watch()
	}
	return b
}

// Read implements io.Reader.
func (b *wholeBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF && b.w != nil && b.w.ended {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Read implements io.Reader. It counts, holds the limit and remembers a
// failure, so that a client that vanished is not taken for a failed upstream.
func (u *upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	u.n += int64(n)
	if u.left -= int64(n); u.left < 0 {
		u.err = errTooLarge
		return 0, errTooLarge
	}
	switch {
	case err == io.EOF:
		u.ended = true
	case err != nil:
		u.err = err
	}
	return n, err
}

func (u *upload) failure() error { return u.err }

// smallBody is the size up to which a body is read whole before it is sent on:
// fasthttp has that much in memory already.
const smallBody = 8 << 10

// takeBody prepares the request body for forwarding without looking into it:
// small ones are read, others are streamed.
func (c *call) takeBody() refusal {
	if c.bodyRead {
		return refusal{}
	}
	n, limit := c.ctx.Request.Header.ContentLength(), c.bodyLimit()
	if int64(n) > limit {
		return refusal{reason: ReasonBodyTooLarge}
	}
	if n >= 0 && n <= smallBody || !c.ctx.Request.IsBodyStream() {
		_, ref := c.readBody(limit)
		return ref
	}
	c.upload = upload{r: c.wholeBody(), left: limit}
	return refusal{}
}

// readBody reads the request body whole. The bytes live as long as the call.
func (c *call) readBody(limit int64) ([]byte, refusal) {
	if c.bodyRead {
		return c.body, refusal{}
	}
	in := &c.ctx.Request
	n := int64(in.Header.ContentLength())
	if n > limit {
		return nil, refusal{reason: ReasonBodyTooLarge}
	}
	if !in.IsBodyStream() {
		c.body, c.bodyRead = nil, true // there is none
		return c.body, refusal{}
	}
	if n > int64(cap(c.bodyBuf)) {
		c.bodyBuf = make([]byte, 0, n+1)
	}
	var err error
	c.whole = c.wholeBody()
	c.bodyBuf, err = readAll(c.bodyBuf[:0], &c.whole, limit)
	switch {
	case err == errTooLarge:
		return nil, refusal{reason: ReasonBodyTooLarge}
	case err != nil:
		return nil, c.brokenBody(err)
	}
	c.body, c.bodyRead = c.bodyBuf, true
	return c.body, refusal{}
}

// brokenBody is the refusal of a request whose body did not come as announced.
func (c *call) brokenBody(err error) refusal {
	var fault *partsFault
	if errors.As(err, &fault) {
		return fault.refusal()
	}
	// Inside a chunk fasthttp hides the cause, so the clock is asked as well.
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() || time.Since(c.ctx.Time()) >= c.g.cfg.ReadTimeout {
		return refusal{reason: ReasonRequestTimeout}
	}
	return refusal{reason: ReasonMalformed, detail: "The request body broke off or is not framed as its header says."}
}

const (
	// maxDiscard bounds how much of an unread body is thrown away to keep the
	// connection; beyond it closing is cheaper.
	maxDiscard = 256 << 10
	// discardWait bounds how long an answer waits for that.
	discardWait = 100 * time.Millisecond
)

// discardBody makes sure that what is left of the request's body is not taken
// for the next request: what is here already is read, otherwise the connection
// closes behind the answer.
func (c *call) discardBody() {
	in := &c.ctx.Request
	if c.bodyRead || c.upload.ended || !in.IsBodyStream() {
		return
	}
	n := in.Header.ContentLength()
	if n >= 0 && n <= smallBody {
		return // fasthttp has read it
	}
	if c.upload.err == nil && n <= maxDiscard && !c.ctx.Response.ConnectionClose() {
		body := in.BodyStream()
		_ = c.ctx.Conn().SetReadDeadline(time.Now().Add(discardWait)) // the server sets its own for the next request
		_, err := io.CopyN(io.Discard, body, maxDiscard)
		if err == io.EOF {
			return
		}
		if err == nil {
			var b [1]byte
			if n, err := body.Read(b[:]); n == 0 && err == io.EOF {
				return
			}
		}
	}
	c.ctx.Response.SetConnectionClose()
	if w, ok := c.ctx.Conn().(watched); ok {
		w.watch().linger.Store(true)
	}
}

// expect decides, from the head alone, whether a client that waits for "100
// Continue" is told to send its body (RFC 9110 section 10.1.1).
func (c *call) expect() refusal {
	ref, answered := c.checkHead()
	if answered || ref.reason != ReasonNone {
		return ref
	}
	limit := c.bodyLimit()
	if c.llm {
		ref = c.findLLM()
	} else if ref = c.findAPI(); ref.reason == ReasonNone {
		_, ref = c.authenticateApp(c.product, func() ([]byte, refusal) {
			// Only the body can tell: let it come.
			limit = c.g.cfg.MaxSignedBody
			return nil, refusal{reason: ReasonNoCredential}
		})
		if limit == c.g.cfg.MaxSignedBody {
			ref = refusal{}
		}
	}
	if ref.reason == ReasonNone && int64(c.ctx.Request.Header.ContentLength()) > limit {
		ref.reason = ReasonBodyTooLarge
	}
	return ref
}

// estimate is what the call may cost at most, as far as that can be told now:
// prompt by size, output by max_tokens times n, under a cap.
func (c *call) estimate() usage.Units {
	var est usage.Units
	est[usage.Call] = 1
	if !c.llm {
		return est
	}
	prompt := int64(len(c.body)/4) + 1
	var output int64
	if c.family != familyEmbeddings {
		output = c.pay.maxOutput
		if output == 0 {
			output = c.g.cfg.HoldDefault
		}
		if c.pay.choices > 1 {
			output *= min(c.pay.choices, 128)
		}
	}
	limit := c.g.cfg.HoldCap
	est[usage.InputToken] = min(prompt, limit)
	est[usage.OutputToken] = min(output, limit)
	est[usage.Token] = min(prompt+output, limit)
	return est
}
