package quota_test

import (
	"context"
	"maps"

	"tollgate/internal/usage"
	"tollgate/quota/ledger"
)

// check is what holds at any time.
func (s *sim) check() {
	s.t.Helper()
	bal, err := s.store.Read(context.Background(), s.sub)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range bal.Lots {
		if l.Granted != l.Remaining+l.Leased+l.Used+l.Lapsed || min(l.Granted, l.Remaining, l.Leased, l.Used, l.Lapsed) < 0 {
			s.t.Errorf("I2: lot %s: %+v", l.ID, l)
		}
	}
	if diff, _ := s.store.Audit(context.Background(), s.sub); len(diff) > 0 {
		s.t.Errorf("I1, I2: %+v", diff)
	}
	s.checkSold()
}

// checkSold is I3: no unit is sold twice, beyond what the faults of the mode
// can explain.
func (s *sim) checkSold() {
	excess := int64(0)
	for key, used := range s.truth {
		id, _ := ledger.SplitBucketKey(key)
		for _, g := range s.grants {
			if g.ID == id {
				excess += max(0, used-g.Amount)
			}
		}
	}
	bound := int64(0)
	if s.mode.overdraw {
		bound = s.lost + s.released + s.unread()
	}
	if excess > bound {
		s.t.Errorf("I3: %d units were sold twice, the faults explain %d", excess, bound)
	}
}

// unread is what dead nodes used and nobody told the store, in a mode that
// gives their units out before.
func (s *sim) unread() int64 {
	if !s.mode.lateUse {
		return 0
	}
	// Every unit that a reclaim may have set free was granted once.
	n := int64(0)
	for _, r := range s.reported() {
		n += r.Granted
	}
	return n
}

// rest brings everything to an end: all calls finish, all journals are read,
// all messages arrive once more. Then the store says exactly what the journals
// say (I4), and every unit that is left can be sold (I10).
func (s *sim) rest() {
	for _, n := range s.nodes {
		for n.alive && len(n.holds) > 0 {
			s.finish(n)
		}
	}
	for _, m := range s.inFlight {
		if m.reply == nil {
			s.sync(m.rep.Req)
		}
	}
	s.inFlight = nil
	s.check()
	for range 2 { // a second round of everything changes nothing
		for _, n := range s.nodes {
			if !n.alive {
				s.revive(n)
			}
			s.settleEarlier(n)
			n.expect = nil
			rep := n.engine.Report(s.sub, s.unit(), 0, true)
			n.engine.Answer(s.sub, rep, s.sync(rep.Req))
		}
	}
	s.liveness()
	for _, n := range s.nodes {
		n.boot++ // its journal is read as that of a dead node
		n.replay = s.closings(n)
		s.settleEarlier(n)
	}
	used := map[string]int64{}
	for _, r := range s.reported() {
		used[ledger.BucketKey(r.Lot, r.From)] += r.Used
		if r.Outstanding() != 0 {
			s.t.Errorf("I4: %d units of %+v are still out", r.Outstanding(), r)
		}
	}
	maps.DeleteFunc(used, func(_ string, n int64) bool { return n == 0 })
	if !maps.Equal(used, s.truth) {
		s.t.Errorf("I4: the store says %v, the journals %v", used, s.truth)
	}
	s.check()
	s.alerts.end()
}

// liveness is I10: one node, asking, gets every unit that is left.
func (s *sim) liveness() {
	s.clock.Advance(2 * simTTL) // past any relearning
	n := s.nodes[s.r.IntN(len(s.nodes))]
	for _, other := range s.nodes {
		rep := other.engine.Report(s.sub, s.unit(), 0, true) // as a recall does
		other.engine.Answer(s.sub, rep, s.sync(rep.Req))
	}
	bal, err := s.store.Read(context.Background(), s.sub)
	if err != nil {
		s.t.Fatal(err)
	}
	left := int64(0)
	for _, l := range bal.Lots {
		left += l.Remaining
	}
	sold := int64(0)
	for range left + 1 {
		u := s.one()
		h := n.engine.Admit(s.sub, []usage.Unit{s.unit()}, u, s.clock.Now())
		if h == nil {
			rep := n.engine.Report(s.sub, s.unit(), 1, false)
			n.engine.Answer(s.sub, rep, s.sync(rep.Req))
			h = n.engine.Admit(s.sub, []usage.Unit{s.unit()}, u, s.clock.Now())
		}
		if h == nil {
			break
		}
		rec := usage.Record{Subscription: s.sub, Time: s.clock.Now(), Units: u}
		if err := h.Settle(&rec); err != nil {
			s.t.Error(err)
		}
		s.count(rec)
		sold++
	}
	if sold != left {
		s.t.Errorf("I10: %d units were left, %d of them could be sold", left, sold)
	}
	rep := n.engine.Report(s.sub, s.unit(), 0, true)
	n.engine.Answer(s.sub, rep, s.sync(rep.Req))
}
