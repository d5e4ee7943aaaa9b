package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// inbox returns the kinds and English subjects of an account's messages, the
// oldest first.
func (f *fixture) inbox(t testing.TB, account string) []notify.Message {
	t.Helper()
	list, err := f.notices.Inbox(context.WithoutCancel(t.Context()), account, "en", "", false, 200)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(list)
	return list
}

// kinds are the kinds of an account's messages, without receipts.
func (f *fixture) kinds(t testing.TB, account string) []string {
	t.Helper()
	kinds := []string{}
	for _, m := range f.inbox(t, account) {
		if m.Kind != "order_paid" && m.Kind != "top_up" {
			kinds = append(kinds, m.Kind)
		}
	}
	return kinds
}

func (f *fixture) wantKinds(t testing.TB, account string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), f.kinds(t, account)); diff != "" {
		t.Fatalf("messages (-want +got):\n%s", diff)
	}
}

// cross tells of a crossing of a level, as the quota store would.
func (f *fixture) cross(t testing.TB, sub string, level Level, arm, remaining, total int64) {
	t.Helper()
	c := Crossing{
		ID: fmt.Sprintf("%s/call/%s-%d/%d", sub, level.Kind, level.Value, arm), Subscription: sub, Unit: usage.Call,
		Level: level, Arm: arm, Remaining: remaining, Total: total, At: f.clock.now(),
	}
	if _, err := f.RecordCrossings(context.WithoutCancel(t.Context()), []Crossing{c}); err != nil {
		t.Fatal(err)
	}
}

var twenty = Level{LevelPercent, 20}

// onDemandPackage is a package of calls on top of the on-demand service.
func onDemandPackage() SpecInput {
	in := perCall()
	in.Name, in.Mode = "1000 calls on demand", directory.ModeOnDemandPackage
	return in
}

