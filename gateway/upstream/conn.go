package upstream

import (
	"bufio"
	"net"
	"syscall"
	"time"
)

// probeAfter is how long a connection may have been idle before it is probed
// for having been closed by the peer. Below it the probe's system call costs
// more than the rare redial.
const probeAfter = 200 * time.Millisecond

// conn is one connection with its buffers, owned by one exchange at a time.
type conn struct {
	net.Conn
	raw       syscall.RawConn // of the TCP socket, nil when there is none
	br        *bufio.Reader
	bw        *bufio.Writer
	idleSince time.Time
	reused    bool
	deadline  time.Time // the read deadline last set
}

func newConn(nc, tcp net.Conn, bufferSize int) *conn {
	c := &conn{Conn: nc, br: bufio.NewReaderSize(nc, bufferSize), bw: bufio.NewWriterSize(nc, bufferSize)}
	if sc, ok := tcp.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	return c
}

// alive reports whether an idle connection can take a request: the peer has
// neither closed it nor sent anything unasked. It closes most of the window in
// which a request would be written to a connection the peer has given up, so
// that a call which must not be sent twice need not fail.
func (c *conn) alive(now time.Time) bool {
	if c.br.Buffered() > 0 {
		return false
	}
	if c.raw == nil || now.Sub(c.idleSince) < probeAfter {
		return true
	}
	alive := true
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		alive = n < 0 && (err == syscall.EAGAIN || err == syscall.EWOULDBLOCK)
		return true // never wait
	})
	return err == nil && alive
}

// deadlineStep is how coarsely read deadlines move: setting one costs about as
// much as a small read, so a stream of chunks does it once a step, not once a
// chunk.
const deadlineStep = time.Second

// extendRead moves the read deadline to now+d, give or take a step.
func (c *conn) extendRead(now time.Time, d time.Duration) error {
	at := now.Add(d)
	if ahead := at.Sub(c.deadline); ahead >= 0 && ahead < deadlineStep {
		return nil
	}
	c.deadline = at
	return c.SetReadDeadline(at)
}
