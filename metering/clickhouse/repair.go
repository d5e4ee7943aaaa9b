package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/metering"
)

// Repair compares the rollups of the buckets that hold [from, to) with the sums
// over the calls, and inserts what is missing or too much as differences. It
// returns how many rollup rows were off. Calls that arrive meanwhile may look
// like a difference; the next Repair takes it back.
func (s *Store) Repair(ctx context.Context, from, to time.Time) (int64, error) {
	var rows int64
	for l := metering.Minute; l <= metering.Day; l++ {
		// A bucket that is partly past a retention cannot be compared.
		a := l.Bucket(max(from.UnixMilli(), 0))
		if k := s.kept(); a < k[metering.Raw] || a < k[l] {
			continue
		}
		n, err := s.repair(ctx, l, a, -l.Bucket(-to.UnixMilli()))
		rows += n
		if err != nil {
			return rows, fmt.Errorf("metering: repair %s: %w", tables[l], err)
		}
	}
	if rows > 0 {
		s.opt.Log.Warn("rollups differed from the calls and were corrected", "rows", rows, "from", from, "to", to)
	}
	return rows, nil
}

// rollupColumns are those of a rollup, as differences are read and written.
var rollupColumns = append(append(append([]string{"bucket"}, dimNames...), "counted"), append(sumNames[:len(sumNames):len(sumNames)], "latencies", "finished")...)

func (s *Store) repair(ctx context.Context, l metering.Level, from, to int64) (int64, error) {
	keys := "bucket, " + strings.Join(dimNames, ", ") + ", counted"
	signed := func(sign string) string {
		var list []string
		for _, n := range sumNames {
			list = append(list, sign+n+" AS "+n)
		}
		return strings.Join(list, ", ")
	}
	var sums, off []string
	for _, n := range sumNames {
		sums = append(sums, "sum("+n+") AS s_"+n)
		off = append(off, "s_"+n+" != 0")
	}
	text := "SELECT " + keys + ", " + strings.Join(sums, ", ") + ", sumMap(latencies) AS m, max(finished) AS f FROM (" +
		"SELECT " + keys + ", " + signed("") + ", latencies, finished FROM (" +
		rollupQuery(l, "usage_call FINAL WHERE time >= fromUnixTimestamp64Milli(?) AND time < fromUnixTimestamp64Milli(?)") + ")" +
		" UNION ALL SELECT " + keys + ", " + signed("-") + ", mapApply((k, v) -> (k, -v), latencies) AS latencies, finished FROM " + tables[l] +
		" WHERE bucket >= fromUnixTimestamp64Milli(?) AND bucket < fromUnixTimestamp64Milli(?))" +
		" GROUP BY " + keys + " HAVING " + strings.Join(off, " OR ") + " OR arrayExists(v -> v != 0, mapValues(m))"
	rows, err := s.conn.Query(ctx, text, from, to, from, to)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var list []correction
	for rows.Next() {
		var c correction
		if err := rows.Scan(c.targets()...); err != nil {
			return 0, err
		}
		list = append(list, c)
	}
	if err := rows.Err(); err != nil || len(list) == 0 {
		return 0, err
	}
	p, err := s.conn.PrepareBatch(s.insertContext(ctx, token(l, list)), insertInto(tables[l], rollupColumns))
	if err != nil {
		return 0, err
	}
	for i := range list {
		if err := p.Append(list[i].values()...); err != nil {
			_ = p.Abort()
			return 0, err
		}
	}
	return int64(len(list)), p.Send()
}

// correction is a difference of one rollup row.
type correction struct {
	bucket   time.Time
	names    [9]string
	status   uint16
	basis    uint8
	counted  uint8
	sums     metering.Totals
	latency  map[uint16]int64
	finished time.Time
}

func (c *correction) targets() []any {
	dst := []any{&c.bucket}
	for i := range c.names {
		dst = append(dst, &c.names[i])
	}
	dst = append(dst, &c.status, &c.basis, &c.counted)
	return append(append(dst, targets(&c.sums)...), &c.latency, &c.finished)
}

func (c *correction) values() []any {
	list := []any{c.bucket}
	for _, n := range c.names {
		list = append(list, n)
	}
	list = append(list, c.status, c.basis, c.counted)
	for _, p := range targets(&c.sums) {
		list = append(list, *p.(*int64))
	}
	return append(list, c.latency, c.finished)
}

// token makes equal corrections, found by two processes at once, one insert.
func token(l metering.Level, list []correction) string {
	lines := make([]string, len(list))
	for i := range list {
		lines[i] = fmt.Sprint(list[i].values()...)
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return "repair-" + l.String() + "-" + hex.EncodeToString(sum[:16])
}

// Prune compares the rollups of the last two days, but for the present hour,
// with the calls. What is past its retention ClickHouse removes by itself, so
// the number of rows is always 0.
func (s *Store) Prune(ctx context.Context) (int64, error) {
	now := s.opt.Now().Truncate(time.Hour)
	for h := now.Add(-48 * time.Hour); h.Before(now); h = h.Add(time.Hour) {
		for l := metering.Minute; l <= metering.Hour; l++ {
			if _, err := s.repair(ctx, l, h.UnixMilli(), h.Add(time.Hour).UnixMilli()); err != nil {
				return 0, fmt.Errorf("metering: repair %s: %w", tables[l], err)
			}
		}
	}
	day := metering.Day.Bucket(now.UnixMilli())
	_, err := s.repair(ctx, metering.Day, day-2*metering.Day.Size(), day)
	return 0, err
}
