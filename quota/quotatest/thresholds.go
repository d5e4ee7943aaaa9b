package quotatest

import (
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// user uses units of one lot after another through one node.
type user struct {
	*wire
	used map[string]int64
	from map[string]int64
}

func newUser(t *testing.T, b Backend) *user {
	return &user{wire: newWire(t, b), used: map[string]int64{}, from: map[string]int64{}}
}

// take uses n more units of a lot, and settles them in one report.
func (u *user) take(id string, n int64) {
	u.t.Helper()
	from := u.from[id]
	if from == 0 {
		from = start.Add(-time.Hour).UnixMilli()
	}
	r := u.sync(u.request("a", 1, n, n, quota.Counter{Lot: id, From: from, Granted: u.used[id], Used: u.used[id]}))
	if c := counter(r, id); c.Granted != u.used[id]+n {
		u.t.Fatalf("granted %d of lot %s, want %d", c.Granted, id, u.used[id]+n)
	}
	u.used[id] += n
	u.sync(u.request("a", 1, 0, 0, quota.Counter{Lot: id, From: from, Granted: u.used[id], Used: u.used[id]}))
}

// fired returns the ids that wait, without the subscription.
func (u *user) fired() []string {
	u.t.Helper()
	list, err := u.s.Crossings(u.t.Context(), 100)
	if err != nil {
		u.t.Fatal(err)
	}
	ids := []string{}
	for _, c := range list {
		ids = append(ids, c.ID[len(u.sub)+1:])
	}
	slices.Sort(ids) // those of one instant have no order
	return ids
}

func (u *user) wantFired(what string, want ...string) {
	u.t.Helper()
	if want == nil {
		want = []string{}
	}
	if diff := gocmp.Diff(want, u.fired()); diff != "" {
		u.t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func (u *user) ackAll() {
	u.t.Helper()
	list, err := u.s.Crossings(u.t.Context(), 100)
	if err != nil {
		u.t.Fatal(err)
	}
	for range 2 { // acknowledging twice is as good as once
		if err := u.s.Ack(u.t.Context(), list...); err != nil {
			u.t.Fatal(err)
		}
	}
}

func (u *user) watch(version int64, levels ...quota.Threshold) {
	u.t.Helper()
	if _, err := u.s.SetThresholds(u.t.Context(), quota.Thresholds{Subscription: u.sub, Unit: usage.Call, Version: version, Levels: levels}); err != nil {
		u.t.Fatal(err)
	}
}

var (
	pct20 = quota.Threshold{Kind: quota.Percent, Value: 20}
	abs30 = quota.Threshold{Kind: quota.Absolute, Value: 30}
)

func testThresholds(t *testing.T, b Backend) {
	t.Run("one id at the edge, delivered until acknowledged (ALERT-20, ALERT-21)", func(t *testing.T) {
		u := newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.watch(1, pct20)
		u.take("L1", 79)
		u.wantFired("21 of 100 left")
		u.take("L1", 1)
		u.wantFired("20 of 100 left", "call/percent-20/1")
		u.take("L1", 10)
		u.wantFired("delivered again, not a second time", "call/percent-20/1")
		list, _ := u.s.Crossings(t.Context(), 1)
		want := quota.Crossing{ID: u.sub + "/call/percent-20/1", Subscription: u.sub, Threshold: pct20, Arm: 1, Remaining: 20, Total: 100, At: start}
		if diff := gocmp.Diff([]quota.Crossing{want}, list); diff != "" {
			t.Fatal(diff)
		}
		u.ackAll()
		u.take("L1", 5)
		u.wantFired("acknowledged")
	})

	t.Run("leased and not used is not used", func(t *testing.T) {
		u := newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.watch(1, pct20)
		u.sync(u.request("a", 1, 100, 100))
		u.wantFired("all leased, nothing used")
	})

	t.Run("a store that lost its state goes on with the ids that were delivered (ALERT-20)", func(t *testing.T) {
		tell := func(u *user, version, arm int64, rearmed bool) {
			u.t.Helper()
			if _, err := u.s.SetThresholds(t.Context(), quota.Thresholds{
				Subscription: u.sub, Unit: usage.Call, Version: version, Levels: []quota.Threshold{pct20},
				Told: []quota.Told{{Threshold: pct20, Arm: arm, Rearmed: rearmed}},
			}); err != nil {
				u.t.Fatal(err)
			}
		}
		u := newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.take("L1", 85)
		tell(u, 1, 3, false)
		u.wantFired("15 left, as was told before")
		apply(t, u.s, grant(u.sub, "L2", usage.Call, 100, start))
		u.take("L1", 15)
		u.wantFired("100 of 200 left")
		u.take("L2", 60)
		u.wantFired("40 of 200 left, armed again", "call/percent-20/4")
		tell(u, 1, 3, true) // older than what the store has
		tell(u, 1, 4, true)
		tell(u, 2, 4, false)
		u.wantFired("told what the store knows", "call/percent-20/4")
		u.ackAll()

		u = newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.take("L1", 85)
		tell(u, 1, 3, true)
		u.wantFired("15 left, after a purchase that the store does not know", "call/percent-20/4")
		u.ackAll()

		// Put back to before the first crossing, by a version that it has.
		u = newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.watch(7, pct20)
		tell(u, 7, 2, false)
		u.take("L1", 85)
		u.wantFired("15 left: not crossing 1 or 2", "call/percent-20/3")
	})

	t.Run("used up tells once more (ALERT-24)", func(t *testing.T) {
		u := newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.watch(1, pct20, abs30, quota.UsedUp)
		u.take("L1", 75)
		u.wantFired("25 left", "call/absolute-30/1")
		u.take("L1", 25)
		u.wantFired("nothing left", "call/absolute-0/1", "call/absolute-30/1", "call/percent-20/1")
	})

	t.Run("a purchase above the threshold arms it again (ALERT-14, ALERT-20)", func(t *testing.T) {
		u := newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.watch(1, abs30)
		u.take("L1", 80)
		u.wantFired("20 left", "call/absolute-30/1")
		u.ackAll()
		apply(t, u.s, grant(u.sub, "L2", usage.Call, 5, start))
		u.wantFired("25 left: still below, told already (ALERT-23)")
		apply(t, u.s, grant(u.sub, "L3", usage.Call, 100, start))
		u.wantFired("125 left")
		u.take("L1", 20)
		u.take("L2", 5)
		u.take("L3", 70)
		u.wantFired("30 left", "call/absolute-30/2")
	})

	t.Run("stacked packages are one sum (ALERT-13)", func(t *testing.T) {
		u := newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start), grant(u.sub, "L2", usage.Call, 100, start))
		u.watch(1, pct20)
		u.take("L1", 100)
		u.wantFired("100 of 200 left")
		u.take("L2", 59)
		u.wantFired("41 of 200 left")
		u.take("L2", 1)
		u.wantFired("40 of 200 left", "call/percent-20/1")
	})

	t.Run("a threshold set below what remains fires at once, a kept one not again", func(t *testing.T) {
		u := newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.take("L1", 90)
		u.watch(1, pct20)
		u.wantFired("set below", "call/percent-20/1")
		u.ackAll()
		u.watch(2, pct20, abs30)
		u.wantFired("another one added", "call/absolute-30/1")
		u.ackAll()
		u.watch(1)
		u.watch(2)
		u.wantFired("older versions change nothing")
	})

	t.Run("packages that reset, and credit, are not watched (ALERT-1)", func(t *testing.T) {
		u := newUser(t, b)
		hourly, credit := grant(u.sub, "L1", usage.Call, 10, start), grant(u.sub, "L2", usage.Call, 10, start)
		hourly.Reset, credit.Overflow = lot.Hour, true
		hourly.Effective = start
		apply(t, u.s, hourly, credit)
		u.watch(1, quota.UsedUp, pct20)
		u.from["L1"] = start.UnixMilli()
		u.take("L1", 10)
		u.take("L2", 10)
		u.wantFired("both used up")
	})

	t.Run("use that a closing brings counts (I7)", func(t *testing.T) {
		u := newUser(t, b)
		apply(t, u.s, grant(u.sub, "L1", usage.Call, 100, start))
		u.watch(1, pct20)
		u.sync(u.request("a", 1, 90, 90))
		err := u.s.CloseIncarnation(t.Context(), &quota.CloseRequest{
			Subscription: u.sub, Incarnation: quota.Incarnation{Node: "a", Boot: 1}, Final: true,
			Counters: []quota.Counter{{Lot: "L1", From: start.Add(-time.Hour).UnixMilli(), Used: 85}},
		})
		if err != nil {
			t.Fatal(err)
		}
		u.wantFired("15 left", "call/percent-20/1")
	})

	t.Run("what time lapses counts (PKG-26)", func(t *testing.T) {
		u := newUser(t, b)
		short, long := grant(u.sub, "L1", usage.Call, 100, start), grant(u.sub, "L2", usage.Call, 20, start)
		short.Expires = start.Add(time.Hour)
		apply(t, u.s, short, long)
		u.watch(1, abs30)
		u.wantFired("120 left")
		u.clock.Advance(time.Hour)
		if err := u.s.Tend(t.Context(), &quota.TendRequest{Subscription: u.sub, Quarantine: time.Minute, Retention: time.Hour}); err != nil {
			t.Fatal(err)
		}
		u.wantFired("20 left", "call/absolute-30/1")
	})
}
