package quota_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/embedded"
	"tollgate/quota/quotatest"
)

var errAway = errors.New("connection refused")

// shaky is a store that can be away: refusing, or not answering at all.
type shaky struct {
	quota.Store
	away  atomic.Bool
	hangs atomic.Bool
	syncs atomic.Int64
	// before, when set, sees each report that gets through.
	before func(*quota.SyncRequest)
	// after, when set, may change an answer or lose it.
	after func(*quota.SyncReply) error
}

func (s *shaky) Sync(ctx context.Context, req *quota.SyncRequest) (*quota.SyncReply, error) {
	s.syncs.Add(1)
	if s.hangs.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.away.Load() {
		return nil, errAway
	}
	if s.before != nil {
		s.before(req)
	}
	r, err := s.Store.Sync(ctx, req)
	if err == nil && s.after != nil {
		err = s.after(r)
	}
	return r, err
}

func (s *shaky) CloseIncarnation(ctx context.Context, req *quota.CloseRequest) error {
	if s.away.Load() || s.hangs.Load() {
		return errAway
	}
	return s.Store.CloseIncarnation(ctx, req)
}

// bed is an engine on a shaky store, on a clock that the test moves.
type bed struct {
	*quota.Engine
	t       *testing.T
	clock   *quotatest.Clock
	store   *shaky
	cfg     quota.Config
	mu      sync.Mutex
	records []usage.Record
}

var begin = time.Date(2026, 11, 2, 2, 20, 0, 0, time.UTC)

