package billing

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/money"
)

// TestRepurchaseRefusals: what cannot be set up, and why.
func TestRepurchaseRefusals(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, spec := f.repurchasing1(t, nil)
		small := perCall()
		small.Quotas = []Quota{{0, 999}}
		free := perCall()
		free.Price = 0
		limited := perCall()
		limited.PurchaseLimit = 3
		daily := perCall()
		daily.Reset = lot.Day
		other := perCall()
		other.Product = "tides"
		stop := perCall()
		stop.Mode = directory.ModeUsedUpStop
		for name, c := range map[string]struct {
			change func(*RepurchaseInput)
			want   error
		}{
			"percentage not offered (REPO-6)": {func(in *RepurchaseInput) { in.Level.Value = 15 }, ErrInvalid},
			"frequency not offered (REPO-7)":  {func(in *RepurchaseInput) { in.EveryHours = 2 }, ErrInvalid},
			"cap below one package":           {func(in *RepurchaseInput) { in.MonthCap = 1 }, ErrInvalid},
			"too many a day":                  {func(in *RepurchaseInput) { in.DayLimit = 101 }, ErrInvalid},
			"no agreement (REPO-9)":           {func(in *RepurchaseInput) { in.Agreement = "" }, ErrAgreementRequired},
			"smaller (REPO-5)":                {func(in *RepurchaseInput) { in.Spec = f.spec(t, small).ID }, ErrRepurchaseNotEligible},
			"free (REPO-3)":                   {func(in *RepurchaseInput) { in.Spec = f.spec(t, free).ID }, ErrRepurchaseNotEligible},
			"limited (REPO-8)":                {func(in *RepurchaseInput) { in.Spec = f.spec(t, limited).ID }, ErrRepurchaseNotEligible},
			"resettable (REPO-4)":             {func(in *RepurchaseInput) { in.Spec = f.spec(t, daily).ID }, ErrRepurchaseNotEligible},
			"another product":                 {func(in *RepurchaseInput) { in.Spec = f.spec(t, other).ID }, ErrRepurchaseNotEligible},
			"another mode":                    {func(in *RepurchaseInput) { in.Spec = f.spec(t, stop).ID }, ErrRepurchaseNotEligible},
			"no subscription":                 {func(in *RepurchaseInput) { in.Subscription = "x" }, ErrSubscriptionNotFound},
		} {
			in := RepurchaseInput{Subscription: sub, Level: twenty, Agreement: RepurchaseAgreement, Actor: "b"}
			c.change(&in)
			_, err := f.SetRepurchase(t.Context(), in)
			_, dry := f.PreviewRepurchase(t.Context(), in)
			if !errors.Is(err, c.want) || !errors.Is(dry, c.want) {
				t.Errorf("%s: %v, dry: %v", name, err, dry)
			}
		}
		list, _ := f.Agencies(t.Context(), "b", false)
		if err := f.DeleteAgency(t.Context(), "b", list[0].ID, "b"); err != nil {
			t.Fatal(err)
		}
		in := RepurchaseInput{Subscription: sub, Spec: spec.ID, Level: twenty, Agreement: RepurchaseAgreement}
		if _, err := f.SetRepurchase(t.Context(), in); !errors.Is(err, ErrAgencyRequired) {
			t.Errorf("without an agency: %v (DELEG-7)", err)
		}
		if err := f.DeleteAgency(t.Context(), "b", list[0].ID, "b"); !errors.Is(err, ErrAgencyNotFound) {
			t.Errorf("deleted twice: %v", err)
		}
	})
}

