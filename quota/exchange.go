package quota

import (
	"slices"
	"time"

	"tollgate/internal/usage"
)

// request builds the next report of a: everything it knows, what it gives
// back, and the head-room it wants. The caller holds a.mu and sends one report
// at a time.
func (a *account) request(cfg *Config, mono, wall int64) *SyncRequest {
	req := &SyncRequest{
		Subscription: a.id,
		Incarnation:  cfg.Incarnation,
		Now:          wall,
		TTL:          cfg.TTL,
		Quarantine:   cfg.Quarantine,
	}
	v := a.view.Load()
	// Units are not taken from under a call that waits for them here.
	scarce := a.recalled || v != nil && v.tail
	back := a.giveBack || scarce && a.waiting == 0
	a.giveBack, a.recalled = false, false
	var units [usage.NumUnits]bool
	var held usage.Units
	for key, l := range a.leases {
		if back || !l.open {
			l.giveBack(l.head.Load())
		}
		if l.open {
			held[l.unit] += max(0, l.held())
			units[l.unit] = true
		}
		c := l.counter()
		if !l.open && c.Outstanding() == 0 && c.Used == l.reported {
			if l.quiet == 0 {
				l.quiet = mono
			} else if mono-l.quiet > int64(keepQuiet) {
				delete(a.leases, key)
			}
		} else {
			l.quiet = 0
		}
		req.Counters = append(req.Counters, c)
	}
	slices.SortFunc(req.Counters, compareCounters)
	for u := range a.overrun {
		req.Overrun[u] = a.overrun[u].Load()
	}
	a.demand(req, cfg, mono, held, units, back)
	return req
}

// keepQuiet is how long a closed bucket's counters are still reported after
// the store confirmed them, so that a store which lost its last writes learns
// them again.
const keepQuiet = 5 * time.Minute

func compareCounters(x, y Counter) int {
	switch {
	case x.Lot != y.Lot:
		if x.Lot < y.Lot {
			return -1
		}
		return 1
	case x.From < y.From:
		return -1
	}
	return 1
}

// giveBack returns up to n idle units. The caller holds account.mu.
func (l *lease) giveBack(n int64) {
	if n > 0 {
		l.returned += l.take(n)
	}
}

// demand adds the levels to ask for: what open holds have and waiting calls
// need as the floor, and the head-room for the present rate on top.
func (a *account) demand(req *SyncRequest, cfg *Config, mono int64, held usage.Units, units [usage.NumUnits]bool, quiet bool) {
	var now usage.Units
	late := map[need]int64{}
	for _, n := range a.needs {
		if n.at == 0 {
			now[n.unit] += n.n
			units[n.unit] = true
		} else {
			late[need{unit: n.unit, at: n.at}] += n.n
		}
	}
	waited := len(a.needs) > 0
	a.needs = a.needs[:0]
	v := a.view.Load()
	for u := range usage.NumUnits {
		if !units[u] {
			continue
		}
		want := a.rate[u].look(a.taken(u), mono, cfg, waited && now[u] > 0)
		d := Demand{Unit: u, Floor: held[u] + now[u]}
		d.Target = d.Floor
		if !quiet && !(v != nil && v.tail) {
			d.Target += want
		}
		req.Demands = append(req.Demands, d)
	}
	for n, amount := range late {
		d := Demand{Unit: n.unit, At: n.at}
		for _, l := range a.leases {
			if l.unit == n.unit && l.covers(n.at) {
				d.Floor += max(0, l.held())
			}
		}
		d.Floor += amount
		d.Target = d.Floor
		req.Demands = append(req.Demands, d)
	}
}

// taken returns how many units of u this node took so far. It only serves to
// follow the rate.
func (a *account) taken(u usage.Unit) int64 {
	var n int64
	for _, l := range a.leases {
		if l.unit == u {
			n += l.granted - l.returned - l.head.Load()
		}
	}
	return n
}

// look updates the rate and returns the head-room to keep. A lease that dried
// up before the next report doubles it.
func (r *rate) look(taken, mono int64, cfg *Config, dried bool) int64 {
	if r.at == 0 {
		r.at, r.taken, r.want = mono, taken, cfg.MinLease
		return r.want
	}
	r.dried = r.dried || dried
	dt := mono - r.at
	if dt < int64(cfg.FlushEvery)/4 {
		if dried {
			r.want = max(2*r.want, cfg.MinLease)
		}
		return r.want
	}
	now := float64(max(0, taken-r.taken)) / float64(dt)
	r.perNs = (r.perNs + now) / 2
	r.perNs = max(r.perNs, now/2)
	want := int64(r.perNs * float64(cfg.LeaseSpan))
	if r.dried {
		want = max(want, min(2*r.want, 1<<40))
	}
	r.want = max(want, cfg.MinLease)
	r.at, r.taken, r.dried = mono, taken, false
	return r.want
}

