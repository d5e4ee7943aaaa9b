package quota

import (
	"sync/atomic"

	"tollgate/internal/usage"
)

// lease is the units of one bucket that this node holds.
//
// Units are spent locally without a network call. What is unspent when the
// lease ends returns to its lot. If the node dies, the units stay held until
// the lease and its quarantine have passed: the worst case is one block
// unavailable for that time, never a unit sold twice.
//
// granted - used - returned = head + held, where held is the sum over the open
// holds. head may be negative after the store took units back that were held.
type lease struct {
	head atomic.Int64 // free to be taken
	used atomic.Int64 // U of this incarnation, moved after the record was kept

	lot      string
	from     int64        // start of the period, Unix ms of the store's clock
	to       atomic.Int64 // its end; 0: never. A renewal moves it.
	unit     usage.Unit
	overflow bool

	// away is what may be drawn while the store is away: for how long after its
	// last answer, and how many units are left of this node's share. Guarded by
	// account.mu.
	awayFor int64 // ns; 0: nothing
	credit  int64

	// The rest is guarded by account.mu.
	granted  int64
	returned int64
	reported int64 // used as the store last confirmed it
	open     bool  // open at the last report
	quiet    int64 // monotonic ns since when it is closed and fully reported
}

// covers reports whether at lies in the lease's period.
func (l *lease) covers(at int64) bool {
	to := l.to.Load()
	return at >= l.from && (to == 0 || at < to)
}

// take takes up to n units and returns how many it got.
func (l *lease) take(n int64) int64 {
	for {
		h := l.head.Load()
		if h <= 0 {
			return 0
		}
		got := min(n, h)
		if l.head.CompareAndSwap(h, h-got) {
			return got
		}
	}
}

// takeAll takes n units or none.
func (l *lease) takeAll(n int64) bool {
	for {
		h := l.head.Load()
		if h < n {
			return false
		}
		if l.head.CompareAndSwap(h, h-n) {
			return true
		}
	}
}

// put gives n units back that take gave.
func (l *lease) put(n int64) { l.head.Add(n) }

// outstanding returns what the store thinks this node has, as of the last
// report. The caller holds account.mu.
func (l *lease) outstanding() int64 { return l.granted - l.used.Load() - l.returned }

// held returns the units in open holds. The caller holds account.mu.
func (l *lease) held() int64 { return l.outstanding() - l.head.Load() }

// counter returns what to report. The caller holds account.mu.
func (l *lease) counter() Counter {
	return Counter{Lot: l.lot, From: l.from, Granted: l.granted, Used: l.used.Load(), Returned: l.returned}
}

// view is what the hot path of one subscription reads. It is never changed
// after it was published; the leases it points to count by themselves.
type view struct {
	until  int64                    // monotonic ns after which nothing may be taken
	offset int64                    // ms to add to this node's wall clock
	units  [usage.NumUnits][]*lease // open, in draw-down order
	late   []*lease                 // no longer open, in draw-down order
	low    [usage.NumUnits]int64    // head-room of the last lease below which more is asked for
	tail   bool                     // few units are left in all: give idle ones back at once
}

// singleLot reports whether one lot must pay for an amount of u whole (PKG-21).
func singleLot(u usage.Unit) bool { return u == usage.Call }

// take takes n units of u for a call admitted at at, adding to parts what it
// took. It returns how many it got: all, or, of a unit that may be split, what
// there was.
func (v *view) take(parts []part, u usage.Unit, n, at int64) ([]part, int64, bool) {
	got, dry := int64(0), true
	for i, l := range v.units[u] {
		if !l.covers(at) {
			continue
		}
		t := int64(0)
		if singleLot(u) {
			if l.takeAll(n) {
				t = n
			}
		} else {
			t = l.take(n - got)
		}
		if t > 0 {
			parts = addPart(parts, l, t)
			got += t
		}
		if got == n {
			dry = i == len(v.units[u])-1 && l.head.Load() < v.low[u]
			break
		}
	}
	return parts, got, dry
}

// part is what a hold has of one lease.
type part struct {
	l *lease
	n int64
}

func addPart(parts []part, l *lease, n int64) []part {
	for i := range parts {
		if parts[i].l == l {
			parts[i].n += n
			return parts
		}
	}
	return append(parts, part{l, n})
}
