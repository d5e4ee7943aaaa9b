package admin

import (
	"context"
	"database/sql"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/sqldb"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations are the admin role's tables, for `tollgate migrate`. New applies
// them too.
func Migrations() sqldb.Migrations {
	return sqldb.Migrations{Owner: "admin", FS: migrationFiles}
}

// effect says whether gateways must see a change.
type effect int64

const (
	unseen  effect = 0 // accounts, tokens
	visible effect = 1 // everything in a snapshot
)

// change runs fn in a transaction that holds the directory's version row from
// its start, so changes run one after another, on every engine and over all
// admin processes, and what fn counts stays true until it commits. A visible
// change bumps the version and wakes the waiting gateways after the commit.
func (s *Server) change(ctx context.Context, e effect, fn func(ctx context.Context, tx *sqldb.Tx) error) error {
	return s.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE admin_version SET version = version + $1 WHERE id = 1", int64(e)); err != nil {
			return fmt.Errorf("admin: lock the directory's version: %w", err)
		}
		if e == visible {
			tx.AfterCommit(s.source.wake)
		}
		return fn(ctx, tx)
	})
}

// Touch bumps the directory's version within a transaction of another owner of
// data that gateways see: it is billing's Hooks.Changed. Server.Wake is its
// Hooks.Committed.
func Touch(ctx context.Context, tx *sqldb.Tx) error {
	if _, err := tx.Exec(ctx, "UPDATE admin_version SET version = version + 1 WHERE id = 1"); err != nil {
		return fmt.Errorf("admin: bump the directory's version: %w", err)
	}
	return nil
}

// Wake makes waiting gateways of this process look for a new version now. It
// is called after a transaction that called Touch was committed.
func (s *Server) Wake() { s.source.wake() }

// version reads the directory's version.
func (s *Server) version(ctx context.Context) (int64, error) {
	var v int64
	if err := s.db.QueryRow(ctx, "SELECT version FROM admin_version WHERE id = 1").Scan(&v); err != nil {
		return 0, fmt.Errorf("admin: read the directory's version: %w", err)
	}
	return v, nil
}

// onceKey identifies a request that may be repeated: the actor's scope, the
// client's Idempotency-Key and the operation. An empty Key means no repetition
// is recognised.
type onceKey struct {
	Scope, Key, Operation string
}

// idempotencyFor is how long an answer is kept for a repeated request.
const idempotencyFor = 24 * time.Hour

// once runs fn in change, and its answer is kept under k, in the same
// transaction: the same request again gets the same answer and changes nothing,
// another input under the same key is ErrIdempotencyReused.
func once[T any](ctx context.Context, s *Server, e effect, k onceKey, input any, fn func(ctx context.Context, tx *sqldb.Tx) (T, error)) (T, error) {
	var out T
	digest, err := s.inputDigest(k, input)
	if err != nil {
		return out, err
	}
	err = s.change(ctx, e, func(ctx context.Context, tx *sqldb.Tx) error {
		found, err := s.recall(ctx, tx, k, digest, &out)
		if err != nil || found {
			return err
		}
		if out, err = fn(ctx, tx); err != nil {
			return err
		}
		return s.remember(ctx, tx, k, digest, out)
	})
	if err != nil {
		var none T
		return none, err
	}
	return out, nil
}

// inputDigest is what is kept of the input of a request. It is keyed, since an
// input may hold a secret.
func (s *Server) inputDigest(k onceKey, input any) (string, error) {
	raw, err := json.Marshal([]any{k.Operation, input})
	if err != nil {
		return "", fmt.Errorf("admin: digest the input: %w", err)
	}
	return hex.EncodeToString(directory.Hash(s.tokenKey, string(raw))), nil
}

func (k onceKey) place() string { return "idempotency/" + k.Scope + "/" + k.Key }

// recall reads the answer kept under k into out and reports whether there was
// one.
func (s *Server) recall(ctx context.Context, tx *sqldb.Tx, k onceKey, digest string, out any) (bool, error) {
	if k.Key == "" {
		return false, nil
	}
	var input, answer string
	err := tx.QueryRow(ctx, "SELECT input, answer FROM admin_idempotency WHERE scope = $1 AND key = $2 AND created >= $3",
		k.Scope, k.Key, sqldb.Ms(s.now().Add(-idempotencyFor))).Scan(&input, &answer)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("admin: look for a repeated request: %w", err)
	case input != digest:
		return false, ErrIdempotencyReused
	}
	plain, err := s.box.Open(k.place(), answer)
	if err != nil {
		return false, err
	}
	return true, json.Unmarshal([]byte(plain), out)
}

// remember keeps an answer under k and forgets those that are too old.
func (s *Server) remember(ctx context.Context, tx *sqldb.Tx, k onceKey, digest string, out any) error {
	if k.Key == "" {
		return nil
	}
	plain, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("admin: keep the answer: %w", err)
	}
	if _, err := tx.Exec(ctx, "DELETE FROM admin_idempotency WHERE created < $1", sqldb.Ms(s.now().Add(-idempotencyFor))); err != nil {
		return fmt.Errorf("admin: forget old requests: %w", err)
	}
	_, err = tx.Exec(ctx, "INSERT INTO admin_idempotency (scope, key, input, answer, created) VALUES ($1, $2, $3, $4, $5)",
		k.Scope, k.Key, digest, s.box.Seal(k.place(), string(plain)), sqldb.Ms(s.now()))
	if err != nil {
		return fmt.Errorf("admin: keep the answer: %w", err)
	}
	return nil
}

// scanner is a row, of Query or QueryRow.
type scanner interface{ Scan(dst ...any) error }

// all reads every row of a query.
func all[T any](ctx context.Context, q sqldb.Querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// one reads the only row of a query; none is ErrNotFound.
func one[T any](ctx context.Context, q sqldb.Querier, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	v, err := scan(q.QueryRow(ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return v, ErrNotFound
	}
	return v, err
}

// Page says which part of a list is asked for. Lists are newest first.
type Page struct {
	Cursor string // the last id of the part before; empty for the first
	Limit  int    // 1..MaxPage; 0 means DefaultPage
}

// The sizes of a page.
const (
	DefaultPage = 50
	MaxPage     = 500
)

func (p Page) limit() int {
	if p.Limit <= 0 {
		return DefaultPage
	}
	return min(p.Limit, MaxPage)
}