// TestRepurchasePreview says the truth: what it says is bought at once is.
func TestRepurchasePreview(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, spec := f.repurchasing1(t, nil)
		f.store.use(sub, 900)
		in := RepurchaseInput{
			Subscription: sub, Spec: spec.ID, Level: Level{LevelPercent, 50}, MonthCap: money.MustParse("50"),
			Agreement: RepurchaseAgreement, Actor: "b",
		}
		p, err := f.PreviewRepurchase(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		want := Preview{
			Spec: p.Spec, BuysNow: 1, NowAmount: money.MustParse("9.90"), At: p.At, WorstDay: money.MustParse("50"), WorstMonth: money.MustParse("50"),
			Last30: 0, Zh: p.Zh, En: p.En,
		}
		if diff := cmp.Diff(want, p); diff != "" || p.At[0] != 500 {
			t.Errorf("%s %v", diff, p.At)
		}
		for _, part := range []string{"50%", "saving buys 1 at once for ¥9.90", "¥50.00 a day and ¥50.00 a month"} {
			if !strings.Contains(p.En, part) {
				t.Errorf("%q lacks %q", p.En, part)
			}
		}
		f.wantRepurchases(t, "b") // dry
		if _, err := f.SetRepurchase(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		f.settle(t)
		f.wantRepurchases(t, "b", 1)
	})
}

// TestFirstSetUpOfTheDayIsTold is REPO-13, by the Beijing calendar, whatever the
// zone of the process.
func TestFirstSetUpOfTheDayIsTold(t *testing.T) {
	zone := time.Local
	t.Cleanup(func() { time.Local = zone })
	for _, name := range []string{"UTC", "Asia/Shanghai", "America/New_York", "Australia/Lord_Howe"} {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		time.Local = loc
		at := time.Date(2026, 11, 30, 15, 59, 59, 999e6, time.UTC).Local() // a moment before 1 December in Beijing
		for _, c := range []struct{ got, want time.Time }{
			{dayStart(at), time.Date(2026, 11, 29, 16, 0, 0, 0, time.UTC)},
			{dayStart(at.Add(time.Millisecond)), time.Date(2026, 11, 30, 16, 0, 0, 0, time.UTC)},
			{monthStart(at), time.Date(2026, 10, 31, 16, 0, 0, 0, time.UTC)},
			{monthStart(at.Add(time.Millisecond)), time.Date(2026, 11, 30, 16, 0, 0, 0, time.UTC)},
			{nextMonth(at), time.Date(2026, 11, 30, 16, 0, 0, 0, time.UTC)},
			{nextMonth(at.Add(time.Millisecond)), time.Date(2026, 12, 31, 16, 0, 0, 0, time.UTC)},
		} {
			if !c.got.Equal(c.want) {
				t.Errorf("%s: %s, want %s", name, c.got, c.want)
			}
		}
	}
}

// TestConfiguredOnceADay: the second set-up of a Beijing day is not told.
func TestConfiguredOnceADay(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		sub, _ := f.repurchasing1(t, nil) // 02:30 on 1 December in Beijing
		set := func() {
			t.Helper()
			in := RepurchaseInput{Subscription: sub, Level: twenty, Agreement: RepurchaseAgreement, Actor: "b"}
			if _, err := f.SetRepurchase(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
		f.clock.advance(21 * time.Hour)
		set()
		f.wantKinds(t, "b", "repurchase_configured")
		f.clock.advance(time.Hour)
		set()
		f.wantKinds(t, "b", "repurchase_configured", "repurchase_configured")
	})
}

// TestPackagesNeeded finds the first number that lifts what is left above the
// level, against counting up.
func TestPackagesNeeded(t *testing.T) {
	t.Parallel()
	for _, level := range []Level{{LevelPercent, 5}, twenty, {LevelPercent, 50}, {LevelAbsolute, 0}, {LevelAbsolute, 777}} {
		for used := int64(0); used <= 1000; used += 50 {
			b := lot.Balance{Lots: []lot.State{{Grant: lot.Grant{Amount: 1000}, State: "active", Used: used}}}
			spec := Spec{SpecInput: SpecInput{Quotas: []Quota{{0, 100}}}}
			want := int64(0)
			for level.Reached(1000-used+100*want, 1000+100*want) {
				want++
			}
			if got := packagesNeeded(&b, nil, level, &spec); got != want {
				t.Errorf("%v with %d used: %d, want %d", level, used, got, want)
			}
		}
	}
	for want := int64(0); want < 12; want++ {
		for _, limit := range []money.Amount{0, 1, 9_890_000, 9_900_000, 19_800_000, 50_000_000} {
			got := fits(want, 9_900_000, limit)
			if most := min(want, int64(limit/9_900_000)); got != most {
				t.Errorf("%d within %s: %d, want %d", want, limit, got, most)
			}
		}
	}
}
