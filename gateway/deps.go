package gateway

import (
	"time"

	"tollgate/internal/usage"
)

// Admitter decides whether a call may run and holds its estimated cost.
//
// Admit must not touch the network while a local lease covers the estimate,
// and must answer within a fixed short time otherwise. units lists the billing
// items the subscription is charged in; est holds the estimate of each. at is
// the admission instant, by which the call's lots are chosen (PKG-26).
//
// It returns ErrExhausted when no lot has anything left, ErrHeld when what is
// left is held by calls under way, ErrUnavailable when
// the node cannot decide; any other error is treated as the latter and logged.
type Admitter interface {
	Admit(subscription string, units []usage.Unit, est usage.Units, at time.Time) (Hold, error)
}

// Hold is an admitted call's reservation, from admission to its end. Exactly
// one of Settle and Release takes effect; later calls of either are no-ops, so
// both may be deferred safely. It belongs to one goroutine at a time.
//
// It has five methods because a reservation is one thing with one life: a
// stream makes it grow and notes what it has used, before it is settled.
type Hold interface {
	// Settle charges rec.Units to the lots, fills rec.Charges and rec.Overrun,
	// and writes rec to the node's journal. When it returns nil the call is
	// counted and will be after any crash; on an error nothing was charged, or
	// no more than the last checkpoint says.
	Settle(rec *usage.Record) error
	// Release gives the reservation back: the call does not count.
	Release()
	// Extend holds more of each unit, as much of it as the lots have, and
	// returns all that is held; more may be zero. It may wait like Admit, and
	// returns ErrExhausted or ErrHeld when the lots have nothing, ErrUnavailable
	// when that cannot be told now.
	Extend(more usage.Units) (held usage.Units, err error)
	// Checkpoint writes rec to the journal as a provisional record: what the
	// call is charged should the process die before Settle. It fills rec.Charges
	// and rec.Overrun from what is held, and must not wait.
	Checkpoint(rec *usage.Record) error
	// Free says that the hold is settled or released and will not be touched
	// again: its memory may serve another call.
	Free()
}

// TokenCounter counts the tokens of generated text, for streams whose upstream
// does not report on the way. It is called for each event on the answer's path:
// it must be fast, and must not keep text.
type TokenCounter interface {
	// Count returns the tokens of text for a model, by the name the client used.
	// text is the inside of a JSON string, escapes as they stand.
	Count(model string, text []byte) int64
}

// Recorder keeps the record of a call that was not charged. It must not wait.
type Recorder interface {
	Note(rec *usage.Record)
}
