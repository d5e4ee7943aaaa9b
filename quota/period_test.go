package quota_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/lot"
	"tollgate/quota"
)

func local(t testing.TB, zone string, y int, m time.Month, d, h, mi int) time.Time {
	t.Helper()
	loc, err := quota.Zone(zone)
	if err != nil {
		t.Fatal(err)
	}
	return time.Date(y, m, d, h, mi, 0, 0, loc)
}

func TestPeriodsFollowTheCalendar(t *testing.T) {
	t.Parallel()
	utc := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for _, c := range []struct {
		name     string
		zone     string
		cycle    lot.Cycle
		begins   time.Time
		at       time.Time
		from, to time.Time
	}{
		{"an hour from the effective minute (PKG-24)", "", lot.Hour, utc("2026-11-02T02:20:00Z"), utc("2026-11-02T03:19:59Z"), utc("2026-11-02T02:20:00Z"), utc("2026-11-02T03:20:00Z")},
		{"the boundary belongs to the new period", "", lot.Hour, utc("2026-11-02T02:20:00Z"), utc("2026-11-02T03:20:00Z"), utc("2026-11-02T03:20:00Z"), utc("2026-11-02T04:20:00Z")},
		{"before the lot: its first period", "", lot.Hour, utc("2026-11-02T02:20:00Z"), utc("2026-01-01T00:00:00Z"), utc("2026-11-02T02:20:00Z"), utc("2026-11-02T03:20:00Z")},
		{"a day in China", "", lot.Day, utc("2026-11-01T16:30:00Z"), utc("2026-11-02T16:29:59Z"), utc("2026-11-01T16:30:00Z"), utc("2026-11-02T16:30:00Z")},
		{"a week", "", lot.Week, utc("2026-11-02T00:00:00Z"), utc("2026-11-20T00:00:00Z"), utc("2026-11-16T00:00:00Z"), utc("2026-11-23T00:00:00Z")},
		{"31 January is followed by 28 February", "UTC", lot.Month, utc("2026-01-31T10:00:00Z"), utc("2026-02-28T10:00:00Z"), utc("2026-02-28T10:00:00Z"), utc("2026-03-31T10:00:00Z")},
		{"and that by 31 March", "UTC", lot.Month, utc("2026-01-31T10:00:00Z"), utc("2026-04-01T00:00:00Z"), utc("2026-03-31T10:00:00Z"), utc("2026-04-30T10:00:00Z")},
		{"29 in a leap year", "UTC", lot.Month, utc("2027-12-29T00:00:00Z"), utc("2028-03-01T00:00:00Z"), utc("2028-02-29T00:00:00Z"), utc("2028-03-29T00:00:00Z")},
		{"29 February each year", "UTC", lot.Year, utc("2024-02-29T12:00:00Z"), utc("2026-06-01T00:00:00Z"), utc("2026-02-28T12:00:00Z"), utc("2027-02-28T12:00:00Z")},
		{"a day of 23 hours in New York", "America/New_York", lot.Day, utc("2026-03-07T17:00:00Z"), utc("2026-03-08T16:30:00Z"), utc("2026-03-08T16:00:00Z"), utc("2026-03-09T16:00:00Z")},
		{"02:30 does not exist: the first instant after", "America/New_York", lot.Day, utc("2026-03-07T07:30:00Z"), utc("2026-03-08T12:00:00Z"), utc("2026-03-08T07:00:00Z"), utc("2026-03-09T06:30:00Z")},
		{"01:30 exists twice: the first", "America/New_York", lot.Day, utc("2026-10-31T05:30:00Z"), utc("2026-11-01T12:00:00Z"), utc("2026-11-01T05:30:00Z"), utc("2026-11-02T06:30:00Z")},
		{"half an hour on Lord Howe", "Australia/Lord_Howe", lot.Day, local(t, "Australia/Lord_Howe", 2026, 10, 3, 2, 15), local(t, "Australia/Lord_Howe", 2026, 10, 4, 12, 0), local(t, "Australia/Lord_Howe", 2026, 10, 4, 2, 30), local(t, "Australia/Lord_Howe", 2026, 10, 5, 2, 15)},
		{"midnight is missing in Beirut", "Asia/Beirut", lot.Day, local(t, "Asia/Beirut", 2026, 3, 27, 0, 0), local(t, "Asia/Beirut", 2026, 3, 29, 12, 0), local(t, "Asia/Beirut", 2026, 3, 29, 1, 0), local(t, "Asia/Beirut", 2026, 3, 30, 0, 0)},
		{"midnight was missing in São Paulo", "America/Sao_Paulo", lot.Month, local(t, "America/Sao_Paulo", 2018, 10, 4, 0, 0), local(t, "America/Sao_Paulo", 2018, 11, 20, 0, 0), local(t, "America/Sao_Paulo", 2018, 11, 4, 1, 0), local(t, "America/Sao_Paulo", 2018, 12, 4, 0, 0)},
		{"a day was missing in Samoa", "Pacific/Apia", lot.Day, local(t, "Pacific/Apia", 2011, 12, 28, 9, 0), local(t, "Pacific/Apia", 2011, 12, 31, 8, 0), local(t, "Pacific/Apia", 2011, 12, 31, 0, 0), local(t, "Pacific/Apia", 2011, 12, 31, 9, 0)},
		{"no reset: all of the lot", "", lot.Never, utc("2026-01-31T10:00:00Z"), utc("2030-01-01T00:00:00Z"), utc("2026-01-31T10:00:00Z"), time.Time{}},
	} {
		g := lot.Grant{Reset: c.cycle, Zone: c.zone, Effective: c.begins}
		p := quota.PeriodAt(&g, c.at.UnixMilli())
		from, to := time.UnixMilli(p.From), time.Time{}
		if p.To != 0 {
			to = time.UnixMilli(p.To)
		}
		if !from.Equal(c.from) || !to.Equal(c.to) {
			t.Errorf("%s: %s to %s, want %s to %s", c.name, from.UTC(), to.UTC(), c.from.UTC(), c.to.UTC())
		}
	}
}

