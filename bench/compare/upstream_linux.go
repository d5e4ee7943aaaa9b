package compare

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// upstream is a mock that costs next to nothing: one thread, one epoll, answers
// rendered beforehand. The one of `bench upstream` can do much more, and would
// be the first to saturate.
type upstream struct {
	shape  shape
	plain  []byte // a whole answer
	head   []byte // of a stream
	chunk  []byte // one event
	last   []byte // the events that end a stream, and the end of its coding
	poll   *poller
	conns  map[int]*upstreamConn
	listen int
	timer  int
	turn   int               // the bucket whose streams send next
	next   int               // the bucket a new stream joins
	ring   [][]*upstreamConn // streams by the millisecond they send in
	active int
}

// upstreamConn is one connection of the upstream.
type upstreamConn struct {
	fd   int
	in   []byte
	out  []byte // what the peer did not take yet
	left int    // events of the stream under way
}

// newUpstream renders the answers of a shape.
func newUpstream(s shape) *upstream {
	u := &upstream{shape: s, conns: make(map[int]*upstreamConn), ring: make([][]*upstreamConn, max(1, s.Delay.Milliseconds()))}
	body := s.answer()
	u.plain = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: mock\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	u.head = []byte("HTTP/1.1 200 OK\r\nServer: mock\r\nDate: Sat, 21 Nov 2026 00:00:00 GMT\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	u.chunk = appendChunk(nil, s.event())
	for _, e := range s.ending() {
		u.last = appendChunk(u.last, e)
	}
	u.last = append(u.last, "0\r\n\r\n"...)
	return u
}

func appendChunk(dst []byte, data string) []byte {
	return fmt.Appendf(dst, "%x\r\n%s\r\n", len(data), data)
}

// open listens on a free port of the loopback and returns its address.
func (u *upstream) open() (addr string, err error) {
	if u.poll, err = newPoller(); err != nil {
		return "", err
	}
	if u.listen, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return "", fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(u.listen, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(u.listen, 4096); err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	sa, err := unix.Getsockname(u.listen)
	if err != nil {
		return "", fmt.Errorf("getsockname: %w", err)
	}
	if u.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return "", fmt.Errorf("timerfd: %w", err)
	}
	if err := errors.Join(u.poll.add(u.listen), u.poll.add(u.timer)); err != nil {
		return "", err
	}
	in4, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("the listener has no IPv4 address")
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(in4.Port)), nil
}

// run answers until the poller is stopped.
func (u *upstream) run() error {
	defer u.close()
	for {
		ready, err := u.poll.wait()
		if err != nil {
			return err
		}
		for _, e := range ready {
			switch fd := int(e.Fd); fd {
			case u.listen:
				u.accept()
			case u.timer:
				u.tick()
			case u.poll.wake:
				return nil
			default:
				if c := u.conns[fd]; c != nil {
					u.serve(c, e.Events)
				}
			}
		}
	}
}

func (u *upstream) accept() {
	for {
		fd, _, err := unix.Accept4(u.listen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // slower without, no less right
		if err := u.poll.add(fd); err != nil {
			_ = unix.Close(fd)
			continue
		}
		u.conns[fd] = &upstreamConn{fd: fd, in: make([]byte, 0, 16<<10)}
	}
}

func (u *upstream) serve(c *upstreamConn, events uint32) {
	if len(c.out) > 0 {
		u.send(c, nil)
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	if len(c.in) == cap(c.in) {
		c.in = append(c.in, 0)[:len(c.in)]
	}
	n, err := unix.Read(c.fd, c.in[len(c.in):cap(c.in)])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil || n == 0:
		u.drop(c)
		return
	}
	c.in = c.in[:len(c.in)+n]
	size, body := requestSize(c.in)
	if size == 0 || len(c.in) < size {
		return
	}
	stream := bytes.Contains(c.in[body:size], []byte(`"stream":true`))
	c.in = c.in[:copy(c.in, c.in[size:])]
	if stream {
		u.begin(c)
		return
	}
	u.send(c, u.plain)
}

// requestSize returns the length of the request b begins with and where its
// body starts; 0 while it cannot be told. A body in chunks is taken to end at
// the first end of such a coding: no JSON holds one.
func requestSize(b []byte) (size, body int) {
	i := bytes.Index(b, []byte("\r\n\r\n"))
	if i < 0 {
		return 0, 0
	}
	body = i + 4
	for rest := b[:i]; len(rest) > 0; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte{':'})
		switch {
		case len(name) == len("content-length") && bytes.EqualFold(name, []byte("content-length")):
			n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil || n < 0 {
				return body, body // nobody here sends that
			}
			return body + n, body
		case len(name) == len("transfer-encoding") && bytes.EqualFold(name, []byte("transfer-encoding")):
			end := bytes.Index(b[body:], []byte("\r\n0\r\n\r\n"))
			if end < 0 {
				return 0, body
			}
			return body + end + len("\r\n0\r\n\r\n"), body
		}
	}
	return body, body
}

// begin starts a stream: its events leave one each Delay, at instants spread
// evenly over the streams, as tokens of many calls do.
func (u *upstream) begin(c *upstreamConn) {
	u.send(c, u.head)
	c.left = u.shape.Chunks
	u.next = (u.next + 1) % len(u.ring)
	u.ring[u.next] = append(u.ring[u.next], c)
	if u.active++; u.active == 1 {
		u.arm(time.Millisecond)
	}
}

func (u *upstream) arm(every time.Duration) {
	spec := unix.NsecToTimespec(every.Nanoseconds())
	_ = unix.TimerfdSettime(u.timer, 0, &unix.ItimerSpec{Interval: spec, Value: spec}, nil) // a valid timer and time
}

// tick sends the next event of the streams whose turn it is, also of the turns
// that were missed.
func (u *upstream) tick() {
	var b [8]byte
	if _, err := unix.Read(u.timer, b[:]); err != nil {
		return
	}
	missed := 0
	for i := 7; i >= 0; i-- {
		missed = missed<<8 | int(b[i])
	}
	for range min(missed, len(u.ring)) {
		u.turn = (u.turn + 1) % len(u.ring)
		list := u.ring[u.turn]
		kept := list[:0]
		for _, c := range list {
			if u.conns[c.fd] != c {
				u.active--
				continue
			}
			if c.left--; c.left >= 0 {
				u.send(c, u.chunk)
				kept = append(kept, c)
				continue
			}
			u.send(c, u.last)
			u.active--
		}
		clear(list[len(kept):])
		u.ring[u.turn] = kept
	}
	if u.active == 0 {
		u.arm(0)
	}
}

// send writes b behind what was not taken yet.
func (u *upstream) send(c *upstreamConn, b []byte) {
	if len(c.out) > 0 {
		c.out = append(c.out, b...)
		b = c.out
	}
	if len(b) == 0 {
		return
	}
	n, err := unix.Write(c.fd, b)
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		u.drop(c)
		return
	}
	rest := b[max(n, 0):]
	waited := len(c.out) > 0
	c.out = append(c.out[:0], rest...)
	if (len(rest) > 0) != waited {
		u.poll.writable(c.fd, len(rest) > 0)
	}
}

func (u *upstream) close() {
	for _, c := range u.conns {
		_ = unix.Close(c.fd)
	}
	_ = unix.Close(u.listen)
	_ = unix.Close(u.timer)
	u.poll.close()
}

func (u *upstream) drop(c *upstreamConn) {
	delete(u.conns, c.fd)
	_ = unix.Close(c.fd)
}
