package accuracy

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// wire is the way between a node and Redis, which can be broken. It passes
// bytes on between each connection of the node and one of its own.
//
// What a broken direction holds is delivered when the wire is whole again, as
// the retransmissions of a healed network are: a command may be executed long
// after its sender gave it up.
type wire struct {
	ln net.Listener
	to string

	mu     sync.Mutex
	state  fault
	healed chan struct{} // closed when state next changes
	conns  map[net.Conn]struct{}
	work   sync.WaitGroup
	closed bool
}

// fault is what is wrong with a wire.
type fault struct {
	noRequests bool          // nothing reaches Redis
	noReplies  bool          // nothing comes back
	delay      time.Duration // each way
	lossy      float64       // share of replies that are lost with their connection
	refuse     bool          // connections are refused, existing ones reset
}

func newWire(to string) (*wire, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{ln: ln, to: to, healed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	w.work.Go(w.accept)
	return w, nil
}

func (w *wire) url() string { return "redis://" + w.ln.Addr().String() + "/0" }

// set changes what is wrong; the zero fault heals the wire.
func (w *wire) set(f fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = f
	close(w.healed)
	w.healed = make(chan struct{})
	if f.refuse {
		for c := range w.conns {
			reset(c)
		}
	}
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a socket that has gone is reset already
	}
	_ = c.Close() // its goroutines close it once more
}

// close ends the wire and everything on it.
func (w *wire) close() {
	w.mu.Lock()
	w.closed = true
	for c := range w.conns {
		_ = c.Close() // to wake its goroutines
	}
	close(w.healed)
	w.healed = make(chan struct{})
	w.mu.Unlock()
	_ = w.ln.Close() // to wake accept
	w.work.Wait()
}

func (w *wire) now() (f fault, changed chan struct{}, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.healed, w.closed
}

func (w *wire) accept() {
	for {
		c, err := w.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if f, _, _ := w.now(); f.refuse {
			reset(c)
			continue
		}
		if w.track(c) {
			w.work.Go(func() { w.join(c) })
		}
	}
}

// track remembers a connection; it closes one that comes too late.
func (w *wire) track(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		_ = c.Close() // nobody uses it
		return false
	}
	w.conns[c] = struct{}{}
	return true
}

func (w *wire) drop(c net.Conn) {
	w.mu.Lock()
	delete(w.conns, c)
	w.mu.Unlock()
	_ = c.Close() // both directions end here
}

// join connects a node's connection to Redis. A broken wire lets nobody
// through: a new connection waits as a packet without answer would.
func (w *wire) join(node net.Conn) {
	defer w.drop(node)
	if !w.pass(func(f fault) bool { return f.noRequests || f.noReplies }) {
		return
	}
	redis, err := net.DialTimeout("tcp", w.to, 2*time.Second)
	if err != nil || !w.track(redis) {
		return
	}
	defer w.drop(redis)
	var both sync.WaitGroup
	both.Go(func() { w.copy(redis, node, func(f fault) bool { return f.noRequests }, false) })
	both.Go(func() { w.copy(node, redis, func(f fault) bool { return f.noReplies }, true) })
	both.Wait()
}

// pass waits while blocked, and reports whether the wire is still there.
func (w *wire) pass(blocked func(fault) bool) bool {
	for {
		f, changed, closed := w.now()
		if closed {
			return false
		}
		if !blocked(f) {
			return true
		}
		<-changed
	}
}

// copy carries one direction until either end is gone.
func (w *wire) copy(to, from net.Conn, blocked func(fault) bool, replies bool) {
	defer func() {
		if half, ok := to.(*net.TCPConn); ok {
			_ = half.CloseWrite() // what was sent before still arrives
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !w.pass(blocked) {
				return
			}
			f, _, _ := w.now()
			if f.delay > 0 {
				time.Sleep(f.delay)
			}
			if replies && f.lossy > 0 && rand.Float64() < f.lossy {
				reset(to)
				_ = from.Close() // the reply and its connection are lost
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				_ = from.Close() // nobody takes what comes
				return
			}
		}
		if err != nil {
			return
		}
	}
}
