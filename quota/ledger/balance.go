package ledger

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// The states of a lot (PKG-25).
const (
	StatePending   = "pending"
	StateActive    = "active"
	StateExhausted = "exhausted"
	StateExpired   = "expired"
	StateVoid      = "void"
)

// Balance returns the state of the account at now. For every lot
// granted = remaining + leased + used + lapsed, and none of them is negative:
// what was used beyond a lot is overrun.
func (a *Account) Balance(now int64) lot.Balance {
	now = max(now, a.Clock)
	b := lot.Balance{Subscription: a.Subscription, AsOf: time.UnixMilli(now).UTC()}
	for u, n := range a.Overrun {
		b.Overrun[u] += n
	}
	for _, n := range a.Nodes {
		for u := range n.Overrun {
			b.Overrun[u] += n.Overrun[u]
		}
	}
	var states []openLot
	for _, l := range a.Lots {
		states = append(states, openLot{Lot: l, period: quota.PeriodAt(&l.Grant, now)})
	}
	slices.SortFunc(states, func(x, y openLot) int {
		if x.Unit != y.Unit {
			return int(x.Unit) - int(y.Unit)
		}
		return compareOpen(x, y)
	})
	for _, l := range states {
		s, over := a.state(l, now)
		b.Overrun[l.Unit] += over
		b.Lots = append(b.Lots, s)
	}
	return b
}

// state sums the buckets of one lot.
func (a *Account) state(l openLot, now int64) (s lot.State, over int64) {
	s = lot.State{Grant: l.Grant, PeriodFrom: time.UnixMilli(l.period.From).UTC()}
	if l.period.To != 0 {
		s.PeriodTo = time.UnixMilli(l.period.To).UTC()
	}
	open := l.openAt(now)
	begun := int64(0)
	if l.Effective.UnixMilli() <= now {
		begun = l.period.N + 1
	}
	s.Granted, s.Used = l.FoldedGranted, l.FoldedUsed
	s.Lapsed = l.FoldedGranted - l.FoldedUsed
	touched := l.FoldedPeriods
	for key, b := range a.Buckets {
		id, from := SplitBucketKey(key)
		if id != l.ID || from < l.FoldedTo {
			continue
		}
		if from > now {
			continue
		}
		touched++
		used, out := b.used(), b.Out
		rem := b.Cap - used - out
		if rem < 0 { // more was used or is out than there was
			shown := max(0, out+rem)
			cut := -rem - (out - shown)
			used, out, rem = used-cut, shown, 0
			over += cut
		}
		s.Granted += b.Cap
		s.Used += used
		s.Leased += out
		if open && from == l.period.From {
			s.Remaining += rem
		} else {
			s.Lapsed += rem
		}
	}
	if untouched := begun - touched; untouched > 0 {
		s.Granted += untouched * l.Amount
		current := int64(0)
		if open && a.Buckets[BucketKey(l.ID, l.period.From)] == nil {
			current = 1
		}
		s.Remaining += current * l.Amount
		s.Lapsed += (untouched - current) * l.Amount
	}
	switch {
	case l.Void:
		s.State = StateVoid
	case now < l.Effective.UnixMilli():
		s.State = StatePending
	case !open:
		s.State = StateExpired
	case s.Remaining == 0 && s.Leased == 0:
		s.State = StateExhausted
	default:
		s.State = StateActive
	}
	return s, over
}

// Audit recomputes the sums of every bucket and checks every counter.
func (a *Account) Audit() []quota.Difference {
	var out []quota.Difference
	used, outstanding := map[string]int64{}, map[string]int64{}
	for key, t := range a.Counters {
		_, id, from := SplitCounterKey(key)
		k := BucketKey(id, from)
		used[k] += t.Used
		outstanding[k] += t.out()
		if t.Used < 0 || t.Returned < 0 || t.out() < 0 {
			out = append(out, quota.Difference{Lot: id, From: from, What: "counter", Got: t.out()})
		}
	}
	for key, b := range a.Buckets {
		id, from := SplitBucketKey(key)
		if b.Used != used[key] {
			out = append(out, quota.Difference{Lot: id, From: from, What: "used", Want: used[key], Got: b.Used})
		}
		if b.Out != outstanding[key] {
			out = append(out, quota.Difference{Lot: id, From: from, What: "outstanding", Want: outstanding[key], Got: b.Out})
		}
		delete(used, key)
		delete(outstanding, key)
	}
	for key, n := range used {
		if n != 0 || outstanding[key] != 0 {
			id, from := SplitBucketKey(key)
			out = append(out, quota.Difference{Lot: id, From: from, What: "used", Want: n})
		}
	}
	slices.SortFunc(out, func(x, y quota.Difference) int { return strings.Compare(x.Lot+x.What, y.Lot+y.What) })
	return out
}

