package quota

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/internal/usage"
)

// Hold is an admitted call's reservation. Exactly one of Settle and Release
// takes effect; later calls of either are no-ops, so both may be deferred, and
// called from different goroutines.
type Hold struct {
	e      *Engine
	a      *account
	at     int64 // admission, Unix ms of this node's clock
	mask   uint16
	stripe uint32
	done   atomic.Bool

	mu    sync.Mutex // guards what follows, and the way to done
	parts []part
	first [4]part // room for parts

	kept bool          // there is a checkpoint
	last *usage.Record // of the last checkpoint, with charges of its own; nil before the first of this memory
}

// reset prepares a hold for a new call.
func (h *Hold) reset(e *Engine, a *account, units []usage.Unit, at time.Time) {
	h.e, h.a = e, a
	h.at = at.UnixMilli()
	h.mask = 0
	for _, u := range units {
		h.mask |= 1 << u
	}
	if h.parts == nil {
		h.parts = h.first[:0]
		h.stripe = rand.Uint32()
	}
	h.parts = h.parts[:0]
	h.kept = false
	h.done.Store(false)
}

// forget gives a hold that was never handed out back to the pool.
func (h *Hold) forget() {
	h.done.Store(true)
	e := h.e
	h.a = nil
	e.holds.Put(h)
}

// Free releases the hold if it is still open and makes its memory available to
// later calls. It is optional, it saves an allocation for each call. The
// caller must be the only one who still has the hold, and must not touch it
// again.
func (h *Hold) Free() {
	h.Release()
	h.mu.Lock()
	clear(h.parts[:cap(h.parts)])
	h.parts = h.parts[:0]
	e := h.e
	h.a = nil
	h.mu.Unlock()
	e.holds.Put(h)
}

func (h *Hold) charges(u usage.Unit) bool { return h.mask&(1<<u) != 0 }

// want returns the amount of u to hold for an estimate.
func want(est *usage.Units, u usage.Unit) int64 { return max(est[u], 1) }

// takeAll takes the whole estimate from the leases of v, or nothing.
func (h *Hold) takeAll(v *view, est *usage.Units) bool {
	at := h.at + v.offset
	low := false
	for u := range usage.NumUnits {
		if !h.charges(u) {
			continue
		}
		n := want(est, u) - h.heldOf(u)
		if n <= 0 {
			continue
		}
		var got int64
		var dry bool
		h.parts, got, dry = v.take(h.parts, u, n, at)
		low = low || dry
		if got < n {
			h.putAll()
			return false
		}
	}
	h.e.watch(h.a)
	if low {
		h.e.refill(h.a)
	}
	return true
}

// takeSome takes what there is, at least one of each unit.
func (h *Hold) takeSome(v *view, est *usage.Units) bool {
	at := h.at + v.offset
	for u := range usage.NumUnits {
		if !h.charges(u) {
			continue
		}
		n := want(est, u)
		var got int64
		h.parts, got, _ = v.take(h.parts, u, n, at)
		if got == 0 || singleLot(u) && got < n {
			h.putAll()
			return false
		}
	}
	h.e.watch(h.a)
	return true
}

// missing lists what is to be held.
func (h *Hold) missing(est *usage.Units) []need {
	var needs []need
	for u := range usage.NumUnits {
		if h.charges(u) {
			needs = append(needs, need{unit: u, n: want(est, u)})
		}
	}
	return needs
}

// putAll gives everything back.
func (h *Hold) putAll() {
	for i := range h.parts {
		h.parts[i].l.put(h.parts[i].n)
	}
	h.parts = h.parts[:0]
}

func (h *Hold) heldOf(u usage.Unit) (n int64) {
	for i := range h.parts {
		if h.parts[i].l.unit == u {
			n += h.parts[i].n
		}
	}
	return n
}

// Held returns how many units of u the hold has. It may be less than was asked
// for, when the lots had less.
func (h *Hold) Held(u usage.Unit) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.heldOf(u)
}

// Holding returns all that the hold has.
func (h *Hold) Holding() (all usage.Units) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.parts {
		all[h.parts[i].l.unit] += h.parts[i].n
	}
	return all
}

// Extend holds more units for a call that goes on, such as the next slice of a
// stream. Of what the lots still have it holds less than more; when they have
// nothing it returns ErrExhausted, ErrHeld when what is left is held by calls
// under way, and ErrUnavailable when the store is away and no lease covers it.
// It waits for the store as Admit does.
func (h *Hold) Extend(more usage.Units) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done.Load() {
		return ErrResolved
	}
	for u := range usage.NumUnits {
		if !h.charges(u) || more[u] <= 0 {
			continue
		}
		if got, err := h.more(u, more[u]); got == 0 {
			return err
		}
	}
	return nil
}

// more adds up to n units of u and returns how many it got. The caller holds
// h.mu.
func (h *Hold) more(u usage.Unit, n int64) (int64, error) {
	got := int64(0)
	try := func() bool {
		v := h.a.view.Load()
		if v == nil || h.e.mono() >= v.until {
			return false
		}
		var t int64
		h.parts, t, _ = v.take(h.parts, u, n-got, h.at+v.offset)
		got += t
		return got == n
	}
	if try() {
		h.e.watch(h.a)
		return got, nil
	}
	// The call already runs: its own deadline must not decide whether what it
	// used is charged.
	ctx := context.Background()
	var err error
	if h.boundaryPassed(u) {
		err = h.e.once(ctx, h.a, need{unit: u, at: h.at, n: n - got})
		got += h.takeLate(u, n-got)
	} else {
		err = h.e.await(ctx, h.a,
			func() []need { return []need{{unit: u, n: n - got}} },
			func(bool) bool { return try() })
	}
	if got > 0 {
		h.e.watch(h.a)
		return got, nil
	}
	return 0, err
}