// TestDefaultAlert is ALERT-4 to ALERT-7: who gets 20 % at a purchase.
func TestDefaultAlert(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	check := func(name string, configured bool, earlier, now string, want bool) {
		t.Helper()
		var e time.Time
		if earlier != "" {
			e = at(earlier)
		}
		if got := getsDefaultAlert(configured, e, at(now)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	check("the first purchase (c)", false, "", "2026-11-30T00:00:00Z", true)
	check("the day the default began, in Beijing", false, "", "2025-05-23T00:00:00+08:00", true)
	check("a moment before", false, "", "2025-05-22T23:59:59.999+08:00", false)
	check("bought before 2025-07-08 without one (b)", false, "2025-07-07T23:59:59+08:00", "2026-11-30T00:00:00Z", false)
	check("a setting is kept (a)", true, "2025-07-09T00:00:00+08:00", "2026-11-30T00:00:00Z", false)
	check("a setting without a purchase is kept (a)", true, "", "2026-11-30T00:00:00Z", false)
}

// TestAlertAtPurchase: the first purchase watches 20 %; a setting that was
// switched off stays so at the next one (ALERT-6, ALERT-7); packages that reset
// and credit lines have none (ALERT-1, ALERT-3).
func TestAlertAtPurchase(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "b", "1000")
		spec := f.spec(t, perCall())
		sub := f.buy(t, "b", spec, 1).Subscription
		watch := func(want ...Level) {
			t.Helper()
			if err := f.DeliverThresholds(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := f.watch.levels(sub, usage.Call); !slices.Equal(got, want) {
				t.Fatalf("watched: %v, want %v", got, want)
			}
		}
		set := func(enabled bool, l Level, specs ...string) error {
			_, err := f.SetAlerts(t.Context(), AlertChange{Account: "b", Specs: specs, Enabled: enabled, Level: l, Actor: "me"})
			return err
		}
		watch(twenty)
		if err := set(false, twenty, spec.ID); err != nil {
			t.Fatal(err)
		}
		watch()
		f.buy(t, "b", spec, 1)
		watch() // (a): switched off counts as existing

		// Another type takes the place of the one before (ALERT-9).
		if err := set(true, Level{LevelAbsolute, 1999}, spec.ID); err != nil {
			t.Fatal(err)
		}
		watch(Level{LevelAbsolute, 1999})
		// The total is the sum of the packages that stack (ALERT-13, ALERT-22).
		for _, bad := range []Level{{LevelAbsolute, 2000}, {LevelAbsolute, -1}, {LevelPercent, 0}, {LevelPercent, 100}, {"days", 3}} {
			if err := set(true, bad, spec.ID); !errors.Is(err, ErrInvalid) {
				t.Errorf("%v: %v", bad, err)
			}
		}
		watch(Level{LevelAbsolute, 1999})

		// A level somebody set is watched beside.
		if _, err := f.SetThresholds(t.Context(), ThresholdChange{Subscription: sub, Unit: usage.Call, Levels: []Level{{LevelPercent, 7}}}); err != nil {
			t.Fatal(err)
		}
		watch(Level{LevelPercent, 7}, Level{LevelAbsolute, 1999})

		reset := perCall()
		reset.Product, reset.Reset = "daily", lot.Day
		daily := f.spec(t, reset)
		other := f.buy(t, "b", daily, 1).Subscription
		if err := f.DeliverThresholds(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := f.watch.levels(other, usage.Call); len(got) != 0 {
			t.Errorf("packages that reset: %v is watched", got)
		}
		if err := set(true, twenty, daily.ID); !errors.Is(err, ErrAlertNotEligible) {
			t.Errorf("packages that reset: %v", err)
		}
		// Batch: all that can, in one step (ALERT-11).
		second := perCall()
		second.Product = "tides"
		f.buy(t, "b", f.spec(t, second), 1)
		if err := set(true, Level{LevelPercent, 33}); err != nil {
			t.Fatal(err)
		}
		list, err := f.Alerts(t.Context(), "b")
		if err != nil || len(list) != 3 {
			t.Fatalf("%v %v", list, err)
		}
		for _, a := range list {
			if want := a.Product != "daily"; a.Eligible != want || a.Set != want || want && (a.Level != Level{LevelPercent, 33} || !a.Enabled) {
				t.Errorf("%+v", a)
			}
		}
		watch(Level{LevelPercent, 7}, Level{LevelPercent, 33})
	})
}

// TestOneNoticePerCrossing: a crossing is told once, however often it comes, and
// again after it was armed again (ALERT-20); exhaustion has a notice of its own
// (ALERT-24); levels that nobody wants told make none.
func TestOneNoticePerCrossing(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "b", "1000")
		sub := f.buy(t, "b", f.spec(t, perCall()), 1).Subscription
		f.clock.advance(48 * time.Hour)
		f.store.use(sub, 800)
		for range 3 {
			f.cross(t, sub, twenty, 1, 200, 1000)
		}
		f.wantKinds(t, "b", "low_quota")
		text := f.inbox(t, "b")
		got := text[len(text)-1].Text
		// 800 in the last 24 h: 200 last 6 h; 800 in the two days since the
		// purchase: 12 h.
		for _, want := range []string{"20% left: 1000 calls, 200 calls, about 6 h – 12 h", "cn-north-4", "the service stops", "Auto-repurchase: off"} {
			if !strings.Contains(got.Subject+got.Body, want) {
				t.Errorf("the notice lacks %q:\n%s\n%s", want, got.Subject, got.Body)
			}
		}
		f.cross(t, sub, Level{LevelPercent, 7}, 1, 70, 1000) // watched by nobody
		f.wantKinds(t, "b", "low_quota")
		f.cross(t, sub, Level{LevelAbsolute, 0}, 1, 0, 1000)
		f.cross(t, sub, Level{LevelAbsolute, 0}, 1, 0, 1000)
		f.wantKinds(t, "b", "low_quota", "used_up")
		f.cross(t, sub, twenty, 2, 400, 2000)
		f.wantKinds(t, "b", "low_quota", "used_up", "low_quota")
		f.cross(t, "no such subscription", twenty, 1, 1, 10)
	})
}

// TestNoticeRollsBackWithItsCrossing: where the notice cannot be written, the
// crossing is not known either, and comes again.
func TestNoticeRollsBackWithItsCrossing(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "b", "1000")
		sub := f.buy(t, "b", f.spec(t, perCall()), 1).Subscription
		whole := f.Service.notices
		f.Service.notices = brokenNotices{}
		c := Crossing{ID: sub + "/call/percent-20/1", Subscription: sub, Unit: usage.Call, Level: twenty, Arm: 1, Remaining: 200, Total: 1000}
		if n, err := f.RecordCrossings(t.Context(), []Crossing{c}); err == nil {
			t.Fatalf("%d crossings kept without their notices", n)
		}
		f.Service.notices = whole
		if n, err := f.RecordCrossings(t.Context(), []Crossing{c}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		f.wantKinds(t, "b", "low_quota")
	})
}

type brokenNotices struct{}

func (brokenNotices) Post(context.Context, *sqldb.Tx, notify.Event) (bool, error) {
	return false, errStoreDown
}