// Report returns every counter with its incarnation, in order.
func (a *Account) Report() []quota.Reported {
	var out []quota.Reported
	for key, t := range a.Counters {
		inc, id, from := SplitCounterKey(key)
		i, err := quota.ParseIncarnation(inc)
		if err != nil {
			i = quota.Incarnation{Node: "base"}
		}
		n := a.Nodes[inc]
		until := int64(0)
		if n != nil {
			until = n.Deadline
		}
		out = append(out, quota.Reported{
			Until:       until,
			Incarnation: i,
			Counter:     quota.Counter{Lot: id, From: from, Granted: t.Granted, Used: t.Used, Returned: t.Returned},
			Closed:      n == nil || n.State == NodeFinal,
		})
	}
	slices.SortFunc(out, func(x, y quota.Reported) int {
		if c := strings.Compare(x.Incarnation.Node, y.Incarnation.Node); c != 0 {
			return c
		}
		if x.Incarnation.Boot != y.Incarnation.Boot {
			return int(int64(x.Incarnation.Boot) - int64(y.Incarnation.Boot))
		}
		if c := strings.Compare(x.Lot, y.Lot); c != 0 {
			return c
		}
		return int(x.From - y.From)
	})
	return out
}

// Fold moves what is older than retention into base rows: closed incarnations
// and ended periods. What is folded can no longer be reported on, so retention
// must be longer than any journal is kept.
func (a *Account) Fold(now, retention int64) {
	closed := map[string]bool{Base: true}
	for inc, n := range a.Nodes {
		if n.State == NodeFinal && n.Seen+retention <= now {
			closed[inc] = true
		}
	}
	// A node's boots are folded in order: the highest folded one says that all
	// below are.
	for inc := range a.Nodes {
		i, err := quota.ParseIncarnation(inc)
		if err != nil || closed[inc] {
			continue
		}
		for other := range closed {
			if o, err := quota.ParseIncarnation(other); err == nil && o.Node == i.Node && o.Boot > i.Boot {
				delete(closed, other)
			}
		}
	}
	for key, t := range a.Counters {
		inc, id, from := SplitCounterKey(key)
		if inc == Base || !closed[inc] {
			continue
		}
		base := a.counter(Base, id, from)
		base.Granted += t.Granted
		base.Used += t.Used
		base.Returned += t.Returned
		delete(a.Counters, key)
	}
	for inc := range closed {
		n := a.Nodes[inc]
		if n == nil {
			continue
		}
		for u := range n.Overrun {
			if n.Overrun[u] != 0 {
				a.Overrun[usage.Unit(u)] += n.Overrun[u]
			}
		}
		i, _ := quota.ParseIncarnation(inc)
		a.Folded[i.Node] = max(a.Folded[i.Node], i.Boot)
		delete(a.Nodes, inc)
	}
	a.foldBuckets(now, retention)
}

// foldBuckets folds the oldest periods of each lot, as long as they ended
// before retention and only base rows are left of them.
func (a *Account) foldBuckets(now, retention int64) {
	open := map[string]bool{}
	for key := range a.Counters {
		if inc, id, from := SplitCounterKey(key); inc != Base {
			open[BucketKey(id, from)] = true
		}
	}
	for _, l := range a.Lots {
		if l.Reset == lot.Never {
			continue
		}
		var froms []int64
		for key := range a.Buckets {
			if id, from := SplitBucketKey(key); id == l.ID {
				froms = append(froms, from)
			}
		}
		slices.Sort(froms)
		for _, from := range froms {
			key := BucketKey(l.ID, from)
			b := a.Buckets[key]
			to := quota.PeriodAt(&l.Grant, from).To
			if to == 0 || to+retention > now || open[key] || b.Out != 0 {
				break
			}
			l.FoldedTo = from + 1
			l.FoldedPeriods++
			l.FoldedGranted += max(b.Cap, b.used())
			l.FoldedUsed += b.used()
			delete(a.Buckets, key)
			delete(a.Counters, CounterKey(Base, l.ID, from))
		}
	}
}

// Checkpoint returns the lots with their versions and every incarnation that
// was not folded, with all its counters, in the order of node and boot.
func (a *Account) Checkpoint() quota.Checkpoint {
	cp := quota.Checkpoint{Subscription: a.Subscription, Lots: make(map[string]int64, len(a.Lots)), Folded: maps.Clone(a.Folded)}
	for id, l := range a.Lots {
		cp.Lots[id] = l.Version
	}
	at := map[string]*quota.IncarnationState{}
	for inc, n := range a.Nodes {
		if i, err := quota.ParseIncarnation(inc); err == nil {
			at[inc] = &quota.IncarnationState{Incarnation: i, Final: n.State == NodeFinal, Overrun: n.Overrun}
		}
	}
	for key, t := range a.Counters {
		inc, id, from := SplitCounterKey(key)
		if s := at[inc]; s != nil {
			s.Counters = append(s.Counters, quota.Counter{Lot: id, From: from, Granted: t.Granted, Used: t.Used, Returned: t.Returned})
		}
	}
	for _, s := range at {
		slices.SortFunc(s.Counters, func(x, y quota.Counter) int {
			return cmp.Or(strings.Compare(x.Lot, y.Lot), cmp.Compare(x.From, y.From))
		})
		cp.Incarnations = append(cp.Incarnations, *s)
	}
	slices.SortFunc(cp.Incarnations, func(x, y quota.IncarnationState) int {
		return cmp.Or(strings.Compare(x.Incarnation.Node, y.Incarnation.Node), cmp.Compare(x.Incarnation.Boot, y.Incarnation.Boot))
	})
	return cp
}
