package upstream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
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

	// Pass is told how the exchange went. Set it before Do; Close forgets it.
	Pass Pass
	// Attempts counts the times Do asked for a connection; the owner sets it back.
	Attempts int
	// Begun is when the first attempt of the call began, from which
	// Request.Total counts. Do sets it where it is zero.
	Begun time.Time

	target *Target
	until  time.Time // the end of the whole call; zero: none
	body   body
	ended  bool // the body was read to its end, or there is none
	broken bool // the connection cannot be used again

	mu          sync.Mutex // guards conn against Interrupt
	conn        *conn
	interrupted atomic.Bool
}

// errInterrupted is the cause of a body cut by Interrupt.
var errInterrupted = errors.New("interrupted")

// Do sends req and reads the header of the answer. Interim answers other than
// 100 are passed to interim, when it is not nil, in order.
//
// A failure is an *Error, and the exchange is closed then. When nothing of the
// request can have been processed (a kept-alive connection was found closed
// without a byte of answer and the request is repeatable), Do tries once more by
// itself on a fresh connection. What is not repeatable is never sent twice.
func (e *Exchange) Do(t *Target, req *Request, interim func(h *fasthttp.ResponseHeader)) error {
	e.target = t
	if n := t.inFlight.Add(1); t.cfg.MaxConns > 0 && n > int64(t.cfg.MaxConns) {
		e.Pass.dropped()
		e.done()
		return &Error{Op: OpBusy, Err: errBusy}
	}
	e.interrupted.Store(false)
	repeatable := req.Stream == nil && (req.Repeatable || Idempotent(req.Method))
	for fresh := false; ; fresh = true {
		now := t.cfg.Now()
		if e.Attempts++; !fresh {
			e.limit(req.Total, now)
		}
		c, err := t.acquire(now, fresh, e.until)
		if err != nil {
			e.Pass.failed(false)
			e.done()
			return err
		}
		e.setConn(c)
		e.broken, e.ended, e.body = false, false, body{}
		err = e.exchange(c, req, interim, now)
		if err == nil {
			e.Pass.header(e.Response.StatusCode())
			return nil
		}
		reused := c.reused
		e.setConn(nil)
		t.discard(c)
		if reused && !fresh && repeatable && closedAtFirstByte(err) {
			continue
		}
		var failed *Error
		if errors.As(err, &failed) && failed.Op == OpClient || e.interrupted.Load() {
			e.Pass.dropped()
		} else {
			e.Pass.failed(false)
		}
		e.done()
		return err
	}
}

// limit sets the end of the whole call.
func (e *Exchange) limit(total time.Duration, now time.Time) {
	if e.Begun.IsZero() {
		e.Begun = now
	}
	e.until = time.Time{}
	if total > 0 {
		e.until = e.Begun.Add(total)
	}
}

// errBusy is the cause of calls beyond the most a target may have.
var errBusy = errors.New("the upstream has as many calls under way as it may")

func (e *Exchange) setConn(c *conn) {
	e.mu.Lock()
	e.conn = c
	e.mu.Unlock()
}

func (e *Exchange) done() {
	if e.target != nil {
		e.target.inFlight.Add(-1)
		e.target = nil
	}
	e.Pass = Pass{}
}

func (e *Exchange) exchange(c *conn, req *Request, interim func(*fasthttp.ResponseHeader), now time.Time) error {
	cfg := &e.target.cfg
	resp := &e.Response
	resp.Reset()
	resp.SkipBody = string(req.Method) == "HEAD"

	early, err := e.send(c, req, now)
	if err != nil && err.Op == OpClient {
		return err
	}
	if err != nil || early {
		e.broken = true // the rest of the request will never come
	}
	if err != nil {
		// The upstream may have answered before it closed its side, as it does
		// with a 413: that answer is what the caller should see.
		if herr := e.readHeader(c, interim, cfg.Now().Add(time.Second)); herr != nil {
			return err
		}
		return nil
	}
	if req.Stream != nil {
		now = cfg.Now()
	}
	return e.readHeader(c, interim, e.before(now.Add(cfg.FirstByteTimeout)))
}

