package upstream

import (
	"bufio"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// probeAfter is how long a connection may have been idle before it is probed
// for having been closed by the peer, or for bytes that nobody asked for and
// that the next caller must not get. Below it the probe's system call costs more
// than what it prevents; under load connections are used again sooner.
const probeAfter = time.Millisecond

// conn is one connection with its buffers, owned by one exchange at a time.
type conn struct {
	net.Conn
	raw       syscall.RawConn // of the TCP socket, nil when there is none
	plain     bool            // not TLS: a write that timed out may be continued
	br        *bufio.Reader
	out       []byte // reused for heads
	born      time.Time
	idleSince time.Time
	reused    bool

	// The read deadline moves with every call and every read, but setting one
	// costs about as much as a small read. So the one that is set lags behind:
	// it is moved when it has to come earlier, and when it fires too early.
	deadline time.Time // when a read has to fail
	armed    time.Time // the deadline set on the connection: not after deadline
	cut      atomic.Bool

	writeDeadline time.Time // the write deadline last set

	waits *Exchange // whose body is being read; nil otherwise

	prev, next *conn // in the target's list of connections in use
}

func newConn(nc, tcp net.Conn, bufferSize int) *conn {
	c := &conn{Conn: nc, plain: nc == tcp}
	c.br = bufio.NewReaderSize(source{c}, bufferSize)
	if sc, ok := tcp.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	return c
}

// source is what the reader of a connection reads. The time is taken only here,
// where the kernel has to be asked anyway, not for every chunk.
type source struct{ c *conn }

// Read implements io.Reader.
func (s source) Read(p []byte) (int, error) {
	if e := s.c.waits; e != nil {
		if err := e.beforeRead(s.c); err != nil {
			return 0, err
		}
	}
	for {
		n, err := s.c.Conn.Read(p)
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if s.c.cut.Load() || s.c.armed.Equal(s.c.deadline) {
			return 0, err
		}
		if aerr := s.c.arm(); aerr != nil {
			return 0, aerr
		}
	}
}

// arm sets the read deadline in force.
func (c *conn) arm() error {
	c.armed = c.deadline
	if err := c.SetReadDeadline(c.armed); err != nil {
		return err
	}
	// Looked at after the deadline was set: interrupt sets the flag before it
	// takes the deadline back.
	if c.cut.Load() {
		return errInterrupted
	}
	return nil
}

// readBefore has reads fail at the given time, from the next one on.
func (c *conn) readBefore(at time.Time) error {
	c.deadline = at
	if c.armed.IsZero() || at.Before(c.armed) {
		return c.arm()
	}
	return nil
}

// interrupt makes reads fail from now on, also one that waits.
func (c *conn) interrupt() {
	c.cut.Store(true)
	_ = c.SetReadDeadline(time.Unix(1, 0)) // a closed connection fails by itself
}

// alive reports whether an idle connection can take a request: the peer has
// neither closed it nor sent anything unasked. It closes most of the window in
// which a request would be written to a connection the peer has given up, so
// that a call which must not be sent twice need not fail.
func (c *conn) alive(now time.Time) bool {
	if c.br.Buffered() > 0 {
		return false
	}
	return now.Sub(c.idleSince) < probeAfter || !c.readable()
}

// readable reports, without waiting, whether a read would return: the peer has
// sent something, closed the connection, or broken it.
func (c *conn) readable() bool {
	if c.br.Buffered() > 0 {
		return true
	}
	if c.raw == nil {
		return false
	}
	readable := false
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		readable = n >= 0 && err == nil || err != syscall.EAGAIN && err != syscall.EWOULDBLOCK && err != syscall.EINTR
		return true // never wait
	})
	return err != nil || readable
}

// deadlineStep is how coarsely write deadlines move: setting one costs about as
// much as a small write.
const deadlineStep = time.Second

// extendWrite moves the write deadline to now+d, give or take a step.
func (c *conn) extendWrite(now time.Time, d time.Duration) error {
	at := now.Add(d)
	if ahead := at.Sub(c.writeDeadline); ahead >= 0 && ahead < deadlineStep {
		return nil
	}
	c.writeDeadline = at
	return c.SetWriteDeadline(at)
}

// earlyStep is how often a write that does not move on is interrupted to see
// whether the peer has answered meanwhile.
const earlyStep = 250 * time.Millisecond

// send writes p within limit. It reports early when it stopped because the
// peer, which does not take the rest, has begun to answer: that is how servers
// refuse a body (RFC 9112 section 9.3).
func (c *conn) send(p []byte, now time.Time, limit time.Duration) (early bool, err error) {
	end := now.Add(limit)
	for {
		at := end
		if step := now.Add(earlyStep); c.plain && step.Before(end) {
			at = step
		}
		if err := c.SetWriteDeadline(at); err != nil {
			return false, err
		}
		n, err := c.Write(p)
		p = p[n:]
		switch {
		case err == nil:
			return false, nil
		case !c.plain || !errors.Is(err, os.ErrDeadlineExceeded):
			return false, err
		case c.readable():
			return true, nil
		case n > 0:
			end = at.Add(limit) // it moves on, if slowly
		case !at.Before(end):
			return false, err
		}
		now = at
	}
}
