package quotatest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// Backend opens stores of one kind.
type Backend struct {
	// Open returns an empty store that ends with the test. now is a clock that
	// the test moves; nil means real time.
	Open func(t *testing.T, now func() time.Time) quota.Store
}

// Run runs the whole suite over a backend.
func Run(t *testing.T, b Backend) {
	for _, group := range []struct {
		name string
		run  func(*testing.T, Backend)
	}{
		{"protocol", testProtocol},
		{"model", testModel},
		{"grants", testGrants},
		{"stacked", testStacked},
		{"thresholds", testThresholds},
		{"admission", testAdmission},
		{"nodes", testNodes},
		{"periods", testPeriods},
		{"witness", testWitness},
	} {
		t.Run(group.name, func(t *testing.T) { group.run(t, b) })
	}
}

// Clock is a clock that only moves when told.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// NewClock returns a clock that stands at t.
func NewClock(t time.Time) *Clock { return &Clock{t: t} }

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// Advance moves the clock by d.
func (c *Clock) Advance(d time.Duration) { c.Set(c.Now().Add(d)) }

// Set puts the clock to t.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

// start is the instant at which the moved clocks of the suite begin.
var start = time.Date(2026, 11, 2, 2, 20, 0, 0, time.UTC)

// grant returns a lot of n units, effective an hour before at.
func grant(sub, id string, unit usage.Unit, n int64, at time.Time) lot.Grant {
	return lot.Grant{ID: id, Subscription: sub, Unit: unit, Amount: n, Effective: at.Add(-time.Hour).Truncate(time.Millisecond), Version: 1}
}

// apply gives grants to a store.
func apply(t testing.TB, s quota.Store, grants ...lot.Grant) {
	t.Helper()
	for _, g := range grants {
		if applied, err := s.ApplyGrant(t.Context(), g); err != nil || !applied {
			t.Fatalf("apply lot %s version %d: %v, %v", g.ID, g.Version, applied, err)
		}
	}
}

// node is an engine with the records it made.
type node struct {
	*quota.Engine
	mu      sync.Mutex
	records []usage.Record
	fail    error
}

// Record keeps a copy of rec.
func (n *node) Record(rec *usage.Record) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fail != nil {
		return n.fail
	}
	c := *rec
	c.Charges = append([]usage.Charge(nil), rec.Charges...)
	n.records = append(n.records, c)
	return nil
}

// charged sums what the records charged to a lot; with no lot, to all.
func (n *node) charged(lot string) (sum int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.records {
		for _, c := range r.Charges {
			if lot == "" || c.Lot == lot {
				sum += c.Amount
			}
		}
	}
	return sum
}

// engine starts an engine that ends with the test.
func engine(t testing.TB, s quota.Store, name string, now func() time.Time, change ...func(*quota.Config)) *node {
	t.Helper()
	cfg := quota.Config{
		Incarnation: quota.Incarnation{Node: name, Boot: 1}, Now: now,
		// The suite is about what is right, not about how fast the machine is.
		AnswerWait: time.Minute, SyncTimeout: time.Minute, TailWait: 2 * time.Second,
	}
	for _, fn := range change {
		fn(&cfg)
	}
	n := &node{}
	e, err := quota.New(cfg, s, n)
	if err != nil {
		t.Fatal(err)
	}
	n.Engine = e
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = e.Close(ctx) // tests that look at the result close themselves
	})
	return n
}

var (
	calls  = []usage.Unit{usage.Call}
	tokens = []usage.Unit{usage.Token}
	one    = usage.Units{usage.Call: 1}
)

// call admits and settles one call.
func (n *node) call(ctx context.Context, sub string, at time.Time) error {
	h, err := n.Admit(ctx, sub, calls, one, at)
	if err != nil {
		return err
	}
	defer h.Free()
	return h.Settle(&usage.Record{Subscription: sub, Time: at, Units: one})
}

// use admits and settles a call of tokens.
func (n *node) use(t testing.TB, sub string, est, actual int64, at time.Time) usage.Record {
	t.Helper()
	h, err := n.Admit(t.Context(), sub, tokens, usage.Units{usage.Token: est}, at)
	if err != nil {
		t.Fatalf("admit %d tokens: %v", est, err)
	}
	rec := usage.Record{Subscription: sub, Time: at, Units: usage.Units{usage.Token: actual}}
	if err := h.Settle(&rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

// balance flushes the nodes and reads the balance, and checks what always
// holds of one.
func balance(t testing.TB, s quota.Store, sub string, nodes ...*node) lot.Balance {
	t.Helper()
	for _, n := range nodes {
		if err := n.FlushSubscription(t.Context(), sub); err != nil {
			t.Fatalf("flush: %v", err)
		}
	}
	b, err := s.Read(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	checkBalance(t, b)
	if diff, err := s.Audit(t.Context(), sub); err != nil || len(diff) > 0 {
		t.Fatalf("audit: %+v, %v", diff, err)
	}
	return b
}

// checkBalance checks granted = remaining + leased + used + lapsed, and that
// nothing is negative.
func checkBalance(t testing.TB, b lot.Balance) {
	t.Helper()
	for _, l := range b.Lots {
		if l.Granted != l.Remaining+l.Leased+l.Used+l.Lapsed {
			t.Errorf("lot %s: granted %d is not remaining %d + leased %d + used %d + lapsed %d", l.ID, l.Granted, l.Remaining, l.Leased, l.Used, l.Lapsed)
		}
		if min(l.Granted, l.Remaining, l.Leased, l.Used, l.Lapsed) < 0 {
			t.Errorf("lot %s: a negative figure: %+v", l.ID, l)
		}
	}
	for u, n := range b.Overrun {
		if n < 0 {
			t.Errorf("overrun of %s is %d", usage.Unit(u), n)
		}
	}
}

// figures of one lot, for comparisons.
type figures struct{ Granted, Remaining, Leased, Used, Lapsed int64 }

func of(b lot.Balance, id string) figures {
	for _, l := range b.Lots {
		if l.ID == id {
			return figures{l.Granted, l.Remaining, l.Leased, l.Used, l.Lapsed}
		}
	}
	return figures{}
}

// eventually waits until ok returns nothing; the limit only ends a test that
// has failed.
func eventually(t testing.TB, ok func() string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		what := ok()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 10s: %s", what)
		}
		<-tick.C
	}
}

// subscription returns an id of its own for a test.
func subscription(t testing.TB) string { return fmt.Sprintf("sub-%x", hash(t.Name())) }

func hash(s string) uint32 {
	h := uint32(2166136261)
	for _, c := range []byte(s) {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}
