package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

// How a node leaves without a client noticing:
//
//	Leave      readiness is gone; every answer says "Connection: close"; calls
//	           go on, on connections old and new, while balancers look away
//	Shutdown   no new connections; one that lies idle is closed by its sending
//	           side only, and read on: a request that had just been sent on it
//	           meets a regular end before any byte of an answer, never a reset
//	limit      what is still open is cut
//
// A connection that has not carried a request yet is given silentFor: its
// client has just opened it and would take its end for a failure.

// silentFor is how long Shutdown waits for the first request on connections
// that have carried none, and for the rest of a request's header.
const silentFor = time.Second

// wake makes the connection look whether it has to leave. The caller holds
// openConns.mu, so that the connection is not being closed.
func (w *watch) wake() {
	w.woken.Store(true)
	_ = w.raw.SetReadDeadline(time.Unix(1, 0)) // a closed one needs no waking
}

// mayLeave reports whether the connection is to end instead of waiting for a
// request: the gateway is leaving, nothing of a request has come, and nothing
// is on its way as far as this side can see.
func (w *watch) mayLeave() bool {
	since := w.l.open.leaving.Load()
	if since == 0 || !w.quiet || !w.served && time.Now().UnixNano()-since <= int64(silentFor) {
		return false
	}
	w.armed = time.Time{} // looking takes the deadline away
	return !arrived(w.raw)
}

// readFrom reads from the connection, and ends it where that is due: by an EOF
// as if the client had closed it, upon which the server closes its side.
func (w *watch) readFrom(c net.Conn, p []byte) (int, error) {
	for {
		if w.mayLeave() {
			w.linger.Store(true)
			w.ended = true
			return 0, io.EOF
		}
		if w.between {
			// The next request takes a while; who can run goes first. It spares
			// the read that finds nothing: see upstream.Exchange.
			runtime.Gosched()
		}
		n, err := c.Read(p)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			woken := w.woken.CompareAndSwap(true, false)
			if woken {
				w.until = time.Now().Add(w.l.readTimeout)
			}
			if woken || !w.armed.Equal(w.until) {
				w.armed = w.until
				if err := c.SetReadDeadline(w.until); err != nil {
					return 0, err
				}
				continue
			}
		}
		w.read(p[:n], err)
		return n, err
	}
}

// serving is the listeners that connections are taken from.
type serving struct {
	mu    sync.Mutex
	set   map[net.Listener]struct{}
	over  bool
	tasks tasks
}

// begin reports whether ln may be served.
func (s *serving) begin(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	if s.set == nil {
		s.set = make(map[net.Listener]struct{})
	}
	s.set[ln] = struct{}{}
	s.tasks.begin()
	return true
}

func (s *serving) end(ln net.Listener) {
	s.mu.Lock()
	delete(s.set, ln)
	s.mu.Unlock()
	s.tasks.end()
}

// close closes the listeners and waits until nothing is taken from them any
// more. One that its owner has closed is no error.
func (s *serving) close(ctx context.Context) error {
	s.mu.Lock()
	s.over = true
	var errs []error
	for ln := range s.set {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.mu.Unlock()
	return errors.Join(append(errs, s.tasks.wait(ctx))...)
}
