package clickhouse

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// errMissing says that rows of a batch that was confirmed are not there.
var errMissing = errors.New("metering: ClickHouse confirmed a batch and does not have all of it")

// Insert stores records that are no batch of a shipper: those that other
// processes sent to the admin role.
func (s *Store) Insert(ctx context.Context, recs []usage.Record) error {
	return s.InsertBatch(ctx, metering.Batch{ID: metering.BatchID(recs), Records: recs, Doubtful: true, Made: s.opt.Now()})
}

// InsertBatch stores a batch, and answers nil when all of it was counted back.
func (s *Store) InsertBatch(ctx context.Context, b metering.Batch) error {
	if len(b.Records) == 0 {
		return nil
	}
	if err := metering.CheckRecords(b.Records); err != nil {
		return err
	}
	if err := s.insertBatch(ctx, &b); err != nil {
		return fmt.Errorf("metering: batch %s of %d records: %w", b.ID, len(b.Records), err)
	}
	return nil
}

func (s *Store) insertBatch(ctx context.Context, b *metering.Batch) error {
	final, open := split(b.Records)
	// What is there of this batch is sent again, so that ClickHouse, which knows
	// the token, completes what a crash left out. What another batch brought is
	// left out in every try, so tries are alike.
	present := map[ids.Request]string{}
	if b.Doubtful && len(final) > 0 {
		var err error
		if present, err = s.present(ctx, final); err != nil {
			return err
		}
	}
	own := 0
	kept := final[:0:0]
	for _, r := range final {
		switch batch, ok := present[r.ID]; {
		case ok && batch != b.ID:
			continue
		case ok:
			own++
		}
		kept = append(kept, r)
	}
	old := own > 0 && s.opt.Now().Sub(b.Made) > s.opt.Trusted
	if old {
		// The token may be forgotten: only what is missing is sent, and the
		// rollups are compared with the calls afterwards.
		rest := kept[:0:0]
		for _, r := range kept {
			if _, ok := present[r.ID]; !ok {
				rest = append(rest, r)
			}
		}
		if err := s.send(ctx, "usage_call", rest, b.ID, b.ID+"-rest"); err != nil {
			return err
		}
	} else if err := s.send(ctx, "usage_call", kept, b.ID, b.ID); err != nil {
		return err
	}
	if err := s.send(ctx, "usage_open", open, b.ID, b.ID); err != nil {
		return err
	}
	if err := s.countBack(ctx, kept, b.ID); err != nil {
		return err
	}
	if old {
		from, to := span(kept)
		_, err := s.Repair(ctx, from, to.Add(time.Millisecond))
		return err
	}
	return nil
}

// split tells final records from provisional ones, each request once: the
// first final one, and of the provisional ones that which takes the place of
// the others.
func split(recs []usage.Record) (final, open []*usage.Record) {
	at := make(map[ids.Request]int, len(recs))
	openAt := map[ids.Request]int{}
	for i := range recs {
		r := &recs[i]
		if !r.Has(usage.Provisional) {
			if _, ok := at[r.ID]; !ok {
				at[r.ID] = len(final)
				final = append(final, r)
			}
			continue
		}
		if n, ok := openAt[r.ID]; !ok {
			openAt[r.ID] = len(open)
			open = append(open, r)
		} else if metering.Supersedes(r, open[n]) {
			open[n] = r
		}
	}
	return final, open
}

// span returns the first and the last admission of a batch.
func span(recs []*usage.Record) (from, to time.Time) {
	for i, r := range recs {
		if i == 0 || r.Time.Before(from) {
			from = r.Time
		}
		if i == 0 || r.Time.After(to) {
			to = r.Time
		}
	}
	return from, to
}

// lookup bounds how many ids one look for records names.
const lookup = 10_000

