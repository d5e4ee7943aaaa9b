package metering

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// quarter is the step in which time series are summed up by the database: the
// hours and days of every zone in use begin at a multiple of it.
const quarter = int64(15 * time.Minute / time.Millisecond)

// nameColumns tells which column of call a grouping reads; those are numbers
// of name.
var nameColumns = map[GroupBy]string{
	GroupKey: "credential", GroupAPI: "api", GroupAccount: "account", GroupSubscription: "subscription",
	GroupProduct: "product", GroupApplication: "application", GroupRegion: "region", GroupNode: "node",
}

// sums are the columns of Totals as scanTotals reads them.
var sums = func() string {
	var b strings.Builder
	fmt.Fprintf(&b, "count(*), sum(flags & %d != 0), sum(status >= 400)", usage.Counted)
	for _, c := range []string{"cached", "reasoning", "bytes_in", "bytes_out", "total_ns"} {
		fmt.Fprintf(&b, ", sum(%s)", c)
	}
	for _, kind := range []string{"u", "c", "o"} {
		for i := range usage.NumUnits {
			fmt.Fprintf(&b, ", sum(%s%d)", kind, i)
		}
	}
	return b.String()
}()

// Query sums up the calls of a time. Provisional records, of calls that still
// run, are in the figures with what they have used so far.
func (s *Store) Query(ctx context.Context, in QueryInput) (Result, error) {
	if err := in.Validate(); err != nil {
		return Result{}, err
	}
	res, err := s.query(ctx, &in)
	if err != nil {
		return Result{}, fmt.Errorf("metering: query: %w", err)
	}
	return res, nil
}

func (s *Store) query(ctx context.Context, in *QueryInput) (Result, error) {
	var res Result
	if err := s.asOf(ctx, &res); err != nil {
		return res, err
	}
	key := "''"
	switch in.GroupBy {
	case GroupHour, GroupDay:
		key = fmt.Sprintf("time / %d - (time %% %d < 0)", quarter, quarter) // rounded down
	case GroupModel, GroupStatus, GroupBasis:
		key = string(in.GroupBy)
	default:
		if c := nameColumns[in.GroupBy]; c != "" {
			key = c
		}
	}
	where, args := in.where(in.From, in.To)
	rows, err := s.db.QueryContext(ctx, "SELECT "+key+", "+sums+" FROM call"+where+" GROUP BY 1", args...)
	if err != nil {
		return res, err
	}
	defer rows.Close()
	var list []Row
	for rows.Next() {
		var r Row
		if err := scanTotals(rows, &r); err != nil {
			return res, err
		}
		res.Total.Add(&r.Totals)
		list = append(list, r)
	}
	if err := rows.Err(); err != nil {
		return res, err
	}
	switch in.GroupBy {
	case GroupNone, "":
		return res, nil
	case GroupHour, GroupDay:
		res.Rows, err = foldSeries(list, in)
		return res, err
	}
	if err := s.nameKeys(ctx, list, in.GroupBy); err != nil {
		return res, err
	}
	slices.SortFunc(list, func(a, b Row) int {
		return cmp.Or(cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Key, b.Key))
	})
	if in.Top > 0 && len(list) > in.Top {
		list = list[:in.Top]
	}
	res.Rows = list
	return res, nil
}

func scanTotals(rows *sql.Rows, r *Row) error {
	t := &r.Totals
	dst := []any{&r.Key, &t.Calls, &t.Counted, &t.Errors, &t.Cached, &t.Reasoning, &t.BytesIn, &t.BytesOut, (*int64)(&t.Time)}
	for _, u := range []*usage.Units{&t.Units, &t.Charged, &t.Overrun} {
		for i := range u {
			dst = append(dst, &u[i])
		}
	}
	return rows.Scan(dst...)
}

// foldSeries sums quarters of an hour up into the hours or days of a zone.
func foldSeries(quarters []Row, in *QueryInput) ([]Row, error) {
	zone := in.Zone
	if zone == nil {
		zone = time.UTC
	}
	var list []Row
	slots := map[int64]int{}
	for i := range quarters {
		n, err := strconv.ParseInt(quarters[i].Key, 10, 64)
		if err != nil {
			return nil, err
		}
		start := startOf(time.UnixMilli(n*quarter).In(zone), in.GroupBy)
		at, ok := slots[start.UnixMilli()]
		if !ok {
			at = len(list)
			slots[start.UnixMilli()] = at
			list = append(list, Row{Key: start.Format(time.RFC3339), Start: start})
		}
		list[at].Add(&quarters[i].Totals)
	}
	slices.SortFunc(list, func(a, b Row) int { return a.Start.Compare(b.Start) })
	return list, nil
}

