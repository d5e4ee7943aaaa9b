package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The classes of failure of a call that got no complete answer.
const (
	failDial      = "dial"      // no connection
	failTimeout   = "timeout"   // the call's time ran out
	failClosed    = "closed"    // the connection ended before the answer's head
	failReset     = "reset"     // likewise, by RST
	failCut       = "cut"       // the connection ended within the answer
	failMalformed = "malformed" // the answer is not HTTP/1.1
	failCanceled  = "canceled"  // the run was stopped
	failLeft      = "left"      // the scenario had the client leave (Scenario.LeaveAfter)
)

// failure is why a call got no complete answer. Status is that of the head, 0
// when there was none.
type failure struct {
	class  string
	status int
	err    error
}

func (f *failure) Error() string {
	if f.status != 0 {
		return fmt.Sprintf("%s after status %d: %v", f.class, f.status, f.err)
	}
	return f.class + ": " + f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// reply is what the load generator keeps of an answer.
type reply struct {
	status    int
	id        string // X-Request-Id, where the client keeps them
	charged   string // X-Tollgate-Charged
	firstByte time.Time
	bytes     int64
	interim   int // 1xx answers before it
	sse       bool
	events    int  // data events
	finished  bool // the stream said that it is complete
	failed    bool // the stream carried an error event
}

// client is one HTTP/1.1 connection that writes prepared requests and reads
// answers with as little work as possible: the generator shares the machine
// with what it measures. It repeats a request only where again says so.
type client struct {
	ctx     context.Context
	dialer  net.Dialer
	addr    string
	tls     *tls.Config // nil: plain
	timeout time.Duration
	keepID  bool // fill in reply.id, which costs an allocation a call
	pieces  int  // write requests in pieces of so many bytes; 0: in one go
	leave   int  // close the connection after so many events; 0: stay
	again   bool // repeat a call whose connection, used before, ended in order before any answer
	repeats int64

	conn net.Conn
	used time.Time // when conn last ended a call
	br   *bufio.Reader
	line lineScanner

	mu   sync.Mutex
	live net.Conn // conn, for interrupt
}

// do sends one prepared request and reads its answer to the end.
//
// A connection that lay idle and was closed by the server meanwhile is replaced
// first, as every HTTP client does: nothing was sent on it yet.
func (c *client) do(request []byte, head bool) (r reply, err error) {
	if c.conn != nil && time.Since(c.used) > idleCheck && gone(c.conn) {
		c.close()
	}
	reused := c.conn != nil
	if c.conn == nil {
		if err := c.dial(); err != nil {
			return r, err
		}
	}
	r, err = c.exchange(request, head)
	if reused && c.again && classOf(err) == failClosed && r.firstByte.IsZero() {
		// The server closed the idle connection while the call was on its way
		// (RFC 9112 section 9.3.1). A reset would not say that.
		c.repeats++
		if err := c.dial(); err != nil {
			return reply{}, err
		}
		return c.exchange(request, head)
	}
	return r, err
}

// exchange sends one request on the open connection and reads its answer.
func (c *client) exchange(request []byte, head bool) (r reply, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return r, c.fail(r, err, failClosed)
	}
	if err := c.ctx.Err(); err != nil { // interrupt came before the deadline was set
		return r, c.fail(r, err, failCanceled)
	}
	for len(request) > 0 {
		n := len(request)
		if c.pieces > 0 {
			n = min(n, c.pieces)
		}
		if _, err := c.conn.Write(request[:n]); err != nil {
			return r, c.fail(r, err, failClosed)
		}
		request = request[n:]
	}
	keep, err := c.read(&r, head)
	if err != nil {
		return r, err
	}
	if !keep {
		c.close()
	} else {
		c.used = time.Now()
	}
	return r, nil
}

// idleCheck is how long a connection lies idle before it is looked at again
// ahead of its next use. A call that follows its predecessor at once is spared
// the system call.
const idleCheck = 500 * time.Microsecond