func newBed(t *testing.T, change func(*quota.Config), grants ...lot.Grant) *bed {
	t.Helper()
	b := &bed{t: t, clock: quotatest.NewClock(begin)}
	s, err := embedded.Open(t.TempDir(), embedded.Options{Now: b.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	b.store = &shaky{Store: s}
	for _, g := range grants {
		if g.ID == "" {
			g.ID = "L1"
		}
		g.Subscription, g.Version, g.Effective = "sub", 1, begin.Add(-time.Hour)
		if _, err := s.ApplyGrant(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	b.cfg = quota.Config{Incarnation: quota.Incarnation{Node: "a", Boot: 1}, Now: b.clock.Now, FlushEvery: 10 * time.Millisecond}
	if change != nil {
		change(&b.cfg)
	}
	b.Engine, err = quota.New(b.cfg, b.store, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.store.away.Store(false)
		b.store.hangs.Store(false)
		_ = b.Close(context.Background())
		s.Close()
	})
	return b
}

func (b *bed) Record(rec *usage.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := *rec
	c.Charges = append([]usage.Charge(nil), rec.Charges...)
	b.records = append(b.records, c)
	return nil
}

func (b *bed) call() error {
	h, err := b.Admit(context.Background(), "sub", callUnits, oneCall, b.clock.Now())
	if err != nil {
		return err
	}
	defer h.Free()
	return h.Settle(&usage.Record{Subscription: "sub", Units: oneCall})
}

// until waits until ok, while the background of the engine works.
func (b *bed) until(what string, ok func() bool) {
	b.t.Helper()
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			b.t.Fatalf("after 10s still not: %s", what)
		}
	}
}

func (b *bed) used(id string) (used, leased int64) {
	b.t.Helper()
	bal, err := b.store.Store.Read(context.Background(), "sub")
	if err != nil {
		b.t.Error(err) // it is also called from the engine's goroutines
	}
	for _, l := range bal.Lots {
		if l.ID == id {
			return l.Used, l.Leased
		}
	}
	return 0, 0
}

func TestHardStopServesItsLeaseAndThenSaysUnavailable(t *testing.T) {
	b := newBed(t, func(c *quota.Config) { c.MinLease = 100 }, lot.Grant{Amount: 1000})
	if err := b.call(); err != nil {
		t.Fatal(err)
	}
	b.store.away.Store(true)
	passed := int64(1)
	for ; passed < 50; passed++ {
		b.clock.Advance(500 * time.Millisecond) // 25 s of a lease of 30 s
		if err := b.call(); err != nil {
			t.Fatalf("call %d at %s: %v", passed, b.clock.Now(), err)
		}
	}
	b.clock.Set(begin.Add(30*time.Second - 1500*time.Millisecond)) // margin: 5 % of 30 s
	if err := b.call(); !errors.Is(err, quota.ErrUnavailable) {
		t.Fatalf("after the lease's end: %v, want ErrUnavailable: nothing is used up", err)
	}
	b.store.away.Store(false)
	b.clock.Advance(3 * time.Second) // the breaker's pause
	b.until("service is back", func() bool { return b.call() == nil })
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if used, _ := b.used("L1"); used != passed+1 {
		t.Fatalf("used %d, want %d", used, passed+1)
	}
}

func TestCreditGoesOnWithinItsShareAndTime(t *testing.T) {
	b := newBed(t, func(c *quota.Config) { c.MinLease = 1 },
		lot.Grant{ID: "L1", Amount: 1}, lot.Grant{ID: "L2", Amount: 40, Overflow: true})
	for range 2 {
		if err := b.call(); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, leased := b.used("L2")
	b.store.away.Store(true)
	b.clock.Advance(time.Minute) // the lease is over
	passed := int64(0)
	var err error
	for passed < 100 {
		if err = b.call(); err == nil {
			passed++
			continue
		}
		if passed > 0 || b.Stats().BreakerOpen {
			break
		}
	}
	if want := 39 - leased; passed != want || !errors.Is(err, quota.ErrUnavailable) {
		t.Fatalf("%d calls on credit, then %v; want %d, then ErrUnavailable", passed, err, want)
	}
	b.store.away.Store(false)
	b.clock.Advance(3 * time.Second)
	b.until("all is reported", func() bool {
		used, _ := b.used("L2")
		return used == 1+passed
	})
}

func TestCreditEndsWithItsTime(t *testing.T) {
	b := newBed(t, func(c *quota.Config) { c.MinLease = 1 }, lot.Grant{Amount: 1000, Overflow: true})
	if err := b.call(); err != nil {
		t.Fatal(err)
	}
	b.store.away.Store(true)
	b.clock.Advance(9 * time.Minute)
	_ = b.call()
	_ = b.call()
	if err := b.call(); err != nil {
		t.Fatalf("after 9 minutes: %v", err)
	}
	b.clock.Advance(2 * time.Minute)
	if err := b.call(); !errors.Is(err, quota.ErrUnavailable) {
		t.Fatalf("after 11 minutes: %v, want ErrUnavailable", err)
	}
}

func TestBreakerSparesAStoreThatIsAway(t *testing.T) {
	b := newBed(t, nil, lot.Grant{Amount: 1000})
	b.store.away.Store(true)
	for range 1000 {
		if err := b.call(); !errors.Is(err, quota.ErrUnavailable) {
			t.Fatalf("error %v", err)
		}
	}
	if n := b.store.syncs.Load(); n > 5 {
		t.Fatalf("the store was asked %d times for 1000 calls", n)
	}
}

func TestAHungStoreDoesNotHangCalls(t *testing.T) {
	s, err := embedded.Open(t.TempDir(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	store := &shaky{Store: s}
	store.hangs.Store(true)
	e, err := quota.New(quota.Config{
		Incarnation: quota.Incarnation{Node: "a", Boot: 1},
		AnswerWait:  200 * time.Millisecond, SyncTimeout: 20 * time.Second,
	}, store, &bed{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	began := time.Now()
	for range 50 {
		wg.Go(func() {
			for range 20 {
				if _, err := e.Admit(context.Background(), "sub", callUnits, oneCall, time.Now()); !errors.Is(err, quota.ErrUnavailable) {
					t.Errorf("error %v", err)
				}
			}
		})
	}
	wg.Wait()
	// The first calls wait AnswerWait, those after them not at all.
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("1000 calls on a hung store took %s", took)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = e.Close(ctx) // does not wait for the hung exchange
}

func TestAStormOfRefusedCallsCostsTheStoreLittle(t *testing.T) {
	b := newBed(t, func(c *quota.Config) { c.EmptyFor = time.Minute }, lot.Grant{Amount: 1})
	if err := b.call(); err != nil {
		t.Fatal(err)
	}
	if err := b.call(); !errors.Is(err, quota.ErrExhausted) {
		t.Fatal(err)
	}
	before := b.store.syncs.Load()
	for range 10_000 {
		if err := b.call(); !errors.Is(err, quota.ErrExhausted) {
			t.Fatal(err)
		}
	}
	if n := b.store.syncs.Load() - before; n > 20 {
		t.Fatalf("10000 refused calls asked the store %d times", n)
	}
}

func TestAwayFromTheTailTheStoreIsHardlyAsked(t *testing.T) {
	b := newBed(t, func(c *quota.Config) { c.FlushEvery = time.Second }, lot.Grant{Amount: 10_000_000})
	const calls = 50_000
	for range calls {
		if err := b.call(); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.store.syncs.Load(); float64(n) > 0.01*calls {
		t.Fatalf("%d reports for %d calls, want at most 0.01 for each", n, calls)
	}
}

func TestNothingIsTakenAfterTheDeadlineAndLateUseCounts(t *testing.T) {
	// SIGSTOP past the lease: the process wakes up and does not know it slept.
	b := newBed(t, func(c *quota.Config) { c.MinLease, c.FlushEvery = 100, time.Hour }, lot.Grant{Amount: 100})
	h, err := b.Admit(t.Context(), "sub", callUnits, oneCall, b.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	b.clock.Advance(time.Hour)
	// Another node takes everything the dead one's quarantine set free.
	other := quota.Incarnation{Node: "b", Boot: 1}
	r, err := b.store.Store.Sync(t.Context(), &quota.SyncRequest{
		Subscription: "sub", Incarnation: other, TTL: time.Minute, Quarantine: time.Minute,
		Demands: []quota.Demand{{Unit: usage.Call, Floor: 100, Target: 100}},
	})
	if err != nil || r.Buckets[0].Granted != 100 {
		t.Fatalf("the other node got %+v, %v", r, err)
	}
	if err := b.call(); !errors.Is(err, quota.ErrExhausted) {
		t.Fatalf("a call after the deadline: %v, want ErrExhausted", err)
	}
	if err := h.Settle(&usage.Record{Units: oneCall}); err != nil {
		t.Fatal(err)
	}
	_, err = b.store.Store.Sync(t.Context(), &quota.SyncRequest{
		Subscription: "sub", Incarnation: other, TTL: time.Minute, Quarantine: time.Minute,
		Counters: []quota.Counter{{Lot: "L1", From: begin.Add(-time.Hour).UnixMilli(), Granted: 100, Used: 100}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.FlushSubscription(t.Context(), "sub"); err != nil {
		t.Fatal(err)
	}
	bal, err := b.Read(t.Context(), "sub")
	if err != nil || bal.Lots[0].Used != 100 || bal.Overrun[usage.Call] != 1 {
		t.Fatalf("balance %+v, %v: want all used and the late call as overrun", bal, err)
	}
}

func TestLostAnswersGrantOnce(t *testing.T) {
	b := newBed(t, func(c *quota.Config) { c.FlushEvery = time.Hour }, lot.Grant{Amount: 1000})
	var lose atomic.Bool
	b.store.after = func(*quota.SyncReply) error {
		if lose.Swap(!lose.Load()) { // every second answer
			return errAway
		}
		return nil
	}
	ok := 0
	for range 3000 {
		err := b.call()
		if err == nil {
			ok++
		} else if b.Stats().BreakerOpen {
			b.clock.Advance(time.Second)
		}
		if errors.Is(err, quota.ErrExhausted) {
			break
		}
	}
	b.store.after = nil
	b.clock.Advance(5 * time.Second)
	if err := b.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if used, leased := b.used("L1"); ok != 1000 || used != 1000 || leased != 0 {
		t.Fatalf("%d calls passed, used %d, leased %d; want 1000, 1000, 0", ok, used, leased)
	}
}

func TestReplayWaitsForAStoreThatIsAway(t *testing.T) {
	b := newBed(t, func(c *quota.Config) { c.FlushEvery = time.Hour }, lot.Grant{Amount: 1000})
	for range 20 {
		if err := b.call(); err != nil {
			t.Fatal(err)
		}
	}
	b.store.away.Store(true)
	cfg := b.cfg
	cfg.Incarnation.Boot = 2
	next, err := quota.New(cfg, b.store, b)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = next.Close(context.Background()) }()
	if err := next.Replay(t.Context(), records{1: b.records}); err != nil {
		t.Fatalf("replay with the store away: %v", err)
	}
	b.store.away.Store(false)
	var first sync.Once
	b.store.before = func(req *quota.SyncRequest) {
		seen := false
		first.Do(func() { seen = req.Incarnation.Boot == 2 })
		if used, leased := b.used("L1"); seen && (used != 20 || leased != 0) {
			t.Errorf("the new start reports while the old one stands at %d used, %d leased", used, leased)
		}
	}
	h, err := next.Admit(t.Context(), "sub", callUnits, oneCall, b.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
}

// records is a journal by boot.
type records map[uint64][]usage.Record

func (r records) Records(_ context.Context, fn func(uint64, *usage.Record) error) error {
	for boot := range uint64(len(r)) {
		for i := range r[boot+1] {
			if err := fn(boot+1, &r[boot+1][i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestACallOfManyUnitsTakesOneLot(t *testing.T) {
	// PKG-21 holds for an amount above one as well: two lots of three cannot
	// pay for four.
	b := newBed(t, nil, lot.Grant{ID: "L1", Amount: 3}, lot.Grant{ID: "L2", Amount: 3})
	three := usage.Units{usage.Call: 3}
	for range 2 {
		h, err := b.Admit(t.Context(), "sub", callUnits, three, b.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		rec := usage.Record{Units: three}
		if err := h.Settle(&rec); err != nil || len(rec.Charges) != 1 {
			t.Fatalf("charges %+v, %v", rec.Charges, err)
		}
	}
	b = newBed(t, nil, lot.Grant{ID: "L1", Amount: 3}, lot.Grant{ID: "L2", Amount: 3})
	if _, err := b.Admit(t.Context(), "sub", callUnits, usage.Units{usage.Call: 4}, b.clock.Now()); !errors.Is(err, quota.ErrExhausted) {
		t.Fatalf("four units of two lots of three: %v, want ErrExhausted", err)
	}
}