// apply takes over the store's answer to req, which was sent at the monotonic
// time sent. The caller holds a.mu. It reports whether another report should
// follow at once.
func (a *account) apply(cfg *Config, req *SyncRequest, reply *SyncReply, sent, wallSent, wallNow int64) (again bool) {
	if a.forgotten(reply) {
		return false // the leases go on to their end
	}
	a.last = reply
	a.contacted = true
	a.lastOK = sent
	a.reported = req.Overrun
	v := &view{until: sent + int64(cfg.TTL-cfg.Margin)}
	// Only a difference that the time of travel cannot explain is one of the
	// clocks.
	switch {
	case reply.Now < wallSent:
		v.offset = reply.Now - wallSent
	case reply.Now > wallNow:
		v.offset = reply.Now - wallNow
	}
	if reply.Skewed {
		v.offset = 0
	}
	for _, l := range a.leases {
		l.open = false
	}
	var left, idle, others usage.Units
	for i := range reply.Buckets {
		b := &reply.Buckets[i]
		l := a.adopt(b)
		if !b.Open {
			v.late = append(v.late, l)
			continue
		}
		l.open = true
		v.units[b.Unit] = append(v.units[b.Unit], l)
		// Units of a later lot are idle here while an earlier one has some
		// again: put them back and draw in order (PKG-20).
		if left[b.Unit] > 0 && l.head.Load() > 0 {
			a.giveBack, again = true, true
		}
		left[b.Unit] += b.Remaining
		idle[b.Unit] += max(0, l.head.Load())
		others[b.Unit] += b.Outstanding - b.Counter.Outstanding()
		l.allow(b, cfg, reply.Active)
	}
	for _, d := range req.Demands {
		if d.At == 0 {
			v.low[d.Unit] = min(d.Target-d.Floor, idle[d.Unit]) / 5
		}
	}
	for u := range left {
		if len(v.units[u]) > 0 && reply.Active > 1 && left[u] <= 2*int64(reply.Active) {
			v.tail = true
			v.low[u] = 0
		}
		if left[u] == 0 {
			v.low[u] = 0 // nothing more to be had: do not ask for each call
		}
	}
	if reply.Closed {
		v = nil
	}
	a.view.Store(v)
	return again
}

// forgotten reports whether the store knows no lot of a subscription of which
// this node has open leases: it was emptied, and is not believed that they are
// over. Once it is rebuilt it is told of them, and grants nothing new for as
// long as they may last. The caller holds a.mu.
func (a *account) forgotten(reply *SyncReply) bool {
	if reply.Closed || reply.Known != ([usage.NumUnits]bool{}) {
		return false
	}
	for _, l := range a.leases {
		if l.open {
			return true
		}
	}
	return false
}

// allow notes what may be drawn on a bucket while the store is away: this
// node's share of its credit, and never more than that of what was left.
func (l *lease) allow(b *Bucket, cfg *Config, active int) {
	l.awayFor, l.credit = 0, 0
	if !b.Away.Continue {
		return
	}
	l.awayFor = int64(cfg.AwayFor)
	if b.Away.Seconds > 0 {
		l.awayFor = b.Away.Seconds * int64(time.Second)
	}
	l.credit = b.Remaining
	if b.Away.Credit > 0 {
		l.credit = min(l.credit, b.Away.Credit)
	}
	l.credit /= int64(max(active, 1))
}

// adopt takes over one bucket of the store's answer and returns its lease.
func (a *account) adopt(b *Bucket) *lease {
	key := bucketKey{b.Lot, b.From}
	l := a.leases[key]
	if l == nil {
		l = &lease{lot: b.Lot, from: b.From, unit: b.Unit, overflow: b.Overflow}
		l.to.Store(b.To)
		l.used.Store(b.Used)
		l.reported, l.granted = b.Used, b.Used
		a.leases[key] = l
	}
	if b.Open {
		l.to.Store(b.To) // a renewal may have moved the end
	}
	l.reported = max(l.reported, b.Used)
	// The store's figures of this incarnation are the merge of everything it
	// was told, this report included, so they may be taken as they are. Only a
	// grant that was not made safe yet comes back lower, and so does one drawn
	// on credit.
	dg := max(0, b.Granted-l.granted)
	dr := b.Returned - l.returned
	l.granted += dg
	l.returned += dr
	l.head.Add(dg - dr)
	return l
}
