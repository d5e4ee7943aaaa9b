package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Options are the settings of a port.
type Options struct {
	// ReusePort lets several processes listen on the same port; the kernel
	// spreads new connections over them. All of them have to ask for it, and
	// run as the same user.
	ReusePort bool
}

// Listener is one open port.
type Listener struct {
	*net.TCPListener

	mu    sync.Mutex
	ended chan struct{} // not nil: draining; closed when nothing more is accepted
	over  bool
}

// TCP opens a port.
func TCP(addr string, o Options) (*Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // such a socket takes no filter, see holdBack
	if o.ReusePort {
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			var failed error
			if err := c.Control(func(fd uintptr) { failed = reusePort(fd) }); err != nil {
				return err
			}
			if failed != nil {
				return fmt.Errorf("share the port: %w", failed)
			}
			return nil
		}
	}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &Listener{TCPListener: ln.(*net.TCPListener)}, nil
}

// Accept waits for the next connection. After Drain has taken the last one it
// answers net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ended != nil && !l.over {
			l.over = true
			close(l.ended)
		}
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	return c, err
}

// drainFor is how long connections are still taken after the kernel was told to
// ignore new ones: the time a handshake under way needs to come to its end.
const drainFor = 50 * time.Millisecond

// Drain takes the connections that wait and closes the port. It returns when
// whoever calls Accept has been given the last of them, or, if nobody does,
// after a second. Without a way to hold new connections back (only Linux has
// one) those that come at the last moment are still reset.
func (l *Listener) Drain() error {
	l.mu.Lock()
	first := l.ended == nil
	if first {
		l.ended = make(chan struct{})
	}
	ended := l.ended
	l.mu.Unlock()
	if first {
		if raw, err := l.SyscallConn(); err == nil {
			_ = raw.Control(holdBack) // at worst the port closes as ports do
		}
		if err := l.SetDeadline(time.Now().Add(drainFor)); err != nil {
			return l.closed(err)
		}
	}
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-ended:
	case <-t.C:
	}
	return l.closed(l.Close())
}

// closed takes a port that was closed before for one that is closed.
func (l *Listener) closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
