package billing

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/lot"
	"tollgate/internal/money"
)

// repurchasing1 is a buyer with 10 000 yuan and one package of 1000 calls for
// 9.90, who lets the platform order more at 20 %.
func (f *fixture) repurchasing1(t testing.TB, change func(*RepurchaseInput)) (sub string, spec Spec) {
	t.Helper()
	f.topUp(t, "b", "10000")
	spec = f.spec(t, perCall())
	sub = f.buy(t, "b", spec, 1).Subscription
	if _, err := f.GrantAgency(context.WithoutCancel(t.Context()), "b", RepurchasePolicy, "b"); err != nil {
		t.Fatal(err)
	}
	in := RepurchaseInput{Subscription: sub, Level: twenty, Agreement: RepurchaseAgreement, Actor: "b"}
	if change != nil {
		change(&in)
	}
	if _, err := f.SetRepurchase(context.WithoutCancel(t.Context()), in); err != nil {
		t.Fatal(err)
	}
	f.settle(t)
	return sub, spec
}

// settle lets the repurchases do what is due, and looks again a moment later.
func (f *fixture) settle(t testing.TB) {
	t.Helper()
	for range 4 {
		ctx := context.WithoutCancel(t.Context())
		if _, err := f.RepurchaseDue(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := f.DeliverDue(ctx); err != nil {
			t.Fatal(err)
		}
		f.clock.advance(repurchaseAgain)
	}
}

// low makes calls until remaining are left, and tells of the crossing.
func (f *fixture) low(t testing.TB, sub string, arm, remaining int64) {
	t.Helper()
	b, _ := f.store.Read(t.Context(), sub)
	left, total := watched(&b, 0)
	f.store.use(sub, left-remaining)
	f.cross(t, sub, twenty, arm, remaining, total)
}

// repurchased returns the orders that auto-repurchase made, the oldest first.
func (f *fixture) repurchased(t testing.TB, account string) []Order {
	t.Helper()
	list, _, err := f.Orders(context.WithoutCancel(t.Context()), OrderFilter{Account: account, Page: Page{Limit: maxPage}})
	if err != nil {
		t.Fatal(err)
	}
	list = slices.DeleteFunc(list, func(o Order) bool { return o.Type != OrderAutoRepurchase })
	slices.Reverse(list)
	return list
}

func (f *fixture) wantRepurchases(t testing.TB, account string, quantities ...int64) {
	t.Helper()
	got := []int64{}
	for _, o := range f.repurchased(t, account) {
		got = append(got, o.Quantity)
	}
	if diff := cmp.Diff(append([]int64{}, quantities...), got); diff != "" {
		t.Fatalf("packages repurchased (-want +got):\n%s", diff)
	}
}

func (f *fixture) wantState(t testing.TB, sub string, state RepurchaseState, failure string) Repurchase {
	t.Helper()
	r, err := f.Repurchase(context.WithoutCancel(t.Context()), sub)
	if err != nil || r.State != state || r.Failure != failure {
		t.Fatalf("%s %q, %v, want %s %q", r.State, r.Failure, err, state, failure)
	}
	return r
}

// TestRepurchase is the way of REPO-2, REPO-20, REPO-25 and REPO-26: one order
// of its own type for one crossing, from the balance, by the platform, beside an
// alert that is not muted, with a receipt.
func TestRepurchase(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, spec := f.repurchasing1(t, nil)
		f.wantRepurchases(t, "b") // above the level nothing is bought
		f.wantKinds(t, "b", "repurchase_configured")
		f.low(t, sub, 1, 200)
		f.cross(t, sub, twenty, 1, 200, 1000) // told twice
		f.settle(t)
		f.wantRepurchases(t, "b", 1)
		o := f.repurchased(t, "b")[0]
		if o.State != OrderCompleted || o.Subscription != sub || o.Spec != spec.ID || o.Actor != repurchaseActor || o.Payment != PaymentBalance {
			t.Errorf("%+v", o)
		}
		f.wantBalance(t, "b", "9980.20")
		f.wantKinds(t, "b", "repurchase_configured", "low_quota", "repurchase_succeeded")
		// 1200 of 2000 are left; at 400 it buys again.
		f.low(t, sub, 2, 400)
		f.settle(t)
		f.wantRepurchases(t, "b", 1, 1)
		r := f.wantState(t, sub, RepurchaseOn, "")
		if r.Spent != money.MustParse("19.80") || r.Pending != "" {
			t.Errorf("%+v", r)
		}
		tries, _, err := f.RepurchaseTries(t.Context(), sub, Page{})
		if err != nil || len(tries) != 2 || tries[0].Order == "" || tries[0].Crossing != sub+"/call/percent-20/2" {
			t.Errorf("%v %+v", err, tries)
		}
		if _, err := f.DisableRepurchase(t.Context(), sub, "b"); err != nil { // REPO-12
			t.Fatal(err)
		}
		f.low(t, sub, 3, 100)
		f.settle(t)
		f.wantRepurchases(t, "b", 1, 1)
		f.wantSound(t)
	})
}

