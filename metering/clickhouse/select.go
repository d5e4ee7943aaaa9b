package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// Query sums up the calls of a time. Records of calls that still run are in
// the figures with what they have used so far.
func (s *Store) Query(ctx context.Context, in metering.QueryInput) (metering.Result, error) {
	if err := in.Validate(); err != nil {
		return metering.Result{}, err
	}
	res, err := s.query(ctx, &in)
	if err != nil {
		return metering.Result{}, fmt.Errorf("metering: query: %w", err)
	}
	return res, nil
}

func (s *Store) query(ctx context.Context, in *metering.QueryInput) (res metering.Result, err error) {
	var asOf time.Time
	if err := s.conn.QueryRow(ctx, "SELECT max(finished) FROM usage_day").Scan(&asOf); err != nil {
		return res, err
	}
	segments, from, to := in.Plan(s.kept())
	var parts []string
	var args []any
	for _, seg := range segments {
		text, a := selectSegment(in, seg)
		parts, args = append(parts, text), append(args, a...)
	}
	text, a := selectOpen(in, from, to)
	parts, args = append(parts, text), append(args, a...)
	rows, err := s.conn.Query(ctx, strings.Join(parts, " UNION ALL "), args...)
	if err != nil {
		return res, err
	}
	defer rows.Close()
	c := metering.NewCollector(in)
	for rows.Next() {
		var key string
		var at int64
		var sum metering.Sum
		var latency map[uint16]int64
		if err := rows.Scan(append([]any{&key, &at, &latency}, targets(&sum.Totals)...)...); err != nil {
			return res, err
		}
		if in.Latency {
			sum.Latency = latency
		}
		if in.GroupBy == metering.GroupBasis {
			key = basisName(key)
		}
		c.Add(key, at, &sum)
	}
	if err := rows.Err(); err != nil {
		return res, err
	}
	res = c.Result()
	res.From, res.To = from, to
	if asOf.UnixMilli() != 0 {
		res.AsOf = asOf.UTC()
	}
	return res, nil
}

func basisName(number string) string {
	var n uint8
	_, _ = fmt.Sscan(number, &n)
	return usage.Basis(n).String()
}

// keyColumns tells which column a grouping reads.
var keyColumns = map[metering.GroupBy]string{
	metering.GroupKey: "credential", metering.GroupAPI: "api", metering.GroupModel: "model", metering.GroupStatus: "status",
	metering.GroupAccount: "account", metering.GroupSubscription: "subscription", metering.GroupProduct: "product",
	metering.GroupApplication: "application", metering.GroupRegion: "region", metering.GroupNode: "node", metering.GroupBasis: "basis",
}

// selectSegment returns the statement that sums up one segment.
func selectSegment(in *metering.QueryInput, seg metering.Segment) (string, []any) {
	column, final := "bucket", ""
	if seg.Level == metering.Raw {
		column, final = "time", " FINAL" // few: the ends of a time
	}
	where, args := conditions(&in.Filter, seg.Level == metering.Raw)
	return sumUp(in, seg.Level, tables[seg.Level]+final+fmt.Sprintf(" WHERE %s >= fromUnixTimestamp64Milli(?) AND %[1]s < fromUnixTimestamp64Milli(?)", column)+where),
		append([]any{seg.From, seg.To}, args...)
}

// selectOpen returns the statement for the calls that still run.
func selectOpen(in *metering.QueryInput, from, to time.Time) (string, []any) {
	where, args := conditions(&in.Filter, true)
	a, b := from.UnixMilli(), to.UnixMilli()
	return sumUp(in, metering.Raw, "usage_open FINAL WHERE time >= fromUnixTimestamp64Milli(?) AND time < fromUnixTimestamp64Milli(?)"+where+notFinal),
		append([]any{a, b}, args...)
}

// notFinal leaves out those whose final record is there.
const notFinal = " AND request NOT IN (SELECT request FROM usage_call WHERE request IN (SELECT request FROM usage_open))"

