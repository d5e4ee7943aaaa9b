package quota_test

import (
	"context"
	"slices"
	"time"

	"tollgate/quota"
	"tollgate/quota/ledger"
)

func (s *sim) tend() {
	by := quota.Incarnation{}
	if n := s.nodes[s.r.IntN(len(s.nodes))]; n.alive && len(n.replay) == 0 {
		by = quota.Incarnation{Node: n.id, Boot: n.boot}
	}
	before := s.outstanding()
	quarantine := 24 * time.Hour
	if s.mode.lateUse {
		quarantine = 0
	}
	err := s.store.Tend(context.Background(), &quota.TendRequest{Subscription: s.sub, By: by, Quarantine: quarantine, Retention: 1000 * time.Hour})
	if err != nil {
		s.t.Fatal(err)
	}
	s.released += max(0, before-s.outstanding())
	s.alerts.look()
}

func (s *sim) outstanding() (n int64) {
	for _, r := range s.reported() {
		n += r.Outstanding()
	}
	return n
}

// kill is kill -9: what is in memory is gone, the journal is not. Half of the
// nodes come back at once.
func (s *sim) kill(n *simNode) {
	if !n.alive {
		s.revive(n)
		return
	}
	if !s.mode.crash {
		return
	}
	n.alive = false
	if s.r.IntN(2) == 0 {
		s.revive(n)
	}
}

// revive starts a node again; what it left behind is settled before it reports.
func (s *sim) revive(n *simNode) {
	n.replay = s.closings(n)
	s.start(n)
}

// closings replays a node's journal.
func (s *sim) closings(n *simNode) []*quota.CloseRequest {
	t := quota.NewTally()
	for boot, list := range n.journal {
		for i := range list {
			t.Add(boot, &list[i])
		}
	}
	var reqs []*quota.CloseRequest
	for boot := range n.boot {
		req := &quota.CloseRequest{Subscription: s.sub, Incarnation: quota.Incarnation{Node: n.id, Boot: boot + 1}, Final: true}
		for key, used := range s.usedBy(t, boot+1) {
			lot, from := ledger.SplitBucketKey(key)
			req.Counters = append(req.Counters, quota.Counter{Lot: lot, From: from, Used: used})
		}
		slices.SortFunc(req.Counters, func(x, y quota.Counter) int { return int(x.From-y.From) + 1000*int(x.Lot[1]-y.Lot[1]) })
		reqs = append(reqs, req)
	}
	return reqs
}

func (s *sim) usedBy(t *quota.Tally, boot uint64) map[string]int64 {
	out := map[string]int64{}
	for key := range s.truth {
		lot, from := ledger.SplitBucketKey(key)
		if n := t.Used(boot, s.sub, lot, from); n > 0 {
			out[key] = n
		}
	}
	return out
}

func (s *sim) settleEarlier(n *simNode) {
	for _, req := range n.replay {
		for range 1 + s.r.IntN(2) {
			if err := s.store.CloseIncarnation(context.Background(), req); err != nil {
				s.t.Fatal(err)
			}
		}
		if s.mode.wait {
			s.store.Keep() // nobody will tell it again
		}
		s.alerts.look()
	}
	n.replay = nil
}

func (s *sim) topUp() {
	i := s.r.IntN(len(s.grants))
	g := &s.grants[i]
	g.Version++
	g.Amount += int64(s.r.IntN(60))
	if _, err := s.store.ApplyGrant(context.Background(), *g); err != nil {
		s.t.Fatal(err)
	}
	s.store.Keep() // the control plane applies a grant until it is safe
	s.alerts.look()
}

// rollback makes the store forget its last writes.
func (s *sim) rollback() {
	if !s.mode.rollback {
		return
	}
	before := s.reported()
	s.store.Rollback(s.mode.learn)
	after := s.reported()
	for key, r := range before {
		s.lost += max(0, r.Granted-after[key].Granted)
	}
	s.alerts.rolledBack()
	if s.mode.learn {
		// Nodes report every second: all have before the relearning ends.
		s.r.Shuffle(len(s.nodes), func(i, j int) { s.nodes[i], s.nodes[j] = s.nodes[j], s.nodes[i] })
		for _, n := range s.nodes {
			if n.alive && !s.mode.wait {
				s.settleEarlier(n)
				n.expect = nil
				rep := n.engine.Report(s.sub, s.unit(), s.r.Int64N(5), false)
				n.engine.Answer(s.sub, rep, s.sync(rep.Req))
			}
		}
	}
}
