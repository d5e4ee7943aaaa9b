package upstream

import (
	"bufio"
	"errors"
	"net"
	"os"
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
	deadline  time.Time // the read deadline last set

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
	return s.c.Conn.Read(p)
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

// deadlineStep is how coarsely read deadlines move: setting one costs about as
// much as a small read, so a stream of chunks does it once a step, not once a
// chunk.
const deadlineStep = time.Second

// extendRead moves the read deadline to now+d, give or take a step, but not
// past until, unless that is zero.
func (c *conn) extendRead(now time.Time, d time.Duration, until time.Time) error {
	at := now.Add(d)
	if !until.IsZero() && until.Before(at) {
		if at = until; c.deadline.Equal(at) {
			return nil
		}
	} else if ahead := at.Sub(c.deadline); ahead >= 0 && ahead < deadlineStep {
		return nil
	}
	c.deadline = at
	return c.SetReadDeadline(at)
}

// extendWrite moves the write deadline likewise.
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
