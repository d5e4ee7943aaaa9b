package gateway

import (
	"crypto/tls"
	"net"
	"time"
)

// listener wraps accepted connections, so that a client that does not read is
// cut off and the gateway can tell whether an answer is still buffered.
type listener struct {
	net.Listener
	writeTimeout time.Duration
}

func newListener(ln net.Listener, writeTimeout time.Duration) net.Listener {
	return &listener{Listener: ln, writeTimeout: writeTimeout}
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tc, ok := c.(*tls.Conn); ok {
		// The embedded *tls.Conn keeps the methods by which fasthttp knows TLS.
		return &tlsConn{Conn: tc, writes: writes{timeout: l.writeTimeout}}, nil
	}
	return &plainConn{Conn: c, writes: writes{timeout: l.writeTimeout}}, nil
}

// writes watches the writing side of a client connection. It is used by the
// connection's own goroutine only.
type writes struct {
	timeout  time.Duration
	deadline time.Time
	flushed  bool // something was written since the last handler began
}

// before is called ahead of each write. The deadline moves in steps, since
// setting it costs about as much as a small write.
func (w *writes) before(c net.Conn) error {
	w.flushed = true
	now := time.Now()
	at := now.Add(w.timeout)
	if ahead := at.Sub(w.deadline); ahead >= 0 && ahead < time.Second {
		return nil
	}
	w.deadline = at
	return c.SetWriteDeadline(at)
}

type plainConn struct {
	net.Conn
	writes
}

func (c *plainConn) Write(p []byte) (int, error) {
	if err := c.before(c.Conn); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *plainConn) watch() *writes { return &c.writes }

type tlsConn struct {
	*tls.Conn
	writes
}

func (c *tlsConn) Write(p []byte) (int, error) {
	if err := c.before(c.Conn); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *tlsConn) watch() *writes { return &c.writes }

// watched is a connection accepted through listener.
type watched interface{ watch() *writes }
