package compare

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"tollgate/bench"
)

// generator makes calls from one thread with one epoll: it shares its core with
// the upstream, and both must stay cheaper than what they measure.
type generator struct {
	order  order
	render bench.Renderer
	poll   *poller
	conns  []*loadConn
	byFD   map[int]*loadConn
	idle   []*loadConn
	timer  int // tells an open loop when the next call is due
	tick   int // tells when the time is over

	addr    unix.Sockaddr
	count   bool // the warm-up is over
	ending  bool // no calls are begun
	sent    int64
	busy    int
	start   time.Time
	due     []time.Time // calls that wait for a connection, oldest first
	made    int64       // calls of the open loop that were due so far
	total   *hdrhistogram.Histogram
	lag     *hdrhistogram.Histogram
	out     sample
	scratch []byte
}

// loadConn is one connection of the generator.
type loadConn struct {
	fd    int
	begin time.Time // from which the call under way is timed; zero: none is
	rest  []byte    // of the request, what was not taken yet
	parse answerParser
}

// newGenerator opens the connections of an order.
func newGenerator(o order) (g *generator, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	g = &generator{order: o, byFD: make(map[int]*loadConn), total: newHistogram(), lag: newHistogram(), scratch: make([]byte, 64<<10), timer: -1, tick: -1}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	var addr string
	if g.render, addr, err = o.Scenario.Renderer(); err != nil {
		return nil, err
	}
	tcp, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, err
	}
	sa := &unix.SockaddrInet4{Port: tcp.Port}
	copy(sa.Addr[:], tcp.IP.To4())
	g.addr = sa
	if g.poll, err = newPoller(); err != nil {
		return nil, err
	}
	for _, fd := range []*int{&g.timer, &g.tick} {
		if *fd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("timerfd: %w", err)
		}
		if err := g.poll.add(*fd); err != nil {
			return nil, err
		}
	}
	for range o.Connections {
		c := &loadConn{fd: -1}
		g.conns = append(g.conns, c)
		if err := g.dial(c); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *generator) close() {
	for _, c := range g.conns {
		if c.fd >= 0 {
			_ = unix.Close(c.fd)
		}
	}
	for _, fd := range []int{g.timer, g.tick} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	if g.poll != nil {
		g.poll.close()
	}
}

// dial opens the connection anew. It blocks: the peer is on this machine.
func (g *generator) dial(c *loadConn) error {
	if c.fd >= 0 {
		delete(g.byFD, c.fd)
		_ = unix.Close(c.fd)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	c.fd = fd
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // slower without, no less right
	if err := unix.Connect(fd, g.addr); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if err := errors.Join(unix.SetNonblock(fd, true), g.poll.add(fd)); err != nil {
		return err
	}
	g.byFD[fd] = c
	return nil
}

// phase makes calls for as long as d and finishes those under way.
func (g *generator) phase(d time.Duration, count bool) error {
	g.count, g.ending = count, false
	g.start, g.made, g.busy, g.due, g.idle = time.Now(), 0, 0, nil, nil
	if err := arm(g.tick, d); err != nil {
		return err
	}
	g.idle = append(g.idle, g.conns...)
	if g.order.Rate > 0 {
		if err := arm(g.timer, time.Nanosecond); err != nil {
			return err
		}
	} else {
		for len(g.idle) > 0 && !g.ending {
			g.call(time.Now())
		}
	}
	for !g.ending || g.busy > 0 {
		ready, err := g.poll.wait()
		if err != nil {
			return err
		}
		for _, e := range ready {
			switch fd := int(e.Fd); fd {
			case g.tick:
				drain(fd)
				if g.ending {
					return fmt.Errorf("%d calls are not answered %s after the end", g.busy, answerLimit)
				}
				g.ending, g.due = true, nil
				if err := arm(g.tick, answerLimit); err != nil {
					return err
				}
			case g.timer:
				drain(fd)
				if err := g.take(); err != nil {
					return err
				}
			default:
				if c := g.byFD[fd]; c != nil {
					g.ready(c, e.Events)
				}
			}
		}
	}
	g.out.Seconds = time.Since(g.start).Seconds()
	return nil
}

// answerLimit is how long calls under way at the end of a phase may take.
const answerLimit = 10 * time.Second

// arm sets a timer, a relative one.
func arm(fd int, d time.Duration) error {
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(max(d, 1).Nanoseconds())}, nil); err != nil {
		return fmt.Errorf("timerfd: %w", err)
	}
	return nil
}

func drain(fd int) {
	var b [8]byte
	_, _ = unix.Read(fd, b[:]) // only its readiness counts
}

// take begins the calls of the open loop that are due, and sets the timer to
// the next.
func (g *generator) take() error {
	if g.ending {
		return nil
	}
	for {
		due := g.start.Add(time.Duration(float64(g.made) / g.order.Rate * float64(time.Second)))
		now := time.Now()
		if wait := due.Sub(now); wait > 0 {
			return arm(g.timer, wait)
		}
		g.made++
		if g.count {
			record(g.lag, now.Sub(due))
		}
		if len(g.idle) == 0 {
			if g.count {
				g.out.Late++
			}
			g.due = append(g.due, due)
			continue
		}
		g.call(due)
	}
}