// Whatever the zone, the cycle and the instants: periods follow each other
// without a gap, contain what they were asked for, and have increasing
// numbers; the boundaries are their starts.
func TestPeriodsTileTime(t *testing.T) {
	t.Parallel()
	zones := []string{"", "UTC", "America/Sao_Paulo", "Asia/Beirut", "Africa/Cairo", "Australia/Lord_Howe", "Pacific/Apia", "America/New_York", "Asia/Kathmandu"}
	cycles := []lot.Cycle{lot.Hour, lot.Day, lot.Week, lot.Month, lot.Year}
	rapid.Check(t, func(t *rapid.T) {
		g := lot.Grant{
			Zone:  rapid.SampledFrom(zones).Draw(t, "zone"),
			Reset: rapid.SampledFrom(cycles).Draw(t, "cycle"),
			// From 2005 on, to meet the changes of Samoa and Brazil.
			Effective: time.UnixMilli(rapid.Int64Range(1_104_537_600_000, 1_900_000_000_000).Draw(t, "effective")).UTC(),
		}
		if rapid.Bool().Draw(t, "expires") {
			g.Expires = g.Effective.Add(time.Duration(rapid.Int64Range(1, 1000*24*3600*1000).Draw(t, "length")) * time.Millisecond)
		}
		at := g.Effective.UnixMilli() + rapid.Int64Range(0, 3000*24*3600*1000).Draw(t, "at")
		p := quota.PeriodAt(&g, at)
		if !g.Expires.IsZero() && at >= g.Expires.UnixMilli() {
			if p.To != g.Expires.UnixMilli() {
				t.Fatalf("after the end: %+v, want the last period", p)
			}
			return
		}
		if at < p.From || at >= p.To {
			t.Fatalf("%d is not in %+v", at, p)
		}
		if p.N > 0 {
			if before := quota.PeriodAt(&g, p.From-1); before.To != p.From || before.N >= p.N {
				t.Fatalf("%+v does not end where %+v begins", before, p)
			}
		}
		if g.Expires.IsZero() || p.To < g.Expires.UnixMilli() {
			if after := quota.PeriodAt(&g, p.To); after.From != p.To || after.N <= p.N {
				t.Fatalf("%+v does not begin where %+v ends", after, p)
			}
		}
		bounds := quota.Boundaries(&g, at, 2, 5)
		for i, b := range bounds {
			if q := quota.PeriodAt(&g, b); q.From != b || i > 0 && b <= bounds[i-1] {
				t.Fatalf("boundary %d of %v is not the start of a period", i, bounds)
			}
		}
	})
}
