package quota

import (
	"sync/atomic"
	"time"
)

// breaker takes the store to be away after two failures in a row. While it is
// open no call waits for the store; one report after each pause tries it.
type breaker struct {
	failures atomic.Int32
	openTill atomic.Int64 // monotonic ns of the next try
}

const (
	breakerFailures = 2
	breakerFirst    = 200 * time.Millisecond
	breakerMost     = 2 * time.Second
)

// isOpen reports whether the store is taken to be away at the monotonic time
// mono.
func (b *breaker) isOpen(mono int64) bool {
	return b.failures.Load() >= breakerFailures && mono < b.openTill.Load()
}

// away reports whether the last reports failed, whether or not it is time for
// the next try.
func (b *breaker) away() bool { return b.failures.Load() >= breakerFailures }

// failed counts a report without an answer.
func (b *breaker) failed(mono int64) {
	n := b.failures.Add(1)
	if n < breakerFailures {
		return
	}
	pause := breakerFirst << min(n-breakerFailures, 8)
	b.openTill.Store(mono + int64(min(pause, breakerMost)))
}

// succeeded closes the breaker and reports whether it had been open.
func (b *breaker) succeeded() bool { return b.failures.Swap(0) >= breakerFailures }
