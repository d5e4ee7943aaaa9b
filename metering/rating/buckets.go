package rating

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

const columns = "hour, subscription, unit, seq, account, product, quantity, sealed, taken"

func scan(rows *sql.Rows) ([]usage.Bucket, error) {
	defer rows.Close()
	var out []usage.Bucket
	for rows.Next() {
		var b usage.Bucket
		var unit string
		var taken int64
		err := rows.Scan(sqldb.Instant{Dst: &b.Hour}, &b.Subscription, &unit, &b.Seq, &b.Account, &b.Product, &b.Quantity, sqldb.Instant{Dst: &b.Sealed}, &taken)
		if err == nil {
			b.Unit, err = usage.ParseUnit(unit)
		}
		if err != nil {
			return nil, fmt.Errorf("rating: read a bucket: %w", err)
		}
		if taken != 0 {
			b.Taken = sqldb.Time(taken)
		}
		out = append(out, b)
	}
	return out, rows.Err()
}

// Take hands out up to limit buckets that nobody took, the oldest hour first,
// and marks them in tx: they are taken when tx commits, with whatever else it
// writes. It is what billing charges on-demand use by.
func (r *Rater) Take(ctx context.Context, tx *sqldb.Tx, limit int) ([]usage.Bucket, error) {
	rows, err := tx.Query(ctx, "SELECT "+columns+" FROM rating_bucket WHERE taken = 0 ORDER BY hour, subscription, unit, seq LIMIT $1", limit)
	if err != nil {
		return nil, fmt.Errorf("rating: %w", err)
	}
	list, err := scan(rows)
	if err != nil {
		return nil, err
	}
	now := r.o.Now()
	for i := range list {
		b := &list[i]
		res, err := tx.Exec(ctx, "UPDATE rating_bucket SET taken = $1 WHERE subscription = $2 AND hour = $3 AND unit = $4 AND seq = $5 AND taken = 0",
			sqldb.Ms(now), b.Subscription, sqldb.Ms(b.Hour), b.Unit.String(), b.Seq)
		if err != nil {
			return nil, fmt.Errorf("rating: %w", err)
		}
		if n, err := res.RowsAffected(); n != 1 || err != nil {
			return nil, fmt.Errorf("rating: bucket %s was taken by another process meanwhile (%w)", b.ID(), err)
		}
		b.Taken = now
	}
	return list, nil
}

// Buckets lists the buckets of a subscription over [from, to), in the order of
// hours, after the one with the id after.
func (r *Rater) Buckets(ctx context.Context, subscription string, from, to time.Time, after usage.Bucket, limit int) ([]usage.Bucket, error) {
	afterHour, afterUnit := int64(-1<<62), ""
	if !after.Hour.IsZero() {
		afterHour, afterUnit = sqldb.Ms(after.Hour), after.Unit.String()
	}
	rows, err := r.o.DB.Query(ctx, "SELECT "+columns+` FROM rating_bucket WHERE subscription = $1 AND hour >= $2 AND hour < $3
		AND (hour > $4 OR (hour = $4 AND (unit > $5 OR (unit = $5 AND seq > $6)))) ORDER BY hour, unit, seq LIMIT $7`,
		subscription, sqldb.Ms(from), sqldb.Ms(to), afterHour, afterUnit, after.Seq, limit)
	if err != nil {
		return nil, fmt.Errorf("rating: %w", err)
	}
	return scan(rows)
}

// Waiting tells how many buckets nobody took yet.
func (r *Rater) Waiting(ctx context.Context) (n int64, err error) {
	err = r.o.DB.QueryRow(ctx, "SELECT count(*) FROM rating_bucket WHERE taken = 0").Scan(&n)
	return n, err
}