// call begins a call on an idle connection, timed from begin.
func (g *generator) call(begin time.Time) {
	c := g.idle[len(g.idle)-1]
	g.idle = g.idle[:len(g.idle)-1]
	g.sent++
	request, err := g.render(begin, g.sent)
	if err != nil {
		g.ending = true
		g.failed(err)
		return
	}
	c.begin = begin
	c.parse.reset()
	g.busy++
	n, err := unix.Write(c.fd, request)
	if err != nil && err != unix.EAGAIN {
		g.broken(c, err)
		return
	}
	if n = max(n, 0); n < len(request) {
		c.rest = append([]byte(nil), request[n:]...)
		g.poll.writable(c.fd, true)
	}
}

// ready reads what a connection brings.
func (g *generator) ready(c *loadConn, events uint32) {
	if len(c.rest) > 0 && events&unix.EPOLLOUT != 0 {
		n, err := unix.Write(c.fd, c.rest)
		if err != nil && err != unix.EAGAIN {
			g.broken(c, err)
			return
		}
		if c.rest = c.rest[max(n, 0):]; len(c.rest) == 0 {
			g.poll.writable(c.fd, false)
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	n, err := unix.Read(c.fd, g.scratch)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil:
		g.broken(c, err)
		return
	case n == 0:
		g.broken(c, io.ErrUnexpectedEOF)
		return
	case c.begin.IsZero():
		g.broken(c, errAnswer)
		return
	}
	done, err := c.parse.feed(g.scratch[:n])
	if err != nil {
		g.broken(c, err)
		return
	}
	if done {
		g.done(c)
	}
}

// done counts an answer and begins the next call.
func (g *generator) done(c *loadConn) {
	now := time.Now()
	g.busy--
	switch p := &c.parse; {
	case p.status != 200:
		g.failed(fmt.Errorf("status %d", p.status))
	case g.order.Body > 0 && p.body != g.order.Body:
		g.failed(fmt.Errorf("an answer of %d bytes in place of %d", p.body, g.order.Body))
	case g.count:
		g.out.Requests++
		record(g.total, now.Sub(c.begin))
	}
	c.begin = time.Time{}
	if c.parse.closes {
		if err := g.dial(c); err != nil {
			g.failed(err)
			return // one connection less
		}
	}
	g.free(c, now)
}

// free gives a connection the next call.
func (g *generator) free(c *loadConn, now time.Time) {
	g.idle = append(g.idle, c)
	switch {
	case g.ending:
	case g.order.Rate <= 0:
		g.call(now)
	case len(g.due) > 0:
		due := g.due[0]
		g.due = g.due[1:]
		g.call(due)
	}
}

// broken counts a call without a complete answer and replaces the connection.
func (g *generator) broken(c *loadConn, err error) {
	called := !c.begin.IsZero() // otherwise it waits in g.idle, and goes on waiting there
	if called {
		g.busy--
		g.failed(err)
	}
	c.begin, c.rest = time.Time{}, nil
	if err := g.dial(c); err != nil {
		g.failed(err)
		g.ending = true // the target is gone
		return
	}
	if !called {
		return
	}
	g.idle = append(g.idle, c) // not called at once: a server that closes must not be hammered
	if g.order.Rate <= 0 && g.out.Errors > 1000 {
		g.ending = true
	}
}

func (g *generator) failed(err error) {
	g.out.Errors++
	if g.out.FirstErr == "" {
		g.out.FirstErr = err.Error()
	}
}

// The words generator and measurement exchange, a line each.
const (
	wordWarm = "warm"
	wordGo   = "go"
)

// serveOrders takes one order after the other from in, as lines of JSON. For
// each it opens the connections, warms up, says that it is warm, waits for "go",
// measures, and answers with a sample.
func serveOrders(in io.Reader, out io.Writer) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil // the measurement is over
		}
		var o order
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			return fmt.Errorf("order: %w", err)
		}
		s, err := measure(o, lines, out)
		if err != nil {
			return err
		}
		text, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s\n", text); err != nil {
			return err
		}
	}
}

func measure(o order, in *bufio.Reader, out io.Writer) (sample, error) {
	g, err := newGenerator(o)
	if err != nil {
		return sample{}, err
	}
	defer g.close()
	if o.Warmup > 0 {
		if err := g.phase(o.Warmup, false); err != nil {
			return sample{}, err
		}
		g.out = sample{}
	}
	if _, err := fmt.Fprintln(out, wordWarm); err != nil {
		return sample{}, err
	}
	if line, err := in.ReadString('\n'); err != nil || strings.TrimSpace(line) != wordGo {
		return sample{}, fmt.Errorf("no %q but %q: %w", wordGo, line, err)
	}
	if err := g.phase(o.Duration, true); err != nil {
		return sample{}, err
	}
	g.out.fill(g.total)
	g.out.Lag99 = 0
	if g.lag.TotalCount() > 0 {
		g.out.Lag99 = g.lag.ValueAtQuantile(99)
	}
	return g.out, nil
}
