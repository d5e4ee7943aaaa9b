package embedded

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// month makes n calls of 30 days: 40 buyers with a key or two, four products,
// three models, mostly good answers.
func month(n int, emit func([]usage.Record)) (from, to time.Time) {
	to = time.Date(2026, 11, 20, 12, 34, 56, 0, time.UTC)
	from = to.AddDate(0, 0, -30)
	rnd := rand.New(rand.NewPCG(1, 2))
	step := to.Sub(from) / time.Duration(n)
	batch := make([]usage.Record, 0, 5000)
	for i := range n {
		at := from.Add(time.Duration(i) * step).Truncate(time.Millisecond)
		buyer := rnd.IntN(40)
		r := usage.Record{
			ID: ids.NewRequest(at), Time: at, Finished: at.Add(time.Second), Node: "gw-" + strconv.Itoa(i%2),
			Account: "01M6B1YQ00YSFGVR5HF0CFB0" + strconv.Itoa(10+buyer), Subscription: "01M6B1YQ00SUB" + strconv.Itoa(10+buyer), Product: "PRD" + strconv.Itoa(buyer%4),
			API: "chat.completions", Model: "model-" + strconv.Itoa(rnd.IntN(3)), Credential: "KEY" + strconv.Itoa(buyer*2+rnd.IntN(2)), Region: "cn-north-4",
			Auth: usage.AuthAPIKey, Rule: usage.Meter3, Basis: usage.BasisUpstream, Flags: usage.Counted, Status: 200,
			BytesIn: 500, BytesOut: 2000, Total: time.Duration(rnd.ExpFloat64() * float64(time.Second)),
			Charges: []usage.Charge{{Lot: "01M6B1YQ00LOT", Unit: usage.Token, Amount: 100 + rnd.Int64N(1000)}},
		}
		r.Units[usage.InputToken], r.Units[usage.OutputToken] = 100, 200
		if rnd.IntN(50) == 0 {
			r.Status, r.Flags, r.Charges = 503, 0, nil
		}
		if batch = append(batch, r); len(batch) == cap(batch) {
			emit(batch)
			batch = batch[:0]
		}
	}
	emit(batch)
	return from, to
}

// BenchmarkDashboard times the queries of a dashboard over a month. Three
// million calls take some minutes to store first: say how many with
// TOLLGATE_BENCH_ROWS (default 100000).
func BenchmarkDashboard(b *testing.B) {
	n := 100_000
	if text := os.Getenv("TOLLGATE_BENCH_ROWS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "usage.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	began := time.Now()
	from, to := month(n, func(recs []usage.Record) {
		if err := s.Insert(b.Context(), recs); err != nil {
			b.Fatal(err)
		}
	})
	b.Logf("%d calls stored in %s, %.0f a second", n, time.Since(began).Round(time.Second), float64(n)/time.Since(began).Seconds())
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		b.Fatal(err)
	}
	one := metering.Filter{Accounts: []string{"01M6B1YQ00YSFGVR5HF0CFB010"}}
	for name, in := range map[string]metering.QueryInput{
		"total":              {},
		"total-percentiles":  {Latency: true},
		"days-utc":           {GroupBy: metering.GroupDay},
		"days-shanghai":      {GroupBy: metering.GroupDay, Zone: shanghai},
		"hours-shanghai":     {GroupBy: metering.GroupHour, Zone: shanghai},
		"top-keys":           {GroupBy: metering.GroupKey, Top: 10, Latency: true},
		"models-of-one":      {GroupBy: metering.GroupModel, Filter: one},
		"hours-of-one":       {GroupBy: metering.GroupHour, Zone: shanghai, Filter: one, Latency: true},
		"minutes-of-one-day": {GroupBy: metering.GroupMinute, From: to.AddDate(0, 0, -1)},
	} {
		if in.From.IsZero() {
			in.From = from
		}
		in.To = to
		b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
			began := cpu()
			for b.Loop() {
				res, err := s.Query(b.Context(), in)
				if err != nil || res.Total.Calls == 0 {
					b.Fatal(res.Total.Calls, err)
				}
			}
			b.ReportMetric(float64((cpu()-began).Milliseconds())/float64(b.N), "cpu-ms/op")
		})
	}
	b.Run(fmt.Sprintf("page-of-one/%d", n), func(b *testing.B) {
		in := metering.ListInput{From: from, To: to, Filter: one}
		for b.Loop() {
			page, err := s.List(b.Context(), in)
			if err != nil || len(page.Records) == 0 {
				b.Fatal(len(page.Records), err)
			}
			in.After = page.Next
		}
	})
}

// cpu returns what the process has used of the processors: on a busy machine it
// tells more than the clock.
func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
