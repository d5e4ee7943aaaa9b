package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// Query sums up the calls of a time. Provisional records, of calls that still
// run, are in the figures with what they have used so far.
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
	// One transaction: all segments see the same calls.
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return res, err
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	asOf, err := readAsOf(ctx, tx)
	if err != nil {
		return res, err
	}
	picked, all := s.dims.match(&in.Filter)
	c := metering.NewCollector(in)
	segments, from, to := in.Plan(s.kept())
	for _, seg := range segments {
		if len(picked) == 0 {
			break
		}
		if err := readSegment(ctx, tx, in, seg, picked, all, c); err != nil {
			return res, err
		}
	}
	res = c.Result()
	res.AsOf, res.From, res.To = asOf, from, to
	return res, nil
}

// readSegment gives the calls of one segment to c.
func readSegment(ctx context.Context, tx *sql.Tx, in *metering.QueryInput, seg metering.Segment, picked map[int64]*metering.Group, all int, c *metering.Collector) error {
	table, column := "call", "time"
	if seg.Level != metering.Raw {
		table, column = rollups[seg.Level], "bucket"
	}
	text := fmt.Sprintf("SELECT %s, dim, body FROM %s WHERE %[1]s >= ? AND %[1]s < ?", column, table)
	// Few groups of many are found by the index on dim (minutes have none).
	if len(picked) <= 200 && len(picked) < all/8 && seg.Level != metering.Minute {
		list := make([]string, 0, len(picked))
		for id := range picked {
			list = append(list, fmt.Sprint(id))
		}
		text += " AND dim IN (" + strings.Join(list, ",") + ")"
	}
	rows, err := tx.QueryContext(ctx, text, seg.From, seg.To)
	if err != nil {
		return err
	}
	defer rows.Close()
	var sum metering.Sum
	var rec usage.Record
	var body sql.RawBytes
	for rows.Next() {
		var at, dim int64
		if err := rows.Scan(&at, &dim, &body); err != nil {
			return err
		}
		g := picked[dim]
		if g == nil {
			continue
		}
		if seg.Level == metering.Raw {
			if err := usage.DecodeRecord(body, &rec); err != nil {
				return err
			}
			sum = metering.Sum{}
			sum.AddRecord(&rec)
		} else if err := decodeSum(body, &sum, in.Latency); err != nil {
			return err
		}
		c.Add(g.Key(in.GroupBy), at, &sum)
	}
	return rows.Err()
}

func readAsOf(ctx context.Context, tx *sql.Tx) (t time.Time, err error) {
	var ms int64
	err = tx.QueryRowContext(ctx, "SELECT value FROM fact WHERE name = 'as_of'").Scan(&ms)
	if errors.Is(err, sql.ErrNoRows) || err == nil && ms == 0 {
		return t, nil
	}
	return time.UnixMilli(ms).UTC(), err
}
