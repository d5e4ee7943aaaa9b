package billing

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/money"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
)

// TestRepurchaseModel lets calls, top-ups, spending, revoked and granted
// agencies, outages, late units and the clock come in any order. No order is made
// that was not needed: for each, what was left had reached the level, and one
// package fewer would not have lifted it above. Caps hold, the books are sound,
// and once everything is in order again the level is not reached, unless a cap
// says so: nothing is forgotten.
func TestRepurchaseModel(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) sqldb.Options{
		"sqlite":   func(t *testing.T) sqldb.Options { return sqldb.Options{Dir: t.TempDir()} },
		"postgres": func(t *testing.T) sqldb.Options { return sqldb.Options{URL: postgres.URL(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) { repurchaseModel(t, rt, newFixture(t, open(t))) })
		})
	}
}

type repurchaseWorld struct {
	*fixture
	rt     *rapid.T
	sub    string
	spec   Spec
	level  Level
	dayCap int64
	cap    money.Amount
	arm    int64
	armed  bool
	bought int64 // units
	seen   map[string]bool
}

func repurchaseModel(t *testing.T, rt *rapid.T, f *fixture) {
	w := &repurchaseWorld{fixture: f, rt: rt, seen: map[string]bool{}, armed: true, bought: 1000}
	w.level = rapid.SampledFrom([]Level{twenty, {LevelPercent, 50}, {LevelAbsolute, 100}, {LevelAbsolute, 3500}}).Draw(rt, "level")
	w.dayCap = rapid.Int64Range(1, 12).Draw(rt, "a day")
	w.cap = rapid.SampledFrom([]money.Amount{0, money.MustParse("9.90"), money.MustParse("60")}).Draw(rt, "cap")
	w.sub, w.spec = f.repurchasing1(t, func(in *RepurchaseInput) { in.Level, in.DayLimit, in.MonthCap = w.level, w.dayCap, w.cap })
	w.check(t)
	agency := func() []Agency {
		list, err := f.Agencies(context.Background(), "b", false)
		if err != nil {
			rt.Fatal(err)
		}
		return list
	}
	down := false
	rt.Repeat(map[string]func(*rapid.T){
		"calls": func(rt *rapid.T) {
			w.use(t, rapid.Int64Range(1, 900).Draw(rt, "calls"))
		},
		"due": func(rt *rapid.T) {
			if _, err := f.RepurchaseDue(context.Background()); err != nil {
				rt.Fatal(err)
			}
			w.check(t)
		},
		"deliver": func(rt *rapid.T) {
			if _, err := f.DeliverDue(context.Background()); err != nil {
				rt.Fatal(err)
			}
		},
		"clock": func(rt *rapid.T) {
			f.clock.advance(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour, 26 * time.Hour}).Draw(rt, "by"))
		},
		"spend all": func(rt *rapid.T) {
			b, err := f.Balance(context.Background(), "b")
			if err != nil || b.Available == 0 {
				return
			}
			in := perCall()
			in.Product, in.Price = "sink", b.Available
			f.buy(t, "b", f.spec(t, in), 1)
		},
		"top up": func(rt *rapid.T) { f.topUp(t, "b", "25") },
		"revoke": func(rt *rapid.T) {
			for _, a := range agency() {
				if err := f.DeleteAgency(context.Background(), "b", a.ID, "b"); err != nil {
					rt.Fatal(err)
				}
			}
		},
		"grant": func(rt *rapid.T) { w.grant() },
		"outage": func(rt *rapid.T) {
			if down = !down; down {
				f.store.setDown(errStoreDown)
				f.store.fail(errStoreDown, nil)
			} else {
				f.store.setDown(nil)
				f.store.fail(nil, nil)
			}
		},
		"crash": func(rt *rapid.T) { f.restart(t) },
	})
	// Everything in order again.
	f.store.setDown(nil)
	f.store.fail(nil, nil)
	f.topUp(t, "b", "5000")
	w.grant()
	for range 3 {
		f.clock.advance(time.Hour + 30*time.Minute)
		f.settle(t)
		w.check(t)
	}
	r, err := f.Repurchase(context.Background(), w.sub)
	if err != nil {
		rt.Fatal(err)
	}
	b, _ := f.store.Read(context.Background(), w.sub)
	left, total := watched(&b, 0)
	if w.level.Reached(left, total) && r.Failure != FailDayCap && r.Failure != FailMonthCap {
		rt.Fatalf("%d of %d are left, %v is reached, and nothing is bought: %+v", left, total, w.level, r)
	}
	f.wantSound(t)
}

func (w *repurchaseWorld) grant() {
	if _, err := w.GrantAgency(context.Background(), "b", RepurchasePolicy, "b"); err != nil {
		w.rt.Fatal(err)
	}
}

// use makes calls, as far as units are in the store, and tells of a crossing as
// the quota store does: once each time the level is reached after it was not.
func (w *repurchaseWorld) use(t *testing.T, n int64) {
	w.store.setDownFor(func() {
		b, _ := w.store.Read(context.Background(), w.sub)
		left, total := watched(&b, 0)
		if !w.level.Reached(left, total) {
			w.armed = true
		}
		n = min(n, left)
		w.store.use(w.sub, n)
		if left -= n; w.level.Reached(left, total) && w.armed {
			w.armed = false
			w.arm++
			w.crossLevel(t, left, total)
		}
	})
}

func (w *repurchaseWorld) crossLevel(t *testing.T, left, total int64) {
	c := Crossing{
		ID: w.sub + "/" + w.level.String() + "/" + time.Duration(w.arm).String(), Subscription: w.sub, Level: w.level, Arm: w.arm,
		Remaining: left, Total: total, At: w.clock.now(),
	}
	for range 2 {
		if _, err := w.RecordCrossings(context.Background(), []Crossing{c}); err != nil {
			w.rt.Fatal(err)
		}
	}
}

// check looks at the orders that were made since.
func (w *repurchaseWorld) check(t *testing.T) {
	w.store.mu.Lock()
	used := w.store.used[w.sub]
	w.store.mu.Unlock()
	days, months := map[time.Time]int64{}, map[time.Time]money.Amount{}
	for _, o := range w.repurchased(t, "b") {
		days[dayStart(o.Placed)] += o.Quantity
		months[monthStart(o.Placed)] += o.Amount
		if w.seen[o.ID] {
			continue
		}
		w.seen[o.ID] = true
		fewer := w.bought + 1000*(o.Quantity-1)
		if !w.level.Reached(fewer-used, fewer) {
			w.rt.Fatalf("order of %d packages with %d of %d left: one fewer would do for %v", o.Quantity, w.bought-used, w.bought, w.level)
		}
		w.bought += 1000 * o.Quantity
	}
	for day, n := range days {
		if n > w.dayCap {
			w.rt.Fatalf("%d packages on %s, more than %d", n, day, w.dayCap)
		}
	}
	for month, sum := range months {
		if w.cap > 0 && sum > w.cap {
			w.rt.Fatalf("%s in the month from %s, more than %s", sum, month, w.cap)
		}
	}
}

// setDownFor runs f with a store that can be read, whatever it was.
func (q *quotaStore) setDownFor(f func()) {
	q.mu.Lock()
	was := q.down
	q.down = nil
	q.mu.Unlock()
	f()
	q.setDown(was)
}
