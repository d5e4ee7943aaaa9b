package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"tollgate/internal/usage"
	"tollgate/metering"
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
	if err := metering.CheckRecords(recs); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.insert(ctx, recs); err != nil {
		return fmt.Errorf("metering: insert %d records: %w", len(recs), err)
	}
	return nil
}

const (
	insertCall = "INSERT INTO call (time, request, dim, stored, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
	findCall   = "SELECT time, body FROM call WHERE request = ?"
	deleteCall = "DELETE FROM call WHERE time = ? AND request = ?"
	insertDim  = "INSERT INTO dim (" + dimColumns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"
	upsertAsOf = "INSERT INTO fact (name, value) VALUES ('as_of', ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
)

// insert does the work of Insert in one transaction. The caller holds s.write.
func (s *Store) insert(ctx context.Context, recs []usage.Record) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // no-op after Commit
	w := writer{ctx: ctx, tx: tx, store: s, now: s.opt.Now().UnixMilli(), fresh: map[metering.Group]int64{}, sums: map[place]*metering.Sum{}}
	defer w.close()
	for i := range recs {
		if err := w.put(&recs[i]); err != nil {
			return fmt.Errorf("request %s: %w", recs[i].ID, err)
		}
	}
	if err := w.rollUp(); err != nil {
		return fmt.Errorf("rollups: %w", err)
	}
	if s.beforeCommit != nil {
		if err := s.beforeCommit(); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	s.dims.add(w.fresh) // only now: a rolled back group has no number
	return nil
}

// place is one rollup row.
type place struct {
	level  metering.Level
	bucket int64
	dim    int64
}

// writer is one transaction of Insert.
type writer struct {
	ctx   context.Context
	tx    *sql.Tx
	store *Store
	now   int64
	asOf  int64
	fresh map[metering.Group]int64
	sums  map[place]*metering.Sum // what the transaction adds to minutes; coarser ones follow
	stmts map[string]*sql.Stmt
	body  []byte
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
	done, err := w.add(r)
	if done || err != nil {
		return err
	}
	// The call is there already. Most often it is the same batch once more.
	find, err := w.stmt(findCall)
	if err != nil {
		return err
	}
	var at int64
	var body []byte
	if err := find.QueryRowContext(w.ctx, r.ID[:]).Scan(&at, &body); err != nil {
		return err
	}
	var old usage.Record
	if err := usage.DecodeRecord(body, &old); err != nil {
		return err
	}
	if !metering.Supersedes(r, &old) {
		return nil
	}
	del, err := w.stmt(deleteCall)
	if err != nil {
		return err
	}
	if _, err := del.ExecContext(w.ctx, at, r.ID[:]); err != nil {
		return err
	}
	dim, err := w.number(&old)
	if err != nil {
		return err
	}
	w.sum(&old, dim).TakeRecord(&old)
	if done, err = w.add(r); err == nil && !done {
		err = errors.New("the call that was taken away is still there")
	}
	return err
}

// add inserts a call, and reports false when there is one with its id.
func (w *writer) add(r *usage.Record) (bool, error) {
	dim, err := w.number(r)
	if err != nil {
		return false, err
	}
	ins, err := w.stmt(insertCall)
	if err != nil {
		return false, err
	}
	w.body = usage.AppendRecord(w.body[:0], r)
	res, err := ins.ExecContext(w.ctx, milli(r.Time), r.ID[:], dim, w.now, w.body)
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); n == 0 || err != nil {
		return false, err
	}
	w.asOf = max(w.asOf, milli(r.Finished))
	w.sum(r, dim).AddRecord(r)
	return true, nil
}

// sum returns what the transaction adds to the minute of a call.
func (w *writer) sum(r *usage.Record, dim int64) *metering.Sum {
	at := place{metering.Minute, metering.Minute.Bucket(milli(r.Time)), dim}
	s := w.sums[at]
	if s == nil {
		s = &metering.Sum{}
		w.sums[at] = s
	}
	return s
}

// number returns the number of the group of a call.
func (w *writer) number(r *usage.Record) (int64, error) {
	g := metering.GroupOf(r)
	if id, ok := w.store.dims.number(&g); ok {
		return id, nil
	}
	if id, ok := w.fresh[g]; ok {
		return id, nil
	}
	st, err := w.stmt(insertDim)
	if err != nil {
		return 0, err
	}
	var id int64
	err = st.QueryRowContext(w.ctx, g.Account, g.Subscription, g.Product, g.API, g.Model, g.Credential, g.Application, g.Region, g.Node,
		g.Status, int64(g.Basis), g.Counted).Scan(&id)
	if err != nil {
		return 0, err
	}
	w.fresh[g] = id
	return id, nil
}

// rollUp writes what the transaction adds to the rollups.
func (w *writer) rollUp() error {
	for at, s := range w.sums {
		if at.level != metering.Minute {
			continue
		}
		for l := metering.Hour; l <= metering.Day; l++ {
			up := place{l, l.Bucket(at.bucket), at.dim}
			if w.sums[up] == nil {
				w.sums[up] = &metering.Sum{}
			}
			w.sums[up].Add(s)
		}
	}
	for at, s := range w.sums {
		if err := w.merge(at, s); err != nil {
			return err
		}
	}
	st, err := w.stmt(upsertAsOf)
	if err != nil {
		return err
	}
	_, err = st.ExecContext(w.ctx, w.asOf)
	return err
}

func (w *writer) merge(at place, s *metering.Sum) error {
	table := rollups[at.level]
	find, err := w.stmt("SELECT body FROM " + table + " WHERE bucket = ? AND dim = ?")
	if err != nil {
		return err
	}
	var body []byte
	err = find.QueryRowContext(w.ctx, at.bucket, at.dim).Scan(&body)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if err == nil {
		var was metering.Sum
		if err := decodeSum(body, &was, true); err != nil {
			return err
		}
		s.Add(&was)
	}
	text := "INSERT INTO " + table + " (bucket, dim, body) VALUES (?, ?, ?) ON CONFLICT (bucket, dim) DO UPDATE SET body = excluded.body"
	args := []any{at.bucket, at.dim, nil}
	if s.Calls == 0 { // every call of it was superseded
		text, args = "DELETE FROM "+table+" WHERE bucket = ? AND dim = ?", args[:2]
	} else {
		w.body = appendSum(w.body[:0], s)
		args[2] = w.body
	}
	st, err := w.stmt(text)
	if err != nil {
		return err
	}
	_, err = st.ExecContext(w.ctx, args...)
	return err
}