// present returns which of the records are stored, and the batch each came in.
func (s *Store) present(ctx context.Context, recs []*usage.Record) (map[ids.Request]string, error) {
	out := map[ids.Request]string{}
	for len(recs) > 0 {
		some := recs[:min(len(recs), lookup)]
		recs = recs[len(some):]
		from, to := span(some)
		list := make([]byte, 0, len(some)*43)
		for i, r := range some {
			if i > 0 {
				list = append(list, ',')
			}
			list = append(list, "unhex('"...)
			list = append(r.ID.Append(list), "')"...)
		}
		rows, err := s.conn.Query(bigQuery(ctx), "SELECT request, batch FROM usage_call WHERE time >= fromUnixTimestamp64Milli(?) AND time <= fromUnixTimestamp64Milli(?) AND request IN ("+string(list)+")",
			milli(from).UnixMilli(), milli(to).UnixMilli())
		if err != nil {
			return nil, fmt.Errorf("look for its records: %w", err)
		}
		for rows.Next() {
			var request, batch string
			if err := rows.Scan(&request, &batch); err != nil {
				_ = rows.Close()
				return nil, err
			}
			var id ids.Request
			copy(id[:], request)
			name := hex.EncodeToString([]byte(batch))
			// A call that came twice before rows were merged is taken as of
			// the lesser batch, in every try.
			if had, ok := out[id]; !ok || name < had {
				out[id] = name
			}
		}
		_ = rows.Close()
		if err := rows.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// bigQuery allows a statement that names many ids.
func bigQuery(ctx context.Context) context.Context {
	return ch.Context(ctx, ch.WithSettings(ch.Settings{"max_query_size": 16 << 20, "max_ast_elements": 1_000_000, "max_expanded_ast_elements": 2_000_000}))
}

// countBack compares how many rows of the batch ClickHouse has.
func (s *Store) countBack(ctx context.Context, recs []*usage.Record, id string) error {
	if len(recs) == 0 {
		return nil
	}
	from, to := span(recs)
	var n uint64
	settings := ch.Settings{}
	if s.opt.Cluster != "" {
		settings["select_sequential_consistency"] = 1
	}
	err := s.conn.QueryRow(ch.Context(ctx, ch.WithSettings(settings)),
		"SELECT uniqExact(request) FROM usage_call WHERE time >= fromUnixTimestamp64Milli(?) AND time <= fromUnixTimestamp64Milli(?) AND batch = unhex(?)",
		milli(from).UnixMilli(), milli(to).UnixMilli(), id).Scan(&n)
	if err != nil {
		return fmt.Errorf("count it back: %w", err)
	}
	if n != uint64(len(recs)) {
		return fmt.Errorf("%w: %d rows of %d", errMissing, n, len(recs))
	}
	return nil
}

var callColumns = append(append([]string{"time", "request", "finished", "batch"}, dimNames...), append(append([]string{"flags", "latency"}, amountNames...), "body")...)

// send inserts records as one block under a deduplication token.
func (s *Store) send(ctx context.Context, table string, recs []*usage.Record, batch, token string) error {
	if len(recs) == 0 {
		return nil
	}
	id, err := hex.DecodeString(batch)
	if err != nil {
		return fmt.Errorf("%w: batch id %q", metering.ErrInput, batch)
	}
	p, err := s.conn.PrepareBatch(s.insertContext(ctx, token), insertInto(table, callColumns))
	if err != nil {
		return err
	}
	if err := fillCalls(p, recs, id); err != nil {
		_ = p.Abort()
		return err
	}
	return p.Send()
}

// insertContext carries the settings of an insert.
func (s *Store) insertContext(ctx context.Context, token string) context.Context {
	settings := ch.Settings{
		"insert_deduplication_token": token, "insert_deduplicate": 1,
		"deduplicate_blocks_in_dependent_materialized_views": 1, // a try that died between two tables is completed by the next
		"async_insert":                    0,
		"max_partitions_per_insert_block": 0, // clocks may be off by years
		"max_insert_block_size":           1 << 20,
	}
	if s.opt.Cluster != "" {
		settings["insert_quorum"] = "auto"
		settings["insert_quorum_parallel"] = 0 // select_sequential_consistency asks for it
	}
	return ch.Context(ctx, ch.WithSettings(settings))
}