func (c *client) dial() error {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	conn, err := c.dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return c.fail(reply{}, err, failDial)
	}
	if c.tls != nil {
		t := tls.Client(conn, c.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			return c.fail(reply{}, errors.Join(err, conn.Close()), failDial)
		}
		conn = t
	}
	c.conn = conn
	c.setLive(conn)
	if c.br == nil {
		c.br = bufio.NewReaderSize(conn, 16<<10)
	} else {
		c.br.Reset(conn)
	}
	return nil
}

func (c *client) setLive(conn net.Conn) {
	c.mu.Lock()
	c.live = conn
	c.mu.Unlock()
}

// interrupt makes the call under way fail; ctx must have ended. It may be
// called from any goroutine.
func (c *client) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		_ = c.live.SetDeadline(time.Unix(1, 0)) // a closed one needs no waking
	}
}

func (c *client) close() {
	if c.conn != nil {
		c.setLive(nil)
		_ = c.conn.Close() // nothing more is expected of it
		c.conn = nil
	}
}

// fail closes the connection and classes err; class is for what is neither a
// timeout nor a reset nor a stopped run.
func (c *client) fail(r reply, err error, class string) error {
	c.close()
	switch {
	case c.ctx.Err() != nil:
		class = failCanceled
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		class = failTimeout
	case class == failClosed && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)):
		class = failReset
	}
	return &failure{class: class, status: r.status, err: err}
}

var errForm = errors.New("not an HTTP/1.1 answer")

// read reads one answer and reports whether the connection may be used again.
func (c *client) read(r *reply, head bool) (keep bool, err error) {
	for {
		line, err := c.readLine()
		if err != nil {
			return false, c.fail(*r, err, failClosed)
		}
		if r.firstByte.IsZero() {
			r.firstByte = time.Now()
		}
		status, ok := parseStatusLine(line)
		if !ok {
			return false, c.fail(*r, fmt.Errorf("%w: status line %q", errForm, line), failMalformed)
		}
		if status < 200 {
			r.interim++
		} else {
			r.status = status
		}
		h, err := c.readHead(r)
		if err != nil {
			return false, err
		}
		if status < 200 {
			continue
		}
		bodiless := head || status == 204 || status == 304
		switch {
		case bodiless:
		case h.chunked:
			err = c.readChunked(r)
		case h.length >= 0:
			err = c.consume(r, h.length)
		default: // until the connection ends
			h.close = true
			err = c.readToEnd(r)
		}
		return !h.close, err
	}
}

// answerHead is the framing of an answer.
type answerHead struct {
	length  int64
	chunked bool
	close   bool
}

func (c *client) readHead(r *reply) (h answerHead, err error) {
	h.length = -1
	for {
		line, err := c.readLine()
		if err != nil {
			return h, c.fail(*r, err, failCut)
		}
		if len(line) == 0 {
			return h, nil
		}
		name, value, ok := bytes.Cut(line, colon)
		if !ok {
			return h, c.fail(*r, fmt.Errorf("%w: header line %q", errForm, line), failMalformed)
		}
		value = bytes.TrimSpace(value)
		switch len(name) { // cheaper than comparing every name
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("Content-Length")) {
				if h.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || h.length < 0 {
					return h, c.fail(*r, fmt.Errorf("%w: Content-Length %q", errForm, value), failMalformed)
				}
			}
		case len("Transfer-Encoding"):
			if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
				h.chunked = bytes.EqualFold(value, []byte("chunked"))
			}
		case len("Connection"):
			if bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close")) {
				h.close = true
			}
		case len("Content-Type"): // as long as X-Request-Id
			if bytes.EqualFold(name, []byte("Content-Type")) {
				if r.sse = bytes.HasPrefix(value, []byte("text/event-stream")); r.sse {
					c.line.reset()
				}
			} else if c.keepID && bytes.EqualFold(name, []byte("X-Request-Id")) {
				r.id = string(value)
			}
		case len("X-Tollgate-Charged"):
			if bytes.EqualFold(name, []byte("X-Tollgate-Charged")) {
				r.charged = string(value)
			}
		}
	}
}