func sumUp(in *metering.QueryInput, l metering.Level, from string) string {
	key, at := "''", "toInt64(0)"
	if c := keyColumns[in.GroupBy]; c != "" {
		key = "toString(" + c + ")"
	}
	if step := in.Step(l); step > 0 {
		ms := "toUnixTimestamp64Milli(time)"
		if l != metering.Raw {
			ms = "toInt64(toUnixTimestamp(bucket)) * 1000"
		}
		at = fmt.Sprintf("intDiv(%s, %d) * %[2]d", ms, step)
	}
	sums, latency := sumsOfCalls(), latencyOfCalls
	if l != metering.Raw {
		sums, latency = sumsOfRollups(), latencyOfRollups
	}
	if !in.Latency {
		latency = "CAST(map(), 'Map(UInt16, Int64)')"
	}
	return fmt.Sprintf("SELECT %s AS k, %s AS at, %s, %s FROM %s GROUP BY k, at HAVING count() > 0", key, at, latency, strings.Join(sums, ", "), from)
}

// conditions returns what a filter asks of calls or of a rollup.
func conditions(f *metering.Filter, raw bool) (string, []any) {
	var b strings.Builder
	var args []any
	for i, values := range [][]string{f.Accounts, f.Subscriptions, f.Products, f.APIs, f.Models, f.Credentials, f.Applications, f.Regions, f.Nodes} {
		if len(values) > 0 {
			fmt.Fprintf(&b, " AND %s IN (?)", texts[i])
			args = append(args, values)
		}
	}
	if len(f.Statuses) > 0 {
		b.WriteString(" AND status IN (?)")
		args = append(args, f.Statuses)
	}
	if len(f.StatusClasses) > 0 {
		b.WriteString(" AND intDiv(status, 100) IN (?)")
		args = append(args, f.StatusClasses)
	}
	if len(f.Bases) > 0 {
		var list []int
		for _, v := range f.Bases {
			list = append(list, int(v))
		}
		b.WriteString(" AND basis IN (?)")
		args = append(args, list)
	}
	if f.Counted != nil {
		column := "counted"
		if raw {
			column = countedOf
		}
		n := 0
		if *f.Counted {
			n = 1
		}
		fmt.Fprintf(&b, " AND %s = %d", column, n)
	}
	return b.String(), args
}

// List returns single records, newest first, a page at a time.
func (s *Store) List(ctx context.Context, in metering.ListInput) (metering.Page, error) {
	if err := in.Validate(); err != nil {
		return metering.Page{}, err
	}
	if in.Limit == 0 {
		in.Limit = metering.DefaultPage
	}
	page, err := s.list(ctx, &in)
	if err != nil {
		return metering.Page{}, fmt.Errorf("metering: list: %w", err)
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, in *metering.ListInput) (metering.Page, error) {
	from, to := in.Millis()
	where, args := conditions(&in.Filter, true)
	where = " WHERE time >= fromUnixTimestamp64Milli(?) AND time < fromUnixTimestamp64Milli(?)" + where
	args = append([]any{from, to}, args...)
	if in.After != "" {
		ms, id, err := metering.ParseCursor(in.After)
		if err != nil {
			return metering.Page{}, err
		}
		// The first condition is what the index can use.
		where += " AND time <= fromUnixTimestamp64Milli(?) AND (time < fromUnixTimestamp64Milli(?) OR request < unhex(?))"
		args = append(args, ms, ms, id.String())
	}
	// LIMIT 1 BY: a call that came in two batches is there twice until ClickHouse
	// merges; FINAL would read the whole time instead of its end.
	one := func(table, more string) string {
		return "SELECT * FROM (SELECT time, request, body FROM " + table + where + more +
			fmt.Sprintf(" ORDER BY time DESC, request DESC LIMIT 1 BY time, request LIMIT %d)", in.Limit+1)
	}
	rows, err := s.conn.Query(ctx, "SELECT time, request, body FROM ("+one("usage_call", "")+" UNION ALL "+one("usage_open FINAL", notFinal)+
		fmt.Sprintf(") ORDER BY time DESC, request DESC LIMIT %d", in.Limit+1), append(args, args...)...)
	if err != nil {
		return metering.Page{}, err
	}
	defer rows.Close()
	var page metering.Page
	for rows.Next() {
		var at time.Time
		var request string
		var body []byte
		if err := rows.Scan(&at, &request, &body); err != nil {
			return page, err
		}
		if len(page.Records) == in.Limit {
			last := &page.Records[in.Limit-1]
			page.Next = metering.MakeCursor(max(last.Time.UnixMilli(), 0), last.ID)
			break
		}
		page.Records = append(page.Records, usage.Record{})
		if err := usage.DecodeRecord(body, &page.Records[len(page.Records)-1]); err != nil {
			return page, errors.Join(err, rows.Close())
		}
	}
	return page, rows.Err()
}
