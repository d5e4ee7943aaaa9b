package metertest

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// suiteModel compares random batches, sent again and again in any order, with
// sums over a plain map.
func suiteModel(t *testing.T, b Backend) {
	rnd := rand.New(rand.NewPCG(1, 2))
	model := map[ids.Request]usage.Record{}
	var recs []usage.Record
	for i := range 400 {
		r := Call(rnd.IntN(86400))
		r.Credential = fmt.Sprintf("KEY%d", rnd.IntN(5))
		r.Status = []int{200, 201, 429, 500}[rnd.IntN(4)]
		r.Units[usage.Token] = rnd.Int64N(1000)
		r.Charges = []usage.Charge{{Lot: "L", Unit: usage.Unit(i % int(usage.NumUnits)), Amount: 1 + rnd.Int64N(9)}}
		if r.Status >= 300 {
			r.Flags, r.Charges = 0, nil
		}
		model[r.ID] = r
		recs = append(recs, r)
	}
	for range 12 {
		batch := make([]usage.Record, 100)
		for i := range batch {
			batch[i] = recs[rnd.IntN(len(recs))]
		}
		MustInsert(t, b, batch...)
	}
	MustInsert(t, b, recs...)
	want := map[string]metering.Totals{}
	for _, r := range model {
		sum := want[r.Credential]
		one := metering.Totals{
			Calls: 1, Units: r.Units, Overrun: r.Overrun, Cached: r.Cached, Reasoning: r.Reasoning,
			BytesIn: r.BytesIn, BytesOut: r.BytesOut, Time: r.Total,
		}
		if r.Has(usage.Counted) {
			one.Counted = 1
		}
		if r.Status >= 400 {
			one.Errors = 1
		}
		for u := range usage.NumUnits {
			one.Charged[u] = r.Charged(u)
		}
		sum.Add(&one)
		want[r.Credential] = sum
	}
	got := map[string]metering.Totals{}
	for _, row := range MustQuery(t, b, metering.QueryInput{GroupBy: metering.GroupKey}).Rows {
		got[row.Key] = row.Totals
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

// suiteLatency: percentiles are within 1 % of the true ones.
func suiteLatency(t *testing.T, b Backend) {
	var recs []usage.Record
	for i := range 1000 {
		r := Call(i)
		r.Total = time.Duration(i+1) * time.Millisecond
		r.Credential = fmt.Sprintf("KEY%d", i%2)
		recs = append(recs, r)
	}
	MustInsert(t, b, recs...)
	res := MustQuery(t, b, metering.QueryInput{GroupBy: metering.GroupKey, Latency: true})
	near := func(what string, got, want time.Duration) {
		t.Helper()
		if d := got - want; d < -want/100 || d > want/100 {
			t.Errorf("%s is %s, want %s within 1 %%", what, got, want)
		}
	}
	for _, q := range []float64{0.001, 0.01, 0.5, 0.9, 0.99, 1} {
		near(fmt.Sprint("quantile ", q), res.Latency.Quantile(q), time.Duration(q*1000)*time.Millisecond)
	}
	if len(res.Rows) != 2 || res.Rows[0].Latency == nil {
		t.Fatalf("rows = %+v", res.Rows)
	}
	near("KEY0's median", res.Rows[0].Latency.Quantile(0.5), 499*time.Millisecond)
	if res := MustQuery(t, b, metering.QueryInput{GroupBy: metering.GroupKey}); res.Latency != nil || res.Rows[0].Latency != nil {
		t.Error("latencies that were not asked for")
	}
}

// suiteOrder: the top rows by each figure.
func suiteOrder(t *testing.T, b Backend) {
	add := func(key string, n int, change func(*usage.Record)) {
		for i := range n {
			r := Call(i)
			r.Credential, r.Charges = key, nil
			change(&r)
			MustInsert(t, b, r)
		}
	}
	add("many", 5, func(r *usage.Record) { r.Total = 1 })
	add("slow", 1, func(r *usage.Record) { r.Total = time.Hour })
	add("failing", 2, func(r *usage.Record) { r.Status, r.Total = 500, 1 })
	add("large", 1, func(r *usage.Record) { r.Units = usage.Units{usage.Token: 1e6}; r.Total = 1 })
	add("paid", 1, func(r *usage.Record) {
		r.Charges = []usage.Charge{{Lot: "L", Unit: usage.Call, Amount: 7}}
		r.Total = 1
	})
	for order, want := range map[metering.Order]string{
		"": "many", metering.OrderCalls: "many", metering.OrderTime: "slow", metering.OrderErrors: "failing", metering.OrderTokens: "large", metering.OrderCharged: "paid",
	} {
		res := MustQuery(t, b, metering.QueryInput{GroupBy: metering.GroupKey, Order: order, Top: 1})
		if len(res.Rows) != 1 || res.Rows[0].Key != want || res.Total.Calls != 10 {
			t.Errorf("the first by %q is %+v, want %s", order, res.Rows, want)
		}
	}
}

// suiteRanges: whatever the time asked for, and so whatever it is answered
// from, figures equal the sums over the calls; in minutes, hours and days of
// any zone, too.
func suiteRanges(t *testing.T, b Backend) {
	rnd := rand.New(rand.NewPCG(7, 8))
	var recs []usage.Record
	start := time.Date(2026, 3, 27, 0, 0, 0, 0, time.UTC) // Berlin's clock changes on the 29th
	for range 600 {
		r := Call(0)
		r.Time = start.Add(time.Duration(rnd.Int64N(int64(5*24*time.Hour/time.Millisecond))) * time.Millisecond)
		r.ID, r.Finished = ids.NewRequest(r.Time), r.Time.Add(time.Second)
		r.Total = time.Duration(rnd.Int64N(1e9))
		recs = append(recs, r)
	}
	MustInsert(t, b, recs...)
	zones := []*time.Location{nil, time.FixedZone("", 5*3600+1800)}
	for _, name := range []string{"Europe/Berlin", "Asia/Shanghai", "Australia/Lord_Howe"} {
		l, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		zones = append(zones, l)
	}
	for n := range 60 {
		from := start.Add(time.Duration(rnd.Int64N(int64(4 * 24 * time.Hour))))
		to := from.Add(time.Duration(rnd.Int64N(int64([]time.Duration{time.Minute, time.Hour, 72 * time.Hour}[n%3]))) + 1)
		in := metering.QueryInput{
			From: from, To: to, Zone: zones[n%len(zones)], Latency: true,
			GroupBy: []metering.GroupBy{metering.GroupNone, metering.GroupMinute, metering.GroupHour, metering.GroupDay}[rnd.IntN(4)],
		}
		want := metering.Sum{Latency: metering.Histogram{}}
		rows := map[string]int64{}
		for i := range recs {
			at := recs[i].Time
			if at.Before(from) || !at.Before(to) {
				continue
			}
			want.AddRecord(&recs[i])
			if in.Zone != nil {
				at = at.In(in.Zone)
			}
			switch in.GroupBy {
			case metering.GroupMinute:
				rows[at.Format("2006-01-02T15:04Z07:00")]++
			case metering.GroupHour:
				rows[at.Format("2006-01-02T15Z07:00")]++
			case metering.GroupDay:
				rows[at.Format("2006-01-02")]++
			}
		}
		res := MustQuery(t, b, in)
		if diff := cmp.Diff(want, metering.Sum{Totals: res.Total, Latency: res.Latency}); diff != "" {
			t.Fatalf("[%s, %s) (-want +got):\n%s", from, to, diff)
		}
		got := map[string]int64{}
		for _, r := range res.Rows {
			form := map[metering.GroupBy]string{
				metering.GroupMinute: "2006-01-02T15:04Z07:00", metering.GroupHour: "2006-01-02T15Z07:00", metering.GroupDay: "2006-01-02",
			}[in.GroupBy]
			got[r.Start.Format(form)] += r.Calls
		}
		if diff := cmp.Diff(rows, got); diff != "" {
			t.Fatalf("[%s, %s) by %s in %v (-want +got):\n%s", from, to, in.GroupBy, in.Zone, diff)
		}
		if !res.From.Equal(ceil(from)) || !res.To.Equal(ceil(to)) {
			t.Fatalf("covers [%s, %s), asked for [%s, %s)", res.From, res.To, from, to)
		}
	}
}

// ceil rounds up to whole milliseconds, in which instants are kept.
func ceil(t time.Time) time.Time { return t.Add(time.Millisecond - 1).Truncate(time.Millisecond).UTC() }