// before is at, or the end of the whole call when that comes first.
func (e *Exchange) before(at time.Time) time.Time {
	if !e.until.IsZero() && e.until.Before(at) {
		return e.until
	}
	return at
}

// largeBody is the size from which a body is not copied behind its head.
const largeBody = 16 << 10

// send writes the request. It reports early when it stopped because the
// upstream has answered already.
func (e *Exchange) send(c *conn, req *Request, now time.Time) (early bool, failed *Error) {
	cfg := &e.target.cfg
	c.out = req.appendHead(c.out[:0])
	if req.Stream == nil && len(req.Body) < largeBody {
		c.out = append(c.out, req.Body...)
		if err := c.extendWrite(now, cfg.WriteTimeout); err != nil {
			return false, sendError(err)
		}
		_, err := c.Write(c.out)
		return false, sendError(err)
	}
	c.writeDeadline = time.Time{}
	early, err := c.send(c.out, now, cfg.WriteTimeout)
	switch {
	case err != nil || early:
		return early, sendError(err)
	case req.Stream == nil:
		early, err = c.send(req.Body, now, cfg.WriteTimeout)
		return early, sendError(err)
	}
	return e.upload(c, req)
}

// upload sends the body of a streamed request.
func (e *Exchange) upload(c *conn, req *Request) (early bool, failed *Error) {
	cfg := &e.target.cfg
	pooled := uploadBuffers.Get().(*[]byte)
	defer uploadBuffers.Put(pooled)
	buf := *pooled
	var sent int64
	for ended := false; !ended; {
		n, err := req.Stream.Read(buf[chunkRoom : len(buf)-2])
		sent += int64(n)
		ended = err == io.EOF
		if err != nil && !ended || ended && req.Length >= 0 && sent != req.Length {
			return false, clientError(req, err)
		}
		if n == 0 {
			continue
		}
		part := buf[chunkRoom : chunkRoom+n]
		if req.Length < 0 {
			part = frameChunk(buf, n)
		}
		if c.plain && c.readable() {
			return true, nil
		}
		if early, err = c.send(part, cfg.Now(), cfg.WriteTimeout); err != nil || early {
			return early, sendError(err)
		}
	}
	if req.Length >= 0 {
		return false, nil
	}
	end := append(buf[:0], "0\r\n"...)
	if req.Trailer != nil {
		end = req.Trailer(end)
	}
	end = append(end, "\r\n"...)
	early, err := c.send(end, cfg.Now(), cfg.WriteTimeout)
	return early, sendError(err)
}