// TestRepurchaseSizesUp is fault 3 of people's list: one order closes a gap of
// several packages, within the day's and the month's caps, and the rest follows
// when they allow.
func TestRepurchaseSizesUp(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, _ := f.repurchasing1(t, func(in *RepurchaseInput) {
			in.Level = Level{LevelAbsolute, 7000}
			in.DayLimit = 5
		})
		// Set up below the level: bought at once, as many as a day allows.
		f.wantRepurchases(t, "b", 5)
		f.wantState(t, sub, RepurchaseWaiting, FailDayCap)
		r, _ := f.Repurchase(t.Context(), sub)
		if want := time.Date(2026, 12, 1, 16, 0, 0, 0, time.UTC); !r.Next.Equal(want) { // midnight in Beijing
			t.Errorf("next try %s, want %s", r.Next, want)
		}
		f.clock.advance(24 * time.Hour)
		f.settle(t)
		f.wantRepurchases(t, "b", 5, 2) // 8000 > 7000
		f.wantState(t, sub, RepurchaseOn, "")
		f.wantKinds(t, "b", "repurchase_configured", "repurchase_succeeded", "repurchase_failed", "repurchase_succeeded")
	})
}

// TestRepurchaseMonthCap: money a month is capped, told at 80 % and when nothing
// more fits, and it goes on with the next month in Beijing.
func TestRepurchaseMonthCap(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, _ := f.repurchasing1(t, func(in *RepurchaseInput) { in.MonthCap = money.MustParse("20") })
		for arm := range int64(3) {
			f.low(t, sub, arm+1, 100)
			f.settle(t)
		}
		f.wantRepurchases(t, "b", 1, 1)
		r := f.wantState(t, sub, RepurchaseWaiting, FailMonthCap)
		if want := time.Date(2026, 12, 31, 16, 0, 0, 0, time.UTC); !r.Next.Equal(want) || r.Spent > r.MonthCap {
			t.Errorf("next try %s, want %s; spent %s", r.Next, want, r.Spent)
		}
		f.wantKinds(t, "b", "repurchase_configured", "low_quota", "repurchase_succeeded", "low_quota", "repurchase_succeeded",
			"repurchase_cap", "repurchase_cap", "low_quota", "repurchase_failed")
		f.clock.advance(31 * 24 * time.Hour)
		f.settle(t)
		f.wantRepurchases(t, "b", 1, 1, 1)
	})
}

// TestRepurchaseFrequency is REPO-7 and REPO-24: the window rolls from the last
// success; a failed try does not use it up.
func TestRepurchaseFrequency(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, _ := f.repurchasing1(t, func(in *RepurchaseInput) { in.EveryHours = 3 })
		f.low(t, sub, 1, 100)
		f.settle(t)
		f.wantRepurchases(t, "b", 1)
		f.low(t, sub, 2, 100)
		f.clock.advance(3*time.Hour - time.Minute)
		f.settle(t)
		f.wantRepurchases(t, "b", 1)
		f.clock.advance(time.Minute)
		f.settle(t)
		f.wantRepurchases(t, "b", 1, 1)
	})
}

