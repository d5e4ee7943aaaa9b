package usage

import (
	"fmt"
	"time"
)

// Bucket is what one subscription used of one billing item, beyond every
// package, in one hour: the line that on-demand charges are made of (PKG-28).
// It is sealed: its quantity never changes. What becomes known later is a
// bucket of its own, an adjustment.
type Bucket struct {
	Account, Subscription, Product string

	Unit Unit
	Hour time.Time // when the hour begins; the calls are those admitted in it
	// Seq is 0 for the hour's first bucket, and 1, 2, … for its adjustments.
	Seq int
	// Quantity is in units; that of an adjustment is a difference, and below 0
	// when less was used than had been counted.
	Quantity int64
	Sealed   time.Time
	Taken    time.Time // when billing took it; zero: it did not yet
}

// ID names a bucket for ever. Whoever charges it uses it as idempotency key.
func (b *Bucket) ID() string {
	return fmt.Sprintf("%s.%s.%s.%d", b.Subscription, b.Unit, b.Hour.UTC().Format("2006010215"), b.Seq)
}

// Adjustment reports whether b corrects an hour that was sealed before.
func (b *Bucket) Adjustment() bool { return b.Seq > 0 }
