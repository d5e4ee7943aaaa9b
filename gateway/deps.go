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

// Hold is an admitted call's reservation. Exactly one of Settle and Release
// takes effect; later calls of either are no-ops, so both may be deferred
// safely.
type Hold interface {
	// Settle charges rec.Units to the lots, fills rec.Charges and rec.Overrun,
	// and writes rec to the node's journal. When it returns nil the call is
	// counted and will be after any crash; on an error nothing was charged.
	Settle(rec *usage.Record) error
	// Release gives the reservation back: the call does not count.
	Release()
}

// Recorder keeps the record of a call that was not charged. It must not wait.
type Recorder interface {
	Note(rec *usage.Record)
}
