package quota_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/ledger"
	"tollgate/quota/quotatest"
)

// The simulator runs a handful of nodes against one store in virtual time, from
// one seed: every step, fault and answer is decided by it, so a failing seed
// fails again. Nodes are the real account and lease code; the store is the
// ledger here, and a real Redis in the redisstore package.
//
// Faults: a report or its answer is lost, doubled, delayed past others; a node
// is killed, and its journal replayed at its next start or never; the store
// forgets its last writes and comes back as another server.

// simStore is a store that can forget.
type simStore interface {
	quota.Store
	// Keep makes the present state the one that a rollback returns to.
	Keep()
	// Rollback returns to the state kept last; with another set, as another
	// server.
	Rollback(another bool)
	// Time is the subscription's clock.
	Time() time.Time
}

// simMode says which faults happen and what may come of them.
type simMode struct {
	name     string
	crash    bool
	rollback bool
	wait     bool // a raised grant is replicated before it is used
	learn    bool // rollbacks are noticed: the server's identity changes
	lateUse  bool // dead nodes' units are given out before their journal is read
	overdraw bool // units may be used beyond a lot, within the bound
}

var simModes = []simMode{
	{name: "no store loss", crash: true},
	{name: "reclaim before the journal is read", crash: true, lateUse: true, overdraw: true},
	{name: "rollback, replicated grants", crash: true, rollback: true, wait: true, learn: true},
	{name: "rollback, relearning", rollback: true, learn: true},
	{name: "rollback, neither", rollback: true, overdraw: true},
}

// sim is one run.
type sim struct {
	t     testing.TB
	mode  simMode
	r     *rand.Rand
	clock *quotatest.Clock
	store simStore
	sub   string

	nodes    []*simNode
	grants   []lot.Grant
	inFlight []*message
	truth    map[string]int64 // bucket -> used, from the union of journals (T)
	over     int64            // recorded as overrun
	released int64            // units of dead nodes given out before replay
	lost     int64            // grants that a rollback made the store forget
	admitted int
	refused  int
	alerts   *observer
}

type simNode struct {
	id      string
	boot    uint64
	alive   bool
	engine  *quota.SimNode
	journal map[uint64][]usage.Record
	holds   []*simHold
	waiting int64
	expect  *quota.SimReport // the report whose answer is awaited
	sentAt  time.Time
	replay  []*quota.CloseRequest
}

type simHold struct {
	h  *quota.Hold
	at time.Time
}

type message struct {
	node  *simNode
	boot  uint64
	rep   *quota.SimReport
	reply *quota.SyncReply // nil: on its way to the store
}

func (n *simNode) Record(rec *usage.Record) error {
	c := *rec
	c.Charges = slices.Clone(rec.Charges)
	n.journal[n.boot] = append(n.journal[n.boot], c)
	return nil
}

const simTTL = 10 * time.Second

func (s *sim) start(n *simNode) {
	n.boot++
	n.alive = true
	n.holds, n.expect, n.waiting = nil, nil, 0
	quarantine := 24 * time.Hour
	if s.mode.lateUse {
		quarantine = 0
	}
	n.engine = quota.NewSimNode(quota.Config{
		Incarnation: quota.Incarnation{Node: n.id, Boot: n.boot}, Now: s.clock.Now,
		TTL: simTTL, MinLease: 8, Quarantine: quarantine, LeaseSpan: 5 * time.Second,
	}, n)
}

// unitOf is the billing item of the run: calls, or tokens that split.
func (s *sim) unit() usage.Unit {
	if len(s.grants) > 0 {
		return s.grants[0].Unit
	}
	return usage.Call
}

func (s *sim) one() (u usage.Units) {
	u[s.unit()] = 1
	return u
}

