package quota

import (
	"context"

	"tollgate/internal/usage"
)

// Witness lets a control plane notice that a store lost what it was told, and
// keep what is needed to tell it again.
//
// The mark is a number that the control plane raises after every change of a
// grant and keeps a second time elsewhere. A store that was emptied has none, a
// store that was put back to an earlier state has a lower one. While a store is
// rebuilt the mark is negative.
type Witness interface {
	// Mark returns the mark and who keeps it.
	Mark(ctx context.Context) (Mark, error)
	// SetMark sets the mark to the number to, and reports whether it did:
	// with from above 0 only if the mark is at least from, and never to less
	// than it is; with from below 0 only if it is exactly from; with from 0
	// whatever it is. So a mark that was lost meanwhile is never put back by
	// somebody who did not rebuild the store.
	SetMark(ctx context.Context, from, to int64) (done bool, err error)
	// Checkpoint returns all that is to be known of a subscription to restore
	// it elsewhere.
	Checkpoint(ctx context.Context, subscription string) (Checkpoint, error)
}

// Mark is how far a store has followed the control plane.
type Mark struct {
	// Generation is the number last set: the lowest, where several servers
	// keep one each. 0: there is none, the store is new or was emptied.
	// Negative: the store is being rebuilt.
	Generation int64
	// Server changes when a server was started or replaced: it may then have
	// lost its last writes.
	Server string
}

// Checkpoint is what every incarnation did on one subscription, and the lots
// there are. Incarnations that were folded are not in it: a store that has
// folded them ignores what it is told of them, and one that has not takes it.
type Checkpoint struct {
	Subscription string
	Lots         map[string]int64  // id -> version
	Folded       map[string]uint64 // node -> highest boot folded
	Incarnations []IncarnationState
}

// IncarnationState is one incarnation in a checkpoint, with all its counters.
type IncarnationState struct {
	Incarnation Incarnation
	Final       bool // closed for good
	Overrun     usage.Units
	Counters    []Counter // in the order of lot and period
}