// startOf returns when the hour or day that holds t begins, by the clock of
// t's zone. An hour that the clock repeats stays two.
func startOf(t time.Time, by GroupBy) time.Time {
	if by == GroupDay {
		y, m, d := t.Date()
		return time.Date(y, m, d, 0, 0, 0, 0, t.Location())
	}
	return t.Add(-time.Duration(t.Minute())*time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
}

// nameKeys replaces the numbers in the keys by what they stand for.
func (s *Store) nameKeys(ctx context.Context, list []Row, by GroupBy) error {
	if by == GroupBasis {
		for i := range list {
			n, err := strconv.ParseUint(list[i].Key, 10, 8)
			if err != nil {
				return err
			}
			list[i].Key = usage.Basis(n).String()
		}
	}
	if nameColumns[by] == "" {
		return nil
	}
	for i := range list {
		if list[i].Key == "0" {
			list[i].Key = ""
			continue
		}
		err := s.db.QueryRowContext(ctx, "SELECT value FROM name WHERE id = $1", list[i].Key).Scan(&list[i].Key)
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) asOf(ctx context.Context, res *Result) error {
	var ms sql.NullInt64
	err := s.db.QueryRowContext(ctx,
		"SELECT max(finished) FROM record WHERE request IN (SELECT request FROM call ORDER BY time DESC LIMIT 1000)").Scan(&ms)
	if ms.Valid && ms.Int64 != 0 {
		res.AsOf = time.UnixMilli(ms.Int64).UTC()
	}
	return err
}

// where returns the condition of a filter and a time with its arguments.
func (f *Filter) where(from, to time.Time) (string, []any) {
	var b strings.Builder
	args := []any{ceilMilli(from), ceilMilli(to)}
	b.WriteString(" WHERE time >= ? AND time < ?")
	in := func(column string, n int) {
		fmt.Fprintf(&b, " AND %s IN (%s)", column, strings.TrimSuffix(strings.Repeat("?, ", n), ", "))
	}
	for _, c := range []struct {
		column string
		values []string
	}{
		{"account", f.Accounts},
		{"subscription", f.Subscriptions},
		{"product", f.Products},
		{"api", f.APIs},
		{"credential", f.Credentials},
		{"application", f.Applications},
		{"region", f.Regions},
		{"node", f.Nodes},
	} {
		if len(c.values) == 0 {
			continue
		}
		marks := strings.TrimSuffix(strings.Repeat("?, ", len(c.values)), ", ")
		fmt.Fprintf(&b, " AND %s IN (SELECT id FROM name WHERE value IN (%s)", c.column, marks)
		if slices.Contains(c.values, "") {
			b.WriteString(" UNION ALL SELECT 0")
		}
		b.WriteString(")")
		for _, v := range c.values {
			args = append(args, v)
		}
	}
	if len(f.Models) > 0 {
		in("model", len(f.Models))
		for _, v := range f.Models {
			args = append(args, v)
		}
	}
	if len(f.Statuses) > 0 {
		in("status", len(f.Statuses))
		for _, v := range f.Statuses {
			args = append(args, v)
		}
	}
	if len(f.StatusClasses) > 0 {
		in("status / 100", len(f.StatusClasses))
		for _, v := range f.StatusClasses {
			args = append(args, v)
		}
	}
	if len(f.Bases) > 0 {
		in("basis", len(f.Bases))
		for _, v := range f.Bases {
			args = append(args, int64(v))
		}
	}
	if f.Counted != nil {
		fmt.Fprintf(&b, " AND (flags & %d != 0) = ?", usage.Counted)
		args = append(args, *f.Counted)
	}
	return b.String(), args
}

// ceilMilli rounds up: instants are stored in whole milliseconds, so both ends
// of a half-open range round the same way.
func ceilMilli(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// List returns single records, newest first, a page at a time.
func (s *Store) List(ctx context.Context, in ListInput) (Page, error) {
	if err := in.Validate(); err != nil {
		return Page{}, err
	}
	limit := in.Limit
	if limit == 0 {
		limit = 100
	}
	where, args := in.where(in.From, in.To)
	if in.After != "" {
		ms, id, err := parseCursor(in.After)
		if err != nil {
			return Page{}, err
		}
		where += " AND (time, request) < (?, ?)"
		args = append(args, ms, id[:])
	}
	page, err := s.list(ctx, where, args, limit)
	if err != nil {
		return Page{}, fmt.Errorf("metering: list: %w", err)
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, where string, args []any, limit int) (Page, error) {
	var page Page
	rows, err := s.db.QueryContext(ctx,
		"SELECT picked.time, picked.request, body FROM (SELECT time, request FROM call"+where+
			" ORDER BY time DESC, request DESC LIMIT ?) picked JOIN record ON record.request = picked.request"+
			" ORDER BY picked.time DESC, picked.request DESC", append(args, limit+1)...)
	if err != nil {
		return page, err
	}
	defer rows.Close()
	var lastMs int64
	var lastID ids.Request
	for rows.Next() {
		var ms int64
		var id, body []byte
		if err := rows.Scan(&ms, &id, &body); err != nil {
			return page, err
		}
		if len(page.Records) == limit {
			page.Next = makeCursor(lastMs, lastID)
			break
		}
		var r usage.Record
		if err := usage.DecodeRecord(body, &r); err != nil {
			return page, err
		}
		page.Records = append(page.Records, r)
		lastMs = ms
		copy(lastID[:], id)
	}
	return page, rows.Err()
}