func newSim(t testing.TB, mode simMode, seed uint64, clock *quotatest.Clock, store simStore, sub string) *sim {
	s := &sim{t: t, mode: mode, r: rand.New(rand.NewPCG(seed, 77)), clock: clock, store: store, sub: sub, truth: map[string]int64{}}
	unit := []usage.Unit{usage.Call, usage.Token}[s.r.IntN(2)]
	for i := range 1 + s.r.IntN(3) {
		g := lot.Grant{ID: fmt.Sprintf("L%d", i), Subscription: sub, Unit: unit, Amount: int64(20 + s.r.IntN(200)), Effective: clock.Now(), Version: 1}
		switch s.r.IntN(4) {
		case 0:
			g.Expires = clock.Now().Add(time.Duration(1+s.r.IntN(20)) * time.Minute)
		case 1:
			g.Reset, g.Amount = lot.Hour, g.Amount/4+1
			g.Effective = g.Effective.Add(-time.Duration(s.r.IntN(60)) * time.Minute)
		}
		s.grants = append(s.grants, g)
		if _, err := store.ApplyGrant(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	levels := []quota.Threshold{{Kind: quota.Percent, Value: 50}, {Kind: quota.Absolute, Value: 15}, quota.UsedUp}
	if _, err := store.SetThresholds(t.Context(), quota.Thresholds{Subscription: sub, Unit: unit, Version: 1, Levels: levels}); err != nil {
		t.Fatal(err)
	}
	s.alerts = newObserver(s, levels)
	for i := range 1 + s.r.IntN(4) {
		n := &simNode{id: fmt.Sprintf("n%d", i), journal: map[uint64][]usage.Record{}}
		s.start(n)
		s.nodes = append(s.nodes, n)
	}
	store.Keep()
	return s
}

// run makes steps, brings everything to rest and checks the end.
func (s *sim) run(steps int) {
	for i := range steps {
		s.step()
		if i%50 == 0 {
			s.check()
		}
		if s.t.Failed() {
			return
		}
	}
	s.rest()
}

func (s *sim) step() {
	n := s.nodes[s.r.IntN(len(s.nodes))]
	switch p := s.r.IntN(1000); {
	case p < 350:
		s.request(n)
	case p < 600:
		s.finish(n)
	case p < 700:
		s.send(n, 0, s.r.IntN(8) == 0)
	case p < 930:
		s.deliver()
	case p < 975:
		s.clock.Advance(time.Duration(s.r.Int64N(int64(2 * time.Second))))
	case p < 980:
		s.clock.Advance(time.Duration(s.r.Int64N(int64(90 * time.Second))))
	case p < 986:
		s.tend()
	case p < 992:
		s.kill(n)
	case p < 994:
		s.topUp()
	case p < 996:
		s.rollback()
	default:
		if !s.mode.wait {
			s.store.Keep() // the replica catches up by itself
		}
	}
}

func (s *sim) est() usage.Units {
	u := s.one()
	if s.unit() == usage.Token {
		u[usage.Token] = 1 + s.r.Int64N(12)
	}
	return u
}

// request lets a call come in. One that the leases do not cover waits for the
// next answer, as a call that asks the store would.
func (s *sim) request(n *simNode) {
	if !n.alive {
		return
	}
	at := s.clock.Now()
	est := s.est()
	h := n.engine.Admit(s.sub, []usage.Unit{s.unit()}, est, at)
	if h == nil {
		s.refused++
		n.waiting = est[s.unit()]
		s.send(n, n.waiting, false)
		return
	}
	s.admitted++
	n.holds = append(n.holds, &simHold{h, at})
}

// finish ends one call, with an upstream's 2xx or not.
func (s *sim) finish(n *simNode) {
	if !n.alive || len(n.holds) == 0 {
		return
	}
	i := s.r.IntN(len(n.holds))
	h := n.holds[i]
	n.holds = slices.Delete(n.holds, i, i+1)
	if s.r.IntN(4) == 0 {
		h.h.Release()
		return
	}
	rec := usage.Record{Subscription: s.sub, Time: h.at, Units: s.one()}
	if s.unit() == usage.Token {
		rec.Units[usage.Token] = 1 + s.r.Int64N(h.h.Held(usage.Token))
	}
	if err := h.h.Settle(&rec); err != nil {
		s.t.Errorf("settle: %v", err)
	}
	s.count(rec)
}

// count adds a record of a journal to the truth.
func (s *sim) count(rec usage.Record) {
	for _, c := range rec.Charges {
		s.truth[ledger.BucketKey(c.Lot, c.Bucket)] += c.Amount
		for i := range s.grants {
			if g := &s.grants[i]; g.ID == c.Lot { // I6: the period the call came in, within a clock's tick
				if p := quota.PeriodAt(g, rec.Time.UnixMilli()); p.From != c.Bucket || !g.Expires.IsZero() && !rec.Time.Before(g.Expires) {
					s.t.Errorf("I6: a call of %s was charged to %s of %s", rec.Time, c.Lot, time.UnixMilli(c.Bucket).UTC())
				}
			}
		}
	}
	for _, n := range rec.Overrun {
		s.over += n
	}
}

// send puts a report on its way, if none is, or the last one got no answer.
func (s *sim) send(n *simNode, need int64, giveBack bool) {
	if !n.alive || n.expect != nil && s.clock.Now().Sub(n.sentAt) < 2*time.Second {
		return
	}
	s.settleEarlier(n)
	n.expect = n.engine.Report(s.sub, s.unit(), need, giveBack)
	n.sentAt = s.clock.Now()
	m := &message{node: n, boot: n.boot, rep: n.expect}
	for range 1 + 2*(s.r.IntN(6)/5) { // now and then three of them
		if s.r.IntN(10) > 0 { // or none
			s.inFlight = append(s.inFlight, m)
		}
	}
}

// deliver lets one message arrive, not always the oldest.
func (s *sim) deliver() {
	if len(s.inFlight) == 0 {
		return
	}
	i := 0
	if s.r.IntN(4) == 0 {
		i = s.r.IntN(len(s.inFlight))
	}
	m := s.inFlight[i]
	s.inFlight = slices.Delete(s.inFlight, i, i+1)
	if s.r.IntN(40) == 0 { // it takes the long way
		s.inFlight = append(s.inFlight, m)
		return
	}
	if m.reply != nil {
		s.answer(m)
		return
	}
	reply := s.sync(m.rep.Req)
	if s.r.IntN(10) > 0 {
		s.inFlight = append(s.inFlight, &message{node: m.node, boot: m.boot, rep: m.rep, reply: reply})
	}
}

// sync is one report at the store, with what must hold of its answer.
func (s *sim) sync(req *quota.SyncRequest) *quota.SyncReply {
	before := s.reported()
	reply, err := s.store.Sync(context.Background(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.checkOrder(before, reply)
	raised := false
	for _, b := range reply.Buckets {
		for _, c := range req.Counters {
			if c.Lot == b.Lot && c.From == b.From {
				raised = raised || b.Granted > c.Granted
			}
		}
		raised = raised || !slices.ContainsFunc(req.Counters, func(c quota.Counter) bool { return c.Lot == b.Lot && c.From == b.From }) && b.Granted > 0
	}
	if s.mode.wait && raised {
		s.store.Keep()
	}
	s.alerts.look()
	return reply
}

// checkOrder is I5: what was granted from a lot while an earlier one has units.
func (s *sim) checkOrder(before map[string]quota.Reported, reply *quota.SyncReply) {
	left := int64(0)
	for _, b := range reply.Buckets {
		if !b.Open {
			continue
		}
		was := int64(0)
		for _, r := range before {
			if r.Lot == b.Lot && r.From == b.From {
				was += r.Granted
			}
		}
		now := int64(0)
		for _, r := range s.reported() {
			if r.Lot == b.Lot && r.From == b.From {
				now += r.Granted
			}
		}
		// A grant that the node reports itself, after a rollback, is not one.
		if now > was && left > 0 && !reply.Learning {
			s.t.Errorf("I5: %d units of %s were granted while %d of an earlier lot are left", now-was, b.Lot, left)
		}
		left += b.Remaining
	}
}

func (s *sim) reported() map[string]quota.Reported {
	list, err := s.store.Report(context.Background(), s.sub)
	if err != nil {
		s.t.Fatal(err)
	}
	m := map[string]quota.Reported{}
	for _, r := range list {
		m[ledger.CounterKey(r.Incarnation.String(), r.Lot, r.From)] = r
	}
	return m
}

// answer lets a node see an answer, if it still waits for it.
func (s *sim) answer(m *message) {
	n := m.node
	if !n.alive || n.boot != m.boot || n.expect != m.rep {
		return
	}
	n.expect = nil
	n.engine.Answer(s.sub, m.rep, m.reply)
	if n.waiting > 0 { // the call that asked
		n.waiting = 0
		s.request(n)
	}
}
