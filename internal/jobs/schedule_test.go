package jobs

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// walk returns the first n due instants after from, in zone.
func walk(s Schedule, from time.Time, n int, z *time.Location) (out []string) {
	for range n {
		from = s.Next(from)
		out = append(out, from.In(z).Format("2006-01-02 15:04 -0700"))
	}
	return out
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	york, howe, beijing := zone(t, "America/New_York"), zone(t, "Australia/Lord_Howe"), zone(t, "Asia/Shanghai")
	for _, tt := range []struct {
		name string
		s    Schedule
		from string
		in   *time.Location
		want []string
	}{
		{"hours", Every(time.Hour), "2026-11-30T18:30:15Z", time.UTC, []string{"2026-11-30 19:00 +0000", "2026-11-30 20:00 +0000"}},
		{"on the instant", Every(time.Hour), "2026-11-30T19:00:00Z", time.UTC, []string{"2026-11-30 20:00 +0000"}},
		{"before 1970", Every(time.Hour), "1969-12-31T22:30:00Z", time.UTC, []string{"1969-12-31 23:00 +0000", "1970-01-01 00:00 +0000"}},
		{"midnight in Beijing", Daily(0, 0, beijing), "2026-11-30T15:59:59Z", beijing, []string{"2026-12-01 00:00 +0800", "2026-12-02 00:00 +0800"}},
		// 02:30 is left out on 8 March 2026: due at 03:30, which is 02:30 of the old count.
		{"spring in New York", Daily(2, 30, york), "2026-03-07T12:00:00Z", york, []string{"2026-03-08 03:30 -0400", "2026-03-09 02:30 -0400"}},
		// 01:30 comes twice on 1 November 2026: due the first time only.
		{"autumn in New York", Daily(1, 30, york), "2026-10-31T12:00:00Z", york, []string{"2026-11-01 01:30 -0400", "2026-11-02 01:30 -0500"}},
		// Lord Howe moves by half an hour: 01:45 comes twice on 5 April 2026.
		{"autumn on Lord Howe", Daily(1, 45, howe), "2026-04-04T00:00:00Z", howe, []string{"2026-04-05 01:45 +1100", "2026-04-06 01:45 +1030"}},
		{"months", Monthly(1, 0, beijing), "2026-11-30T18:00:00Z", beijing, []string{"2027-01-01 00:00 +0800", "2027-02-01 00:00 +0800"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			from, err := time.Parse(time.RFC3339, tt.from)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, walk(tt.s, from, len(tt.want), tt.in)); d != "" {
				t.Error(d)
			}
		})
	}
}

// Whatever the schedule, the zone and the instant: Last ≤ t < Next, Next follows
// Last without another instant between, and no instant comes twice.
func TestSchedulesAgree(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{time.UTC, zone(t, "Asia/Shanghai"), zone(t, "America/New_York"), zone(t, "Australia/Lord_Howe")}
	rapid.Check(t, func(t *rapid.T) {
		z := rapid.SampledFrom(zones).Draw(t, "zone")
		s := rapid.SampledFrom([]Schedule{
			Every(time.Minute), Every(time.Hour), Every(24 * time.Hour),
			Daily(rapid.IntRange(0, 23).Draw(t, "hour"), rapid.IntRange(0, 59).Draw(t, "minute"), z),
			Monthly(rapid.IntRange(1, 28).Draw(t, "day"), rapid.IntRange(0, 23).Draw(t, "hour"), z),
		}).Draw(t, "schedule")
		at := time.Unix(rapid.Int64Range(1_700_000_000, 2_000_000_000).Draw(t, "at"), 0)
		last, next := s.Last(at), s.Next(at)
		if last.After(at) || !next.After(at) {
			t.Fatalf("last %v, at %v, next %v", last, at, next)
		}
		if got := s.Next(last); !got.Equal(next) {
			t.Fatalf("after %v comes %v, not %v", last, got, next)
		}
		if got := s.Last(next); !got.Equal(next) {
			t.Fatalf("the last up to %v is %v", next, got)
		}
		if got := s.Last(next.Add(-time.Nanosecond)); !got.Equal(last) {
			t.Fatalf("the last before %v is %v, not %v", next, got, last)
		}
	})
}