// clientError is the failure of a request whose body broke off at its source.
func clientError(req *Request, err error) *Error {
	if req.StreamErr != nil && req.StreamErr() != nil {
		err = req.StreamErr()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return &Error{Op: OpClient, Err: err}
}

func sendError(err error) *Error {
	if err == nil {
		return nil
	}
	return &Error{Op: OpSend, Err: err}
}

// uploadBuffers hold chunkRoom, the data of one chunk, and its closing CRLF.
var uploadBuffers = sync.Pool{New: func() any { b := make([]byte, chunkRoom+16<<10+2); return &b }}

func (e *Exchange) readHeader(c *conn, interim func(*fasthttp.ResponseHeader), deadline time.Time) error {
	resp := &e.Response
	c.waits = nil
	// The answer takes a while. A read that finds nothing costs a system call and
	// a wake-up; whoever else can run goes first, and under load the answer is
	// here by then. An idle machine comes straight back.
	runtime.Gosched()
	if err := c.readBefore(deadline); err != nil {
		return &Error{Op: OpHeader, Err: err}
	}
	for n := 0; ; n++ {
		if err := resp.Header.Read(c.br); err != nil {
			return &Error{Op: OpHeader, Err: headerFault(err)}
		}
		status := resp.StatusCode()
		if status >= 200 {
			break
		}
		if status < 100 {
			return &Error{Op: OpHeader, Err: errors.New("the upstream's status is not one")}
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
	if resp.ConnectionClose() || hasClose(&resp.Header) {
		e.broken = true
	}
	if resp.SkipBody || !hasBody(resp.StatusCode()) || resp.Header.ContentLength() == 0 {
		e.ended = true
		return nil
	}
	e.body.reset(c.br, &resp.Header)
	c.waits = e
	return nil
}

// Faults of an answer's header. What it held is not part of the error, which
// may be logged.
var (
	errHeaderLarge = errors.New("the answer's header is larger than the connection's buffer")
	errHeaderForm  = errors.New("the answer's header is not valid HTTP")
)

func headerFault(err error) error {
	var large *fasthttp.ErrSmallBuffer
	var ne net.Error
	switch {
	case errors.As(err, &large):
		return errHeaderLarge
	case errors.As(err, &ne):
		return ne
	case err == io.EOF, err == fasthttp.ErrTimeout:
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	return errHeaderForm
}

// hasClose looks for "close" among several connection options; fasthttp only
// knows it alone.
func hasClose(h *fasthttp.ResponseHeader) bool {
	for _, v := range h.PeekAll(fasthttp.HeaderConnection) {
		for rest := v; len(rest) > 0; {
			var option []byte
			option, rest, _ = bytes.Cut(rest, comma)
			if bytes.EqualFold(bytes.TrimSpace(option), wordClose) {
				return true
			}
		}
	}
	return false
}

var (
	comma     = []byte{','}
	wordClose = []byte("close")
)

func hasBody(status int) bool {
	return status >= 200 && status != fasthttp.StatusNoContent && status != fasthttp.StatusNotModified
}

// Read reads the answer's body as it comes: one read returns at most what one
// chunk or one read of the socket brought. io.EOF is the regular end; an
// answer cut short is an *Error with OpBody.
func (e *Exchange) Read(p []byte) (int, error) {
	if e.ended || e.conn == nil {
		return 0, io.EOF
	}
	if e.interrupted.Load() {
		e.broken = true
		return 0, &Error{Op: OpBody, Err: errInterrupted}
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
		if !e.interrupted.Load() {
			e.Pass.failed(true)
			e.Pass = Pass{}
		}
		return n, &Error{Op: OpBody, Err: err}
	}
}

// beforeRead is called when reading the body has to read the connection. It
// moves the deadline on.
func (e *Exchange) beforeRead(c *conn) error {
	cfg := &e.target.cfg
	return c.readBefore(e.before(cfg.Now().Add(cfg.IdleTimeout)))
}

// Ended reports whether the body was read to its end.
func (e *Exchange) Ended() bool { return e.ended }

// Close gives the connection back for another request, or closes it when the
// answer was not read to its end. It may be called more than once.
func (e *Exchange) Close() {
	c := e.conn
	if c == nil {
		e.Pass.dropped() // an attempt that did not begin
		e.Pass = Pass{}
		return
	}
	if e.ended {
		e.Pass.succeeded()
	} else {
		e.Pass.dropped()
	}
	e.setConn(nil)
	e.body, c.waits = body{}, nil
	keep := e.ended && !e.broken && !e.interrupted.Load() && c.br.Buffered() == 0
	if keep {
		e.target.release(c, e.target.cfg.Now())
	} else {
		e.target.discard(c)
	}
	e.done()
}

// maxSkip bounds the body that Skip reads to keep its connection.
const maxSkip = 16 << 10

// Skip passes an answer over: its body is read where it is short, so that the
// connection can be used again, and the exchange closed.
func (e *Exchange) Skip() {
	if n := e.Response.Header.ContentLength(); !e.ended && e.conn != nil && n >= 0 && n <= maxSkip {
		var buf [512]byte
		for {
			if _, err := e.Read(buf[:]); err != nil {
				break
			}
		}
	}
	e.Close()
}

// Interrupt makes reading the answer fail now, also a Read that waits. It may
// be called from another goroutine at any time.
func (e *Exchange) Interrupt() {
	e.interrupted.Store(true)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn != nil {
		e.conn.interrupt()
	}
}

// Idempotent reports whether a method is (RFC 9110 section 9.2.2).
func Idempotent(method []byte) bool {
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
