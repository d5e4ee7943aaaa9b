package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"tollgate/internal/usage"
)

// Insert stores records, all of them or, on an error, none. It is idempotent
// on the request id (METER-12): of two records with one id the first final one
// stays. A provisional record gives way to a final one, and to a provisional
// one that was written at the same time or later; it never replaces a final
// one.
func (s *Store) Insert(ctx context.Context, recs []usage.Record) error {
	if len(recs) == 0 {
		return nil
	}
	for i := range recs {
		if recs[i].ID.IsZero() {
			return fmt.Errorf("%w: record %d has no request id", ErrInput, i)
		}
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.insert(ctx, recs); err != nil {
		return fmt.Errorf("metering: insert %d records: %w", len(recs), err)
	}
	return nil
}

const (
	// It changes no row when the record that is there already is to be kept.
	upsertRecord = `
INSERT INTO record (request, time, finished, flags, body) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (request) DO UPDATE SET time = excluded.time, finished = excluded.finished, flags = excluded.flags, body = excluded.body
WHERE record.flags & $6 != 0 AND (excluded.flags & $6 = 0 OR excluded.finished >= record.finished)`
	findRecord = "SELECT time FROM record WHERE request = $1"
	deleteCall = "DELETE FROM call WHERE time = $1 AND request = $2"
)

// callColumns are the columns of call in the order Insert binds them.
var callColumns = func() []string {
	c := []string{
		"time", "request", "account", "subscription", "product", "api", "credential", "application", "region", "node",
		"status", "basis", "flags", "cached", "reasoning", "bytes_in", "bytes_out", "total_ns", "model",
	}
	for _, kind := range []string{"u", "c", "o"} {
		for i := range usage.NumUnits {
			c = append(c, fmt.Sprintf("%s%d", kind, i))
		}
	}
	return c
}()

var insertCall = "INSERT INTO call (" + strings.Join(callColumns, ", ") + ") VALUES (" +
	strings.TrimSuffix(strings.Repeat("?, ", len(callColumns)), ", ") + ")"

// insert does the work of Insert in one transaction. The caller holds s.write.
func (s *Store) insert(ctx context.Context, recs []usage.Record) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // no-op after Commit
	w := writer{ctx: ctx, tx: tx, known: s.names, fresh: map[string]int64{}}
	defer w.close()
	for i := range recs {
		if err := w.put(&recs[i]); err != nil {
			return fmt.Errorf("request %s: %w", recs[i].ID, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	maps.Copy(s.names, w.fresh) // only now: a rolled back name has no number
	return nil
}

// writer is one transaction of Insert.
type writer struct {
	ctx   context.Context
	tx    *sql.Tx
	known map[string]int64
	fresh map[string]int64
	stmts map[string]*sql.Stmt
	body  []byte
	args  []any
}

func (w *writer) stmt(text string) (*sql.Stmt, error) {
	if st := w.stmts[text]; st != nil {
		return st, nil
	}
	st, err := w.tx.PrepareContext(w.ctx, text)
	if err != nil {
		return nil, err
	}
	if w.stmts == nil {
		w.stmts = map[string]*sql.Stmt{}
	}
	w.stmts[text] = st
	return st, nil
}

func (w *writer) close() {
	for _, st := range w.stmts {
		_ = st.Close()
	}
}

func (w *writer) put(r *usage.Record) error {
	find, err := w.stmt(findRecord)
	if err != nil {
		return err
	}
	var was int64
	err = find.QueryRowContext(w.ctx, r.ID[:]).Scan(&was)
	replaces := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	upsert, err := w.stmt(upsertRecord)
	if err != nil {
		return err
	}
	w.body = usage.AppendRecord(w.body[:0], r)
	res, err := upsert.ExecContext(w.ctx, r.ID[:], milli(r.Time), milli(r.Finished), int64(r.Flags), w.body, int64(usage.Provisional))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	if replaces {
		del, err := w.stmt(deleteCall)
		if err != nil {
			return err
		}
		if _, err := del.ExecContext(w.ctx, was, r.ID[:]); err != nil {
			return err
		}
	}
	return w.putCall(r)
}

func (w *writer) putCall(r *usage.Record) error {
	w.args = append(w.args[:0], milli(r.Time), r.ID[:])
	for _, s := range []string{r.Account, r.Subscription, r.Product, r.API, r.Credential, r.Application, r.Region, r.Node} {
		id, err := w.name(s)
		if err != nil {
			return err
		}
		w.args = append(w.args, id)
	}
	w.args = append(w.args, r.Status, int64(r.Basis), int64(r.Flags), r.Cached, r.Reasoning, r.BytesIn, r.BytesOut, int64(r.Total), r.Model)
	for _, n := range r.Units {
		w.args = append(w.args, n)
	}
	for u := range usage.NumUnits {
		w.args = append(w.args, r.Charged(u))
	}
	for _, n := range r.Overrun {
		w.args = append(w.args, n)
	}
	ins, err := w.stmt(insertCall)
	if err != nil {
		return err
	}
	_, err = ins.ExecContext(w.ctx, w.args...)
	return err
}

// name returns the number of a text, 0 for the empty one.
func (w *writer) name(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if id, ok := w.known[s]; ok {
		return id, nil
	}
	if id, ok := w.fresh[s]; ok {
		return id, nil
	}
	st, err := w.stmt("INSERT INTO name (value) VALUES ($1) ON CONFLICT (value) DO UPDATE SET value = excluded.value RETURNING id")
	if err != nil {
		return 0, err
	}
	var id int64
	if err := st.QueryRowContext(w.ctx, s).Scan(&id); err != nil {
		return 0, err
	}
	w.fresh[s] = id
	return id, nil
}

// milli returns t in Unix ms, and 0 for the zero time.
func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