var colon = []byte{':'}

// readLine returns the next line without its end. It is good until the next
// read.
func (c *client) readLine() ([]byte, error) {
	line, err := c.br.ReadSlice('\n')
	if err != nil {
		if err == io.EOF && len(line) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}

func parseStatusLine(line []byte) (int, bool) {
	const form = "HTTP/1.1 200"
	if len(line) < len(form) || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return 0, false
	}
	n, err := strconv.Atoi(string(line[9:12]))
	return n, err == nil && n >= 100 && n <= 599
}

func (c *client) readChunked(r *reply) error {
	for {
		line, err := c.readLine()
		if err != nil {
			return c.fail(*r, err, failCut)
		}
		digits, _, _ := bytes.Cut(line, []byte{';'})
		n, err := strconv.ParseInt(strings.TrimSpace(string(digits)), 16, 64)
		if err != nil || n < 0 {
			return c.fail(*r, fmt.Errorf("%w: chunk size %q", errForm, line), failMalformed)
		}
		if n == 0 {
			break
		}
		if err := c.consume(r, n); err != nil {
			return err
		}
		if line, err = c.readLine(); err != nil {
			return c.fail(*r, err, failCut)
		} else if len(line) != 0 {
			return c.fail(*r, fmt.Errorf("%w: %q after a chunk", errForm, line), failMalformed)
		}
	}
	for { // trailers
		line, err := c.readLine()
		if err != nil {
			return c.fail(*r, err, failCut)
		}
		if len(line) == 0 {
			return nil
		}
	}
}

// consume reads n bytes of the body.
func (c *client) consume(r *reply, n int64) error {
	for n > 0 {
		b, err := c.br.Peek(int(min(n, int64(max(c.br.Buffered(), 1)))))
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return c.fail(*r, err, failCut)
		}
		if r.sse {
			c.line.scan(b, r)
		}
		r.bytes += int64(len(b))
		n -= int64(len(b))
		if _, err := c.br.Discard(len(b)); err != nil {
			return c.fail(*r, err, failCut)
		}
		if c.leave > 0 && r.events >= c.leave {
			return c.fail(*r, errLeft, failLeft)
		}
	}
	return nil
}

// errLeft ends a call whose client was told to leave.
var errLeft = errors.New("the client left")

func (c *client) readToEnd(r *reply) error {
	for {
		b, err := c.br.Peek(max(c.br.Buffered(), 1))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return c.fail(*r, err, failCut)
		}
		if r.sse {
			c.line.scan(b, r)
		}
		r.bytes += int64(len(b))
		if _, err := c.br.Discard(len(b)); err != nil {
			return c.fail(*r, err, failCut)
		}
	}
}

// lineScanner reads an event stream cut at any byte. It needs only the first
// bytes of every line.
type lineScanner struct {
	start [40]byte
	n     int
}

func (s *lineScanner) reset() { s.n = 0 }

func (s *lineScanner) scan(b []byte, r *reply) {
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte{'\n'})
		s.n += copy(s.start[s.n:], line)
		b = rest
		if ended {
			s.line(r)
			s.n = 0
		}
	}
}

func (s *lineScanner) line(r *reply) {
	line := bytes.TrimRight(s.start[:s.n], "\r")
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		if string(line) == "event: error" {
			r.failed = true
		}
		return
	}
	data = bytes.TrimLeft(data, " ")
	r.events++
	switch {
	case string(data) == "[DONE]",
		bytes.HasPrefix(data, []byte(`{"type":"response.completed"`)),
		bytes.HasPrefix(data, []byte(`{"type":"response.incomplet`)):
		r.finished = true
	case bytes.HasPrefix(data, []byte(`{"error":`)), bytes.HasPrefix(data, []byte(`{"type":"error"`)),
		bytes.HasPrefix(data, []byte(`{"type":"response.failed"`)):
		r.failed = true
	}
}
