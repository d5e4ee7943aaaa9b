package quota

import (
	"sync"
	"sync/atomic"
	"time"

	"tollgate/internal/usage"
)

// account is one subscription on this node. The hot path reads view and the
// counters within its leases; everything else happens under mu, off it.
type account struct {
	id    string
	view  atomic.Pointer[view]
	dirty atomic.Bool // on the engine's list of accounts to look after

	// refusedUntil is the monotonic time until which the last refusal holds
	// without asking again, and refusal the reason.
	refusedUntil atomic.Int64
	refusal      atomic.Pointer[error]

	overrun [usage.NumUnits]atomic.Int64 // cumulative, of this incarnation

	mu        sync.Mutex
	leases    map[bucketKey]*lease
	needs     []need    // of calls that wait, for the next report
	running   bool      // a round is under way
	sent      time.Time // when its report was sent, as timers see it; zero: not yet
	next      *round    // the one to follow it
	waiting   int       // calls that wait for units
	giveBack  bool      // return all idle units with the next report
	recalled  bool      // the same, unless calls wait here
	announce  bool      // report all that is known, also what was confirmed
	last      *SyncReply
	lastOK    int64       // monotonic ns when the last answered report was sent
	lastUse   int64       // monotonic ns when a change of use was last seen
	reported  usage.Units // overrun as last confirmed
	rate      [usage.NumUnits]rate
	contacted bool // the store answered at least once
}

type bucketKey struct {
	lot  string
	from int64
}

// need is what one waiting call asks for.
type need struct {
	unit usage.Unit
	at   int64 // 0: now
	n    int64
}

// round is one exchange with the store, with everyone who waits for it.
type round struct {
	done chan struct{}
	// Set before done is closed.
	reply *SyncReply
	err   error
}

// rate follows how fast a unit is taken.
type rate struct {
	taken int64 // taken in all at the last look
	at    int64 // monotonic ns of the last look
	perNs float64
	want  int64 // head-room to keep
	dried bool  // calls had to wait since the last look
}
