package gateway

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// listener wraps accepted connections, so that a client that does not read is
// cut off, the gateway knows whether an answer is still buffered, and Shutdown
// can close what is left.
type listener struct {
	net.Listener
	writeTimeout time.Duration
	readTimeout  time.Duration
	open         *openConns
	tasks        *tasks // counts the open connections
}

// openConns is the set of client connections.
type openConns struct {
	mu      sync.Mutex
	set     map[net.Conn]*watch
	leaving atomic.Int64 // Unix ns since when idle connections end; 0: they stay
}

func (o *openConns) add(c net.Conn, w *watch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.set == nil {
		o.set = make(map[net.Conn]*watch)
	}
	o.set[c] = w
}

// remove reports whether c was there.
func (o *openConns) remove(c net.Conn) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.set[c]
	delete(o.set, c)
	return ok
}

// leave has the connections that carry no call end themselves: see leave.go.
// Those that have not sent a whole request header in silentFor are closed.
func (o *openConns) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now().UnixNano()
	o.leaving.CompareAndSwap(0, now)
	late := now-o.leaving.Load() > 2*int64(silentFor)
	for c, w := range o.set {
		switch {
		case w.serving.Load():
		case late:
			_ = c.Close() // to wake its goroutine, which closes it once more
		default:
			w.wake()
		}
	}
}

// closeAll closes every connection there is.
func (o *openConns) closeAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.set {
		_ = c.Close() // to wake its goroutine, which closes it once more
	}
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.tasks.begin()
	if tc, ok := c.(*tls.Conn); ok {
		// The embedded *tls.Conn keeps the methods by which fasthttp knows TLS.
		wc := &tlsConn{Conn: tc, w: watch{raw: c, l: l, fresh: true, quiet: true}}
		l.open.add(c, &wc.w)
		return wc, nil
	}
	wc := &plainConn{Conn: c, w: watch{raw: c, l: l, fresh: true, quiet: true}}
	l.open.add(c, &wc.w)
	return wc, nil
}

// watch is what the gateway keeps of a client connection. But for linger and
// serving it is used by the connection's own goroutine only.
type watch struct {
	raw net.Conn
	l   *listener

	deadline time.Time   // the write deadline last set
	until    time.Time   // when a read has to fail; zero: never
	armed    time.Time   // the read deadline set: not after until, unless that is zero
	woken    atomic.Bool // the read deadline that has passed was set by wake
	linger   atomic.Bool // the client may be sending still: see close
	serving  atomic.Bool // a call is under way, its answer not yet written
	ended    bool        // a read has failed: nothing more will come

	// fresh says that nothing was in the server's write buffer when the request
	// under way began: the server flushed because it had to wait for it.
	fresh   bool
	between bool // the server is between two requests

	served bool // a request has been answered
	quiet  bool // nothing of the next request has been read

	// What was seen of a request's first line, for answers to requests that
	// cannot be parsed.
	first     [16]byte
	firstLen  int
	firstLine bool // its end was seen
}

// watched is a connection accepted through listener.
type watched interface{ watch() *watch }

// state follows the server's hook: it is between requests from the idle state
// on until the next request's first byte.
func state(c net.Conn, s fasthttp.ConnState) {
	wc, ok := c.(watched)
	if !ok {
		return
	}
	w := wc.watch()
	switch s {
	case fasthttp.StateIdle:
		w.serving.Store(false)
		w.between, w.fresh = true, false
		w.served, w.quiet = true, true
		w.firstLen, w.firstLine = 0, false
	case fasthttp.StateActive:
		w.between = false
	}
}

// read is told what a read brought.
func (w *watch) read(p []byte, err error) {
	if err != nil {
		w.ended = true
	}
	if len(p) > 0 {
		w.quiet = false
	}
	if w.between {
		w.fresh = true
	}
	if !w.firstLine {
		w.firstLine = bytes.IndexByte(p, '\n') >= 0
		w.firstLen += copy(w.first[w.firstLen:], p)
	}
}

// before is called ahead of each write. The deadline moves in steps, since
// setting it costs about as much as a small write.
func (w *watch) before() error {
	now := time.Now()
	at := now.Add(w.l.writeTimeout)
	if ahead := at.Sub(w.deadline); ahead >= 0 && ahead < time.Second {
		return nil
	}
	w.deadline = at
	return w.raw.SetWriteDeadline(at)
}

// readBefore has reads of c fail at t. The server says so twice for each request,
// and setting a deadline costs about as much as a small read: the one that is
// set lags behind. It is moved when it has to come earlier, and by readFrom when
// it fires too early.
func (w *watch) readBefore(c net.Conn, t time.Time) error {
	w.until = t
	if w.armed.IsZero() && !t.IsZero() || !t.IsZero() && t.Before(w.armed) {
		w.armed = t
		return c.SetReadDeadline(t)
	}
	return nil
}

// lingerFor bounds how long a connection is read on after an answer that was
// sent although the request had not come in whole. Closing at once would make
// the kernel send a reset, which can take the answer away from the client (RFC
// 9112 section 9.6).
const lingerFor = 2 * time.Second

// close closes c behind the answer.
func (w *watch) close(c net.Conn) error {
	if w.l.open.remove(w.raw) {
		defer w.l.tasks.end()
	}
	// A client of a gateway that leaves may not have been told in time.
	linger := w.linger.Load() || w.l.open.leaving.Load() != 0
	if half, ok := c.(interface{ CloseWrite() error }); ok && linger {
		if half.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerFor)) == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(c, 16<<20)) // until the client has closed too
		}
	}
	return c.Close()
}

type plainConn struct {
	net.Conn
	w watch
}

func (c *plainConn) watch() *watch { return &c.w }
func (c *plainConn) Close() error  { return c.w.close(c.Conn) }

func (c *plainConn) Read(p []byte) (int, error) {
	return c.w.readFrom(c.Conn, p)
}

func (c *plainConn) Write(p []byte) (int, error) {
	if err := c.w.before(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetReadDeadline sets when reads have to fail.
func (c *plainConn) SetReadDeadline(t time.Time) error { return c.w.readBefore(c.Conn, t) }

// SetDeadline forgets the write deadline kept, so that the next write sets one.
func (c *plainConn) SetDeadline(t time.Time) error {
	c.w.deadline, c.w.until, c.w.armed = time.Time{}, t, t
	return c.Conn.SetDeadline(t)
}

type tlsConn struct {
	*tls.Conn
	w watch
}

func (c *tlsConn) watch() *watch { return &c.w }
func (c *tlsConn) Close() error  { return c.w.close(c.Conn) }

func (c *tlsConn) Read(p []byte) (int, error) {
	return c.w.readFrom(c.Conn, p)
}

func (c *tlsConn) Write(p []byte) (int, error) {
	if err := c.w.before(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetReadDeadline sets when reads have to fail.
func (c *tlsConn) SetReadDeadline(t time.Time) error { return c.w.readBefore(c.Conn, t) }

// SetDeadline forgets the write deadline kept, so that the next write sets one.
func (c *tlsConn) SetDeadline(t time.Time) error {
	c.w.deadline, c.w.until, c.w.armed = time.Time{}, t, t
	return c.Conn.SetDeadline(t)
}
