package clickhouse

import (
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/internal/usage"
	"tollgate/metering"
)

func insertInto(table string, columns []string) string {
	return "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ")"
}

// milli cuts to the milliseconds that are stored; the zero time is the epoch.
func milli(t time.Time) time.Time {
	if t.IsZero() {
		return time.UnixMilli(0).UTC()
	}
	return t.UTC().Truncate(time.Millisecond)
}

// fillCalls writes records into a block, column by column.
func fillCalls(p driver.Batch, recs []*usage.Record, batch []byte) error {
	n := len(recs)
	at, finished := make([]time.Time, n), make([]time.Time, n)
	requests, batches := make([]string, n), make([]string, n)
	name := string(batch)
	status, flags, latency, basis := make([]uint16, n), make([]uint16, n), make([]uint16, n), make([]uint8, n)
	names := make([][]string, len(texts))
	for i := range names {
		names[i] = make([]string, n)
	}
	figures := make([][]int64, len(amountNames))
	for i := range figures {
		figures[i] = make([]int64, n)
	}
	bodies := make([][]byte, n)
	var arena []byte
	var row []int64
	for i, r := range recs {
		at[i], finished[i] = milli(r.Time), milli(r.Finished)
		requests[i], batches[i] = string(r.ID[:]), name
		for k, v := range [...]string{r.Account, r.Subscription, r.Product, r.API, r.Model, r.Credential, r.Application, r.Region, r.Node} {
			names[k][i] = v
		}
		status[i], basis[i], flags[i], latency[i] = uint16(r.Status), uint8(r.Basis), uint16(r.Flags), metering.LatencyBucket(r.Total)
		row = amounts(row[:0], r)
		for k, v := range row {
			figures[k][i] = v
		}
		from := len(arena)
		arena = usage.AppendRecord(arena, r)
		bodies[i] = arena[from:len(arena):len(arena)]
	}
	columns := []any{at, requests, finished, batches}
	for _, c := range names {
		columns = append(columns, c)
	}
	columns = append(columns, status, basis, flags, latency)
	for _, c := range figures {
		columns = append(columns, c)
	}
	columns = append(columns, bodies)
	for i, c := range columns {
		if err := p.Column(i).Append(c); err != nil {
			return fmt.Errorf("column %s: %w", callColumns[i], err)
		}
	}
	return nil
}