// TestOnDemandNotices: a package on top of on-demand use says pay-per-use
// (ALERT-18, ALERT-26) in the category of balances (ALERT-17); a credit line
// alone is no package.
func TestOnDemandNotices(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "b", "1000")
		open := onDemand()
		open.Product, open.Quotas = "weather", []Quota{{Unit: usage.Call}}
		sub := f.buy(t, "b", f.spec(t, open), 1).Subscription
		f.cross(t, sub, Level{LevelAbsolute, 0}, 1, 0, 0)
		f.wantKinds(t, "b")
		f.buy(t, "b", f.spec(t, onDemandPackage()), 1)
		f.cross(t, sub, twenty, 1, 200, 1000)
		f.cross(t, sub, Level{LevelAbsolute, 0}, 2, 0, 1000)
		f.wantKinds(t, "b", "low_quota_on_demand", "used_up")
		for _, m := range f.inbox(t, "b")[2:] {
			if m.Category != "balance" || !strings.Contains(m.Text.Body, "pay-per-use") {
				t.Errorf("%s in %s: %s", m.Kind, m.Category, m.Text.Body)
			}
		}
	})
}

// TestReached is ALERT-21 on both sides of every bound, with numbers that leave
// an int64 when multiplied.
func TestReached(t *testing.T) {
	t.Parallel()
	check := func(l Level, remaining, total int64, want bool) {
		t.Helper()
		if got := l.Reached(remaining, total); got != want {
			t.Errorf("%v of %d with %d left: %v", l, total, remaining, got)
		}
	}
	check(twenty, 200, 1000, true)
	check(twenty, 201, 1000, false)
	check(twenty, 1, 9, true) // 100 <= 180
	check(twenty, 2, 9, false)
	check(twenty, 0, 0, true)
	check(Level{LevelPercent, 99}, 99, 100, true)
	check(Level{LevelPercent, 99}, 100, 100, false)
	check(Level{LevelPercent, 50}, lot.MaxAmount/2, lot.MaxAmount, true)
	check(Level{LevelPercent, 50}, lot.MaxAmount/2+1, lot.MaxAmount, false)
	check(Level{LevelAbsolute, 500}, 500, 1000, true)
	check(Level{LevelAbsolute, 500}, 501, 1000, false)
	check(Level{LevelAbsolute, 0}, 0, 1000, true)
	check(Level{LevelAbsolute, 0}, 1, 1000, false)
}

// TestLasts: forecasts, up to numbers whose product leaves an int64.
func TestLasts(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []struct {
		remaining, used int64
		span, want      time.Duration
		ok              bool
	}{
		{100, 0, day, 0, false},
		{100, 50, day, 2 * day, true},
		{0, 50, day, 0, true},
		{1, 3, day, 8 * time.Hour, true},
		{lot.MaxAmount, 1, day, maxRunway, true},
		{lot.MaxAmount, lot.MaxAmount, 7 * day, 7 * day, true},
		{lot.MaxAmount - 1, lot.MaxAmount, 7 * day, 7*day - time.Second, true},
	} {
		if got, ok := lasts(c.remaining, c.used, c.span); got != c.want || ok != c.ok {
			t.Errorf("%d left, %d used in %s: %s %v", c.remaining, c.used, c.span, got, ok)
		}
	}
	if got := (Runway{Least: 90 * time.Minute, Most: 5 * day}).String(); got != "1 h – 5 d" {
		t.Error(got)
	}
}

// TestRemindExpiring: units that would lapse are told of 30, 7 and 1 days ahead,
// once each, however often the job runs.
func TestRemindExpiring(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "b", "1000")
		in := perCall()
		in.Validity = Validity{Duration: 60 * 24 * time.Hour}
		sub := f.buy(t, "b", f.spec(t, in), 1).Subscription
		f.store.use(sub, 300)
		told := map[int]int{} // by day
		for day := range 60 {
			before := len(f.kinds(t, "b"))
			for range 2 {
				if err := f.RemindExpiring(t.Context(), f.clock.now()); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(f.kinds(t, "b")) - before; n > 0 {
				told[60-day] = n
			}
			f.clock.advance(24 * time.Hour)
		}
		if diff := cmp.Diff(map[int]int{30: 1, 7: 1, 1: 1}, told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
		list := f.inbox(t, "b")
		if got := list[len(list)-1].Text; !strings.Contains(got.Subject+got.Body, "700") {
			t.Errorf("the notice does not say how much: %s\n%s", got.Subject, got.Body)
		}
	})
}
