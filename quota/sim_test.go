package quota_test

import (
	"context"
	"fmt"
	"maps"
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

// memory is the ledger as a store.
type memory struct {
	quota.Store // only for methods the simulator does not use
	clock       *quotatest.Clock
	a, kept     *ledger.Account
	run         int
}

func newMemory(clock *quotatest.Clock, sub string) *memory {
	m := &memory{clock: clock, a: ledger.New(sub)}
	m.Keep()
	return m
}

func (m *memory) env() ledger.Env {
	return ledger.Env{Now: m.clock.Now().UnixMilli(), Run: fmt.Sprint("run", m.run)}
}
func (m *memory) Keep() { m.kept = m.a.Clone() }
func (m *memory) Rollback(another bool) {
	m.a = m.kept.Clone()
	if another {
		m.run++
	}
}
func (m *memory) Time() time.Time { return time.UnixMilli(m.a.Clock) }

func (m *memory) Sync(_ context.Context, req *quota.SyncRequest) (*quota.SyncReply, error) {
	r, _ := m.a.Sync(m.env(), req)
	return r, nil
}

func (m *memory) CloseIncarnation(_ context.Context, req *quota.CloseRequest) error {
	m.a.Close(m.env(), req)
	return nil
}

func (m *memory) ApplyGrant(_ context.Context, g lot.Grant) (bool, error) {
	return m.a.ApplyGrant(m.env(), g), nil
}

func (m *memory) SetThresholds(_ context.Context, t quota.Thresholds) (bool, error) {
	return m.a.SetThresholds(m.env(), t), nil
}

func (m *memory) Read(context.Context, string) (lot.Balance, error) {
	return m.a.Balance(m.env().Now), nil
}

func (m *memory) Audit(context.Context, string) ([]quota.Difference, error) { return m.a.Audit(), nil }

func (m *memory) Report(context.Context, string) ([]quota.Reported, error) { return m.a.Report(), nil }

func (m *memory) Tend(_ context.Context, req *quota.TendRequest) error {
	m.a.Tend(m.env(), req)
	return nil
}

func (m *memory) Crossings(context.Context, int) ([]quota.Crossing, error) {
	return slices.Clone(m.a.Outbox), nil
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
