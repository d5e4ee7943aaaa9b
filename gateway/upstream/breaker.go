package upstream

import (
	"sync"
	"sync/atomic"
	"time"
)

// State says whether a target is given calls. Its number is the value of
// tollgate_breaker_state.
type State int32

// The states of a target.
const (
	Closed   State = iota // it is given calls
	HalfOpen              // one call tries whether it is back
	Open                  // it is given none
)

// The breaker opens after breakerFailures connections in a row that could not
// be made or ended without a byte of answer, for breakerFirst, doubled with
// each failed trial up to breakerMost. An answer of any status is a success:
// what an upstream says is for its caller.
const (
	breakerFailures = 5
	breakerFirst    = 250 * time.Millisecond
	breakerMost     = 5 * time.Second
)

// breaker keeps calls from a target that cannot be reached. It is safe for
// concurrent use.
type breaker struct {
	state    atomic.Int32
	failures atomic.Int32 // in a row

	mu    sync.Mutex
	until time.Time // the end of the open state
	wait  time.Duration
}

// admits reports whether a call may go to the target now. When the time of an
// open breaker is over it admits one call, whose outcome decides.
func (b *breaker) admits(now time.Time) bool {
	if State(b.state.Load()) == Closed {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case State(b.state.Load()) == Closed:
		return true
	case now.Before(b.until):
		return false
	}
	// A trial that is never decided, because its client broke it off, is over
	// by itself after the wait.
	b.state.Store(int32(HalfOpen))
	b.until = now.Add(b.wait)
	return true
}

func (b *breaker) succeeded() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
	if State(b.state.Load()) != Closed {
		b.mu.Lock()
		b.wait = 0
		b.state.Store(int32(Closed))
		b.mu.Unlock()
	}
}

func (b *breaker) failed(now time.Time) {
	if b.failures.Add(1) < breakerFailures && State(b.state.Load()) == Closed {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if State(b.state.Load()) == Open {
		return // a call that began before it opened
	}
	b.wait = min(max(2*b.wait, breakerFirst), breakerMost)
	b.until = now.Add(b.wait)
	b.state.Store(int32(Open))
}