// TestRepurchaseFailures is one row for each reason of REPO-31 and REPO-34, with
// what follows from it (REPO-32, REPO-33): the buyer is told once, nothing is
// bought, and it resumes by itself or needs a new set-up.
func TestRepurchaseFailures(t *testing.T) {
	for _, c := range []struct {
		code    string
		state   RepurchaseState
		prepare func(t *testing.T, f *fixture, sub string, spec Spec)
		mend    func(t *testing.T, f *fixture, sub string, spec Spec) // nil: only a new set-up helps
	}{
		{FailBalance, RepurchaseWaiting, func(t *testing.T, f *fixture, sub string, spec Spec) {
			other := perCall()
			other.Product, other.Price = "sink", money.MustParse("9990")
			f.buy(t, "b", f.spec(t, other), 1)
		}, func(t *testing.T, f *fixture, sub string, spec Spec) { f.topUp(t, "b", "9.90") }},
		{FailAgency, RepurchaseWaiting, func(t *testing.T, f *fixture, sub string, spec Spec) {
			list, err := f.Agencies(t.Context(), "b", false)
			if err != nil || len(list) != 1 {
				t.Fatal(list, err)
			}
			if err := f.DeleteAgency(t.Context(), "b", list[0].ID, "b"); err != nil { // REPO-11, DELEG-4
				t.Fatal(err)
			}
		}, func(t *testing.T, f *fixture, sub string, spec Spec) {
			if _, err := f.GrantAgency(t.Context(), "b", RepurchasePolicy, "b"); err != nil {
				t.Fatal(err)
			}
		}},
		{FailAgency, RepurchaseWaiting, func(t *testing.T, f *fixture, sub string, spec Spec) { // REPO-37
			if _, err := f.db.Exec(t.Context(), `UPDATE billing_agency SET version = '1.0'`); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, f *fixture, sub string, spec Spec) {
			if _, err := f.GrantAgency(t.Context(), "b", RepurchasePolicy, "b"); err != nil {
				t.Fatal(err)
			}
		}},
		{FailFrozen, RepurchaseWaiting, func(t *testing.T, f *fixture, sub string, spec Spec) {
			if _, err := f.Freeze(t.Context(), SubscriptionChange{ID: sub, Reason: "arrears"}); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, f *fixture, sub string, spec Spec) {
			if _, err := f.Unfreeze(t.Context(), SubscriptionChange{ID: sub}); err != nil {
				t.Fatal(err)
			}
		}},
		{FailOffline, RepurchaseInvalid, func(t *testing.T, f *fixture, sub string, spec Spec) {
			if _, err := f.SetSpecState(t.Context(), spec.ID, SpecWithdrawn); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{FailPrice, RepurchaseInvalid, revise(func(in *SpecInput) { in.Price = money.MustParse("9.91") }), nil},
		{FailPrice, RepurchaseInvalid, revise(func(in *SpecInput) { in.Price = money.MustParse("9.89") }), nil}, // REPO-35: down too
		{FailPrice, RepurchaseInvalid, revise(func(in *SpecInput) { in.Quotas = []Quota{{0, 999}} }), nil},
		{FailRestricted, RepurchaseInvalid, revise(func(in *SpecInput) { in.PurchaseLimit = 100 }), nil},
		{FailEligible, RepurchaseInvalid, revise(func(in *SpecInput) { in.Price = 0 }), nil},
		{FailEligible, RepurchaseInvalid, revise(func(in *SpecInput) { in.Reset = lot.Day }), nil},
		{FailAgreement, RepurchaseInvalid, func(t *testing.T, f *fixture, sub string, spec Spec) {
			if _, err := f.db.Exec(t.Context(), `UPDATE billing_repurchase SET agreement = '0.9'`); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(c.code, func(t *testing.T) {
			onBoth(t, func(t *testing.T, f *fixture) {
				sub, spec := f.repurchasing1(t, nil)
				c.prepare(t, f, sub, spec)
				f.low(t, sub, 1, 200)
				f.settle(t)
				f.wantRepurchases(t, "b")
				f.wantState(t, sub, c.state, c.code)
				f.wantKinds(t, "b", "repurchase_configured", "low_quota", "repurchase_failed")
				messages := f.inbox(t, "b")
				if text := messages[len(messages)-1].Text; !strings.Contains(text.Subject, c.code) {
					t.Errorf("the notice does not name %s: %s", c.code, text.Subject)
				}
				if c.mend == nil {
					f.cross(t, sub, twenty, 2, 200, 1000)
					f.clock.advance(24 * time.Hour)
					f.settle(t)
					f.wantRepurchases(t, "b")
					return
				}
				c.mend(t, f, sub, spec)
				f.settle(t) // by itself, without another crossing and before its time
				f.wantRepurchases(t, "b", 1)
				f.wantState(t, sub, RepurchaseOn, "")
			})
		})
	}
}

func revise(change func(*SpecInput)) func(*testing.T, *fixture, string, Spec) {
	return func(t *testing.T, f *fixture, _ string, spec Spec) {
		in := spec.SpecInput
		change(&in)
		if _, err := f.ReviseSpec(t.Context(), spec.ID, in); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRepurchaseBackOff is REPO-24 and fault 4: however many crossings and looks
// there are, a payment that fails is tried after 1, 5, 15 and 60 minutes and then
// no more; the buyer is told once a day; a top-up mends it even then.
func TestRepurchaseBackOff(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, _ := f.repurchasing1(t, nil)
		other := perCall()
		other.Product, other.Price = "sink", money.MustParse("9990")
		f.buy(t, "b", f.spec(t, other), 1)
		began := f.clock.now()
		for minute := range int64(180) {
			f.low(t, sub, minute+1, 200)
			if _, err := f.RepurchaseDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.clock.advance(time.Minute)
		}
		tries, _, err := f.RepurchaseTries(t.Context(), sub, Page{})
		if err != nil {
			t.Fatal(err)
		}
		var minutes []int
		for _, try := range slices.Backward(tries) {
			minutes = append(minutes, int(try.At.Sub(began).Minutes()))
		}
		if diff := cmp.Diff([]int{0, 1, 6, 21, 81}, minutes); diff != "" {
			t.Errorf("tries in minutes (-want +got):\n%s", diff)
		}
		f.wantState(t, sub, RepurchaseFailing, FailBalance)
		failed := 0
		for _, k := range f.kinds(t, "b") {
			if k == "repurchase_failed" {
				failed++
			}
		}
		if failed != 1 {
			t.Errorf("%d notices of one reason in 3 hours (REPO-36)", failed)
		}
		f.topUp(t, "b", "100")
		f.settle(t)
		f.wantRepurchases(t, "b", 1)
	})
}

// TestRepurchaseOutage is fault 6: a quota store that is away for ten minutes
// makes no configuration fail, and the order comes when it is back.
func TestRepurchaseOutage(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, _ := f.repurchasing1(t, nil)
		f.low(t, sub, 1, 200)
		f.store.setDown(errStoreDown)
		for range 600 / 5 {
			if _, err := f.RepurchaseDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			f.clock.advance(5 * time.Second)
		}
		if r, _ := f.Repurchase(t.Context(), sub); r.State != RepurchaseOn || r.attempts != 0 {
			t.Fatalf("%+v", r)
		}
		f.store.setDown(nil)
		f.clock.advance(repurchaseOutMost)
		f.settle(t)
		f.wantRepurchases(t, "b", 1)
		f.wantState(t, sub, RepurchaseOn, "")
	})
}

// TestRepurchaseWaitsForItsUnits is fault 2: while the units of the order before
// are not in the quota store, which still shows the level as reached, nothing is
// bought again.
func TestRepurchaseWaitsForItsUnits(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, _ := f.repurchasing1(t, nil)
		f.low(t, sub, 1, 200)
		f.store.fail(errStoreDown, nil)
		for range 20 {
			f.settle(t)
		}
		f.wantRepurchases(t, "b", 1)
		f.store.fail(nil, nil)
		f.settle(t)
		f.wantRepurchases(t, "b", 1)
		f.wantState(t, sub, RepurchaseOn, "")
	})
}

// TestRepurchaseAtOnce: many processes that act on the same crossing make one
// order (REPO-23).
func TestRepurchaseAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, _ := f.repurchasing1(t, nil)
		f.low(t, sub, 1, 200)
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				f.cross(t, sub, twenty, int64(i), 200, 1000)
				if _, err := f.RepurchaseDue(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		f.settle(t)
		f.wantRepurchases(t, "b", 1)
		f.wantSound(t)
	})
}
