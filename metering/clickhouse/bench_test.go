package clickhouse

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	testserver "tollgate/internal/testkit/clickhouse"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/metering/metertest"
)

// rows is how many calls the benchmarks work on: TOLLGATE_BENCH_ROWS, or few.
func rows(b *testing.B, few int) int {
	if text := os.Getenv("TOLLGATE_BENCH_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	return few
}

// generate fills the calls of a month within the engine; the views make the
// rollups, as they do of what gateways send.
const generate = `INSERT INTO usage_call (time, request, finished, batch, account, subscription, product, api, model, credential, region, node, status, basis, flags,
	latency, bytes_in, bytes_out, total_ns, used_input_token, used_output_token, charged_token, body)
SELECT fromUnixTimestamp64Milli(toInt64(%d + intDiv(number * 2592000000, %d))) AS time,
	unhex(concat(leftPad(lower(hex(toUInt64(toUnixTimestamp64Milli(time)))), 12, '0'), leftPad(lower(hex(number)), 20, '0'))),
	time + INTERVAL 1 SECOND, unhex('00000000000000000000000000000000'),
	concat('ACC', toString(number %% 40)), concat('SUB', toString(number %% 40)), concat('PRD', toString(number %% 4)), 'chat.completions',
	concat('model-', toString(cityHash64(number) %% 3)), concat('KEY', toString(number %% 80)), 'cn-north-4', concat('gw-', toString(number %% 2)),
	if(cityHash64(number, 1) %% 50 = 0, 503, 200) AS status, 1, if(status = 200, 1, 0),
	toUInt16(400 + cityHash64(number, 2) %% 300), 500, 2000, toInt64(cityHash64(number, 3) %% 2000000000), 100, 200, if(status = 200, 300, 0), ''
FROM numbers(%d, %d)`

// BenchmarkDashboard times the queries of a dashboard over a month.
func BenchmarkDashboard(b *testing.B) {
	n := rows(b, 200_000)
	server := testserver.Start(b)
	s, err := Open(b.Context(), server.URL("bench"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	to := time.Date(2026, 11, 20, 12, 34, 56, 0, time.UTC)
	from := to.AddDate(0, 0, -30)
	began := time.Now()
	const step = 250_000 // within the client's patience on a busy machine
	for at := 0; at < n; at += step {
		if err := s.conn.Exec(b.Context(), fmt.Sprintf(generate, from.UnixMilli(), n, at, min(step, n-at))); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d calls generated with their rollups in %s", n, time.Since(began).Round(time.Second))
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		b.Fatal(err)
	}
	one := metering.Filter{Accounts: []string{"ACC7"}}
	for name, in := range map[string]metering.QueryInput{
		"total":              {},
		"total-percentiles":  {Latency: true},
		"days-utc":           {GroupBy: metering.GroupDay},
		"days-shanghai":      {GroupBy: metering.GroupDay, Zone: shanghai},
		"hours-shanghai":     {GroupBy: metering.GroupHour, Zone: shanghai},
		"top-keys":           {GroupBy: metering.GroupKey, Top: 10, Latency: true},
		"models-of-one":      {GroupBy: metering.GroupModel, Filter: one},
		"minutes-of-one-day": {GroupBy: metering.GroupMinute, From: to.AddDate(0, 0, -1)},
	} {
		if in.From.IsZero() {
			in.From = from
		}
		in.To = to
		b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
			for b.Loop() {
				res, err := s.Query(b.Context(), in)
				if err != nil || res.Total.Calls == 0 {
					b.Fatal(res.Total.Calls, err)
				}
			}
		})
	}
	b.Run(fmt.Sprintf("raw-total-without-rollups/%d", n), func(b *testing.B) {
		for b.Loop() {
			if _, err := server.Query(b.Context(), "SELECT count(), sum(charged_token), sum(total_ns) FROM bench.usage_call"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkInsertBatch times whole batches of 50000: encode, send, three
// rollups, count back.
func BenchmarkInsertBatch(b *testing.B) {
	server := testserver.Start(b)
	s, err := Open(b.Context(), server.URL("bench"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	recs := make([]usage.Record, 50_000)
	n := 0
	for b.Loop() {
		b.StopTimer()
		for i := range recs {
			recs[i] = metertest.Call(n/1000 + i/1000)
		}
		n += len(recs)
		batch := metering.Batch{ID: metering.BatchID(recs), Records: recs, Made: time.Now()}
		b.StartTimer()
		if err := s.InsertBatch(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
