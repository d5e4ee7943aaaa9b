package upstream

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// maxInterim bounds the interim answers before the final one.
const maxInterim = 100

// Exchange is one request and its answer on one connection. The zero value is
// ready for Do; after Close it may be used again.
type Exchange struct {
	// Response holds the answer's status and header after Do, and its trailers
	// after the body ended. Its body is read through Exchange.Read only.
	Response fasthttp.Response

	target *Target
	conn   *conn
	body   io.Reader // nil when the answer has none
	ended  bool      // the body was read to its end
	broken bool      // the connection cannot be used again

	interrupted atomic.Bool
}

// errInterrupted is the cause of a body cut by Interrupt.
var errInterrupted = errors.New("interrupted")

// Do sends req and reads the header of the answer. Interim answers other than
// 100 are passed to interim, when it is not nil, in order.
//
// A failure is an *Error. When nothing of the request can have been processed
// (the connection could not be made, or a kept-alive one was found closed at
// the first byte and the method is idempotent, RFC 9110 section 9.2.2), Do
// tries once more by itself on a fresh connection. After an error the exchange
// is closed. bodyErr, when not nil, tells whether reading the request's body
// failed on the client's side.
func (e *Exchange) Do(t *Target, req *fasthttp.Request, interim func(h *fasthttp.ResponseHeader), bodyErr func() error) error {
	t.inFlight.Add(1)
	e.target = t
	e.interrupted.Store(false)
	repeatable := !req.IsBodyStream() && idempotent(req.Header.Method())
	for fresh := false; ; fresh = true {
		now := t.cfg.Now()
		c, err := t.acquire(now, fresh)
		if err != nil {
			e.done()
			return err
		}
		reused := c.reused
		e.conn, e.broken, e.ended, e.body = c, false, false, nil
		err = e.exchange(req, interim, bodyErr, now)
		if err == nil {
			return nil
		}
		_ = c.Close()
		e.conn = nil
		if reused && !fresh && repeatable && closedAtFirstByte(err) {
			continue
		}
		e.done()
		return err
	}
}

func (e *Exchange) done() {
	if e.target != nil {
		e.target.inFlight.Add(-1)
		e.target = nil
	}
}

func (e *Exchange) exchange(req *fasthttp.Request, interim func(*fasthttp.ResponseHeader), bodyErr func() error, now time.Time) error {
	c, cfg := e.conn, &e.target.cfg
	resp := &e.Response
	resp.Reset()
	resp.StreamBody = true
	resp.SkipBody = req.Header.IsHead()

	if err := c.SetWriteDeadline(now.Add(cfg.WriteTimeout)); err != nil {
		return &Error{Op: OpSend, Err: err}
	}
	streamed := req.IsBodyStream()
	err := req.Write(c.bw)
	if err == nil {
		err = c.bw.Flush()
	}
	if err != nil {
		if bodyErr != nil && bodyErr() != nil {
			return &Error{Op: OpClient, Err: bodyErr()}
		}
		if !streamed {
			return &Error{Op: OpSend, Err: err}
		}
		// The upstream may have answered before it had read everything, as it
		// does with a 413: that answer is what the caller should see.
		c.bw.Reset(c.Conn)
		e.broken = true
		now = cfg.Now()
		if herr := e.readHeader(interim, now.Add(time.Second)); herr != nil {
			return &Error{Op: OpSend, Err: err}
		}
		return nil
	}
	if streamed {
		now = cfg.Now()
	}
	return e.readHeader(interim, now.Add(cfg.FirstByteTimeout))
}

func (e *Exchange) readHeader(interim func(*fasthttp.ResponseHeader), deadline time.Time) error {
	c, resp := e.conn, &e.Response
	c.deadline = deadline
	if err := c.SetReadDeadline(deadline); err != nil {
		return &Error{Op: OpHeader, Err: err}
	}
	for n := 0; ; n++ {
		if err := resp.Header.Read(c.br); err != nil {
			return &Error{Op: OpHeader, Err: err}
		}
		status := resp.StatusCode()
		if status >= 200 {
			break
		}
		if status == fasthttp.StatusSwitchingProtocols {
			return &Error{Op: OpHeader, Err: errors.New("the upstream switched protocols unasked")}
		}
		if n == maxInterim {
			return &Error{Op: OpHeader, Err: errors.New("too many interim answers")}
		}
		// Our own 100 went to the client before its body was read.
		if interim != nil && status != fasthttp.StatusContinue {
			interim(&resp.Header)
		}
	}
	if resp.ConnectionClose() {
		e.broken = true
	}
	if resp.SkipBody || !hasBody(resp.StatusCode()) || resp.Header.ContentLength() == 0 {
		e.ended = true
		return nil
	}
	if err := resp.ReadBody(c.br, 0); err != nil {
		return &Error{Op: OpHeader, Err: err}
	}
	e.body = resp.BodyStream()
	return nil
}

func hasBody(status int) bool {
	return status >= 200 && status != fasthttp.StatusNoContent && status != fasthttp.StatusNotModified
}

// Read reads the answer's body as it comes: one read returns at most what one
// chunk or one read of the socket brought. io.EOF is the regular end; an
// answer cut short is an *Error with OpBody.
func (e *Exchange) Read(p []byte) (int, error) {
	if e.ended || e.body == nil {
		return 0, io.EOF
	}
	cfg := &e.target.cfg
	if e.interrupted.Load() {
		e.broken = true
		return 0, &Error{Op: OpBody, Err: errInterrupted}
	}
	if err := e.conn.extendRead(cfg.Now(), cfg.IdleTimeout); err != nil {
		e.broken = true
		return 0, &Error{Op: OpBody, Err: err}
	}
	n, err := e.body.Read(p)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF:
		e.ended = true
		return n, io.EOF
	default:
		e.broken = true
		return n, &Error{Op: OpBody, Err: err}
	}
}

// Ended reports whether the body was read to its end.
func (e *Exchange) Ended() bool { return e.ended }

// Close gives the connection back for another request, or closes it when the
// answer was not read to its end. It may be called more than once.
func (e *Exchange) Close() {
	c := e.conn
	if c == nil {
		return
	}
	e.conn, e.body = nil, nil
	keep := e.ended && !e.broken && c.br.Buffered() == 0
	// Releases the body stream's reader; it never touches the socket.
	_ = e.Response.CloseBodyStream()
	if keep {
		e.target.release(c, e.target.cfg.Now())
	} else {
		_ = c.Close()
	}
	e.done()
}

// Interrupt makes the next Read fail. It may be called while another goroutine
// reads; a Read that waits for the upstream ends by the idle timeout.
func (e *Exchange) Interrupt() { e.interrupted.Store(true) }

func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// closedAtFirstByte reports whether err says that the peer had closed the
// connection without a byte of answer.
func closedAtFirstByte(err error) bool {
	var e *Error
	if !errors.As(err, &e) || (e.Op != OpHeader && e.Op != OpSend) {
		return false
	}
	if errors.Is(err, io.EOF) {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}
