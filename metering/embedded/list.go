package embedded

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

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

// cursor is a place in the order of admission.
type cursor struct {
	at int64
	id ids.Request
}

// list goes back hour by hour over those that have such calls, which the hour
// rollups tell, until the page is full.
func (s *Store) list(ctx context.Context, in *metering.ListInput) (page metering.Page, err error) {
	from, to := in.Millis()
	var after *cursor
	if in.After != "" {
		after = new(cursor)
		if after.at, after.id, err = metering.ParseCursor(in.After); err != nil {
			return page, err
		}
		to = min(to, after.at+1)
	}
	picked, all := s.dims.match(&in.Filter)
	if len(picked) == 0 || from >= to {
		return page, nil
	}
	tx, err := s.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return page, err
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	var among string
	if len(picked) < all {
		numbers := make([]string, 0, len(picked))
		for id := range picked {
			numbers = append(numbers, fmt.Sprint(id))
		}
		among = " AND dim IN (" + strings.Join(numbers, ",") + ")"
	}
	hours, err := tx.QueryContext(ctx, "SELECT DISTINCT bucket FROM hour WHERE bucket >= ? AND bucket < ?"+among+" ORDER BY bucket DESC",
		metering.Hour.Bucket(from), to)
	if err != nil {
		return page, err
	}
	defer hours.Close()
	var last cursor
	for hours.Next() {
		var h int64
		if err := hours.Scan(&h); err != nil {
			return page, err
		}
		full, err := readHour(ctx, tx, &page, in.Limit, max(from, h), min(to, h+metering.Hour.Size()), among, after, &last)
		if err != nil {
			return page, err
		}
		if full {
			page.Next = metering.MakeCursor(last.at, last.id)
			return page, nil
		}
	}
	return page, hours.Err()
}

// readHour adds the calls of [from, to) to the page, and reports whether there
// are more than fit. last becomes the place of the page's last call.
func readHour(ctx context.Context, tx *sql.Tx, page *metering.Page, limit int, from, to int64, among string, after, last *cursor) (bool, error) {
	where, args := "time >= ? AND time < ?"+among, []any{from, to}
	if after != nil {
		where += " AND (time, request) < (?, ?)"
		args = append(args, after.at, after.id[:])
	}
	rows, err := tx.QueryContext(ctx,
		"SELECT c.time, c.request, c.body FROM (SELECT time, request FROM call WHERE "+where+" ORDER BY time DESC, request DESC LIMIT ?) picked"+
			" JOIN call c ON c.time = picked.time AND c.request = picked.request ORDER BY 1 DESC, 2 DESC", append(args, limit+1-len(page.Records))...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	for rows.Next() {
		if len(page.Records) == limit {
			return true, nil
		}
		var at int64
		var id, body []byte
		if err := rows.Scan(&at, &id, &body); err != nil {
			return false, err
		}
		page.Records = append(page.Records, usage.Record{})
		if err := usage.DecodeRecord(body, &page.Records[len(page.Records)-1]); err != nil {
			return false, err
		}
		last.at = at
		copy(last.id[:], id)
	}
	return false, rows.Err()
}