// boundaryPassed reports whether a period has begun since the call was
// admitted, so that its lots are no longer the ones open now.
func (h *Hold) boundaryPassed(u usage.Unit) bool {
	v := h.a.view.Load()
	if v == nil {
		return false
	}
	at := h.at + v.offset
	for _, l := range v.units[u] {
		if !l.covers(at) {
			return true
		}
	}
	return len(v.units[u]) == 0
}

// takeLate takes units of lots that were open when the call was admitted. The
// caller holds h.mu, not a.mu, or both.
func (h *Hold) takeLate(u usage.Unit, n int64) (got int64) {
	v := h.a.view.Load()
	if v == nil {
		return 0
	}
	for _, l := range v.late {
		if l.unit == u && l.covers(h.at+v.offset) && got < n {
			if t := l.take(n - got); t > 0 {
				h.parts = addPart(h.parts, l, t)
				got += t
			}
		}
	}
	return got
}

// Settle charges what the call used: it fills rec.Charges and rec.Overrun from
// what of rec.Units is billable, has the record kept, and only then lets the counters see it. What
// was held and not used goes back. What no lot can give is overrun.
//
// When the record cannot be kept, nothing is charged, the hold is released and
// the error returned: the caller must not let the answer count. Where there is
// a checkpoint it is what is charged then: its record is in the journal, and
// the next start finds it open. A hold that is settled or released already
// returns ErrResolved, and rec is left alone.
func (h *Hold) Settle(rec *usage.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done.Load() {
		return ErrResolved
	}
	h.charge(rec, true)
	if err := h.e.recorder.Record(rec); err != nil {
		rec.Charges = rec.Charges[:0]
		rec.Overrun = usage.Units{}
		h.resolve(h.checkpoint())
		return err
	}
	h.resolve(rec)
	return nil
}

// Checkpoint keeps a provisional record of a call that goes on: what of
// rec.Units the units held so far can give is charged to them, the rest is
// overrun. If the process dies before the call ends, the last checkpoint is
// what is charged. The hold stays open; a record that comes later takes the
// place of this one. It never waits for the store.
func (h *Hold) Checkpoint(rec *usage.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done.Load() {
		return ErrResolved
	}
	h.charge(rec, false)
	rec.Flags |= usage.Provisional
	err := h.e.recorder.Record(rec)
	rec.Flags &^= usage.Provisional
	if err == nil {
		h.keep(rec)
	}
	return err
}

// keep remembers the record of a checkpoint. The caller holds h.mu.
func (h *Hold) keep(rec *usage.Record) {
	if h.last == nil {
		h.last = new(usage.Record)
	}
	charges := append(h.last.Charges[:0], rec.Charges...)
	*h.last = *rec
	h.last.Charges = charges
	h.kept = true
}

// checkpoint returns the record of the last checkpoint, nil when there is
// none. The caller holds h.mu.
func (h *Hold) checkpoint() *usage.Record {
	if !h.kept {
		return nil
	}
	return h.last
}

// charge spreads rec.Units over what is held, taking more where that is not
// enough and more is set. The caller holds h.mu.
func (h *Hold) charge(rec *usage.Record, more bool) {
	rec.Charges = rec.Charges[:0]
	rec.Overrun = usage.Units{}
	for u := range usage.NumUnits {
		if !h.charges(u) || rec.Billable(u) <= 0 {
			continue
		}
		need := rec.Billable(u)
		if held := h.heldOf(u); more && held < need {
			_, _ = h.more(u, need-held) // what is not to be had is overrun
		}
		for i := range h.parts {
			p := &h.parts[i]
			if p.l.unit != u || need == 0 {
				continue
			}
			n := min(p.n, need)
			need -= n
			rec.Charges = append(rec.Charges, usage.Charge{Lot: p.l.lot, Unit: u, Amount: n, Bucket: p.l.from})
		}
		rec.Overrun[u] = need
	}
}

// resolve moves the counters by what rec charged, nil for nothing, and gives
// the rest back. The caller holds h.mu.
func (h *Hold) resolve(rec *usage.Record) {
	h.done.Store(true)
	back := false
	for i := range h.parts {
		p := &h.parts[i]
		used := int64(0)
		if rec != nil {
			for j := range rec.Charges {
				if c := &rec.Charges[j]; c.Bucket == p.l.from && c.Lot == p.l.lot {
					used = c.Amount
					break
				}
			}
		}
		if used > 0 {
			p.l.used.Add(used)
		}
		if used < p.n {
			p.l.put(p.n - used)
			back = true
		}
	}
	h.parts = h.parts[:0]
	if rec == nil {
		h.e.stats.released.add(h.stripe)
	} else {
		h.e.stats.settled.add(h.stripe)
		for u := range usage.NumUnits {
			if n := rec.Overrun[u]; n > 0 {
				h.a.overrun[u].Add(n)
				h.e.stats.overrun.Add(n)
			}
		}
	}
	h.e.watch(h.a)
	if v := h.a.view.Load(); back && (v == nil || v.tail) {
		h.e.freed(h.a)
	}
}

// Release gives everything back and charges nothing. A checkpoint is taken back
// by a record that charges nothing; where that cannot be kept the checkpoint
// stands, and is charged.
func (h *Hold) Release() {
	if h.done.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done.Load() {
		return
	}
	if h.kept {
		none := *h.last
		none.Flags &^= usage.Counted
		none.Basis, none.Units, none.Overrun, none.Charges = usage.BasisNone, usage.Units{}, usage.Units{}, nil
		none.Cached, none.Reasoning = 0, 0
		if h.e.recorder.Record(&none) != nil {
			h.resolve(h.last)
			return
		}
	}
	h.resolve(nil)
}
