package quota

import "errors"

// The reasons a call is not admitted. The gateway's error table has a row for
// each.
var (
	// ErrExhausted says that the subscription has lots, and none of them has a
	// unit left: buy a package, or wait for the next reset.
	ErrExhausted = errors.New("quota: no lot has anything left: buy a package or wait for the next reset")
	// ErrHeld says that all that is left is held by calls under way, which may
	// give some of it back: the same call may pass later. Calls of the unit Call
	// get ErrExhausted instead: there a held unit is as good as used.
	ErrHeld = errors.New("quota: all that is left is held by calls under way: try again")
	// ErrNoPackage says that the subscription was never granted a lot of the
	// unit asked for.
	ErrNoPackage = errors.New("quota: the subscription has no package: buy one")
	// ErrUnavailable says that the store is away, or is relearning its state
	// after a failover, and no lease covers the call. It does not mean that the
	// package is used up: the same call may pass later.
	ErrUnavailable = errors.New("quota: the store cannot be reached and no lease covers the call: try again")
	// ErrClosed says that the engine was closed: the process is shutting down.
	ErrClosed = errors.New("quota: the engine is closed")
)

// Faults of callers and stores.
var (
	// ErrResolved says that a hold was settled or released before.
	ErrResolved = errors.New("quota: the hold was settled or released before")
	// ErrIncarnation says that an incarnation is closed for good: its number
	// was used before, or another host replayed its journal. Start with a
	// higher boot number.
	ErrIncarnation = errors.New("quota: the incarnation is closed: start with a higher boot number")
)
