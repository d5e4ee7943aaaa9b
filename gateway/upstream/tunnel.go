package upstream

import (
	"bufio"
	"io"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// Tunnel is a connection that switched protocols. What the upstream sent behind
// its header is read from it first.
type Tunnel struct {
	Header fasthttp.ResponseHeader
	// Refusal is the beginning of the body of an upstream that did not switch;
	// its status is that of Header.
	Refusal []byte

	target *Target
	conn   *conn
	once   sync.Once
}

// maxRefusal bounds what is read of an answer that is no switch.
const maxRefusal = 64 << 10

// Tunnel sends an upgrade request on a connection of its own. An answer other
// than 101 is in Header and Refusal, and the connection is closed then.
func (t *Target) Tunnel(req *Request) (*Tunnel, error) {
	now := t.cfg.Now()
	c, err := t.acquire(now, true, time.Time{})
	if err != nil {
		return nil, err
	}
	t.inFlight.Add(1)
	u := &Tunnel{target: t, conn: c}
	fail := func(op Op, err error) (*Tunnel, error) {
		u.Close()
		return nil, &Error{Op: op, Err: err}
	}
	if err := c.SetDeadline(now.Add(t.cfg.FirstByteTimeout)); err != nil {
		return fail(OpSend, err)
	}
	if _, err := c.Write(req.appendHead(nil)); err != nil {
		return fail(OpSend, err)
	}
	if err := u.Header.Read(c.br); err != nil {
		return fail(OpHeader, headerFault(err))
	}
	if u.Header.StatusCode() == fasthttp.StatusSwitchingProtocols {
		return u, c.SetDeadline(time.Time{})
	}
	var b body
	b.reset(c.br, &u.Header)
	u.Refusal, _ = io.ReadAll(io.LimitReader(&b, maxRefusal)) // what came of it
	u.Close()
	return u, nil
}

// Reader reads what the upstream sends.
func (u *Tunnel) Reader() *bufio.Reader { return u.conn.br }

// Conn is the connection, to write to and to set deadlines on.
func (u *Tunnel) Conn() net.Conn { return u.conn }

// Close cuts the connection. It may be called more than once.
func (u *Tunnel) Close() {
	u.once.Do(func() {
		u.target.discard(u.conn)
		u.target.inFlight.Add(-1)
	})
}
