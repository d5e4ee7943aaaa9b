package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Limits of running a transaction again.
const (
	retryFor     = 15 * time.Second // after the first run
	retryAtMost  = 100
	backoffFirst = time.Millisecond
	backoffMost  = 100 * time.Millisecond
)

// Tx is a running transaction. It belongs to the goroutine that runs the
// function it was passed to and ends with it.
type Tx struct {
	tx       *sql.Tx
	readOnly bool
	after    []func()
}

// Exec runs one statement. In a snapshot it is ErrReadOnly.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if tx.readOnly {
		return nil, ErrReadOnly
	}
	return tx.tx.ExecContext(ctx, query, args...)
}

// Query reads rows. They must be closed before the next statement.
func (tx *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return tx.tx.QueryContext(ctx, query, args...)
}

// QueryRow reads at most one row.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.tx.QueryRowContext(ctx, query, args...)
}

// AfterCommit has f called once the transaction is committed, in the order of
// the calls, and not at all if it is rolled back.
func (tx *Tx) AfterCommit(f func()) { tx.after = append(tx.after, f) }

// InTx runs fn in a transaction that behaves as if it ran alone, commits when
// fn returns nil and rolls back otherwise. When the database refuses because of
// a concurrent transaction, fn is run again from the start, for up to 15 s: it
// must have no effects but through tx.
//
// The context passed to fn is the one to use within it.
func (db *DB) InTx(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return db.inTx(ctx, sql.TxOptions{Isolation: sql.LevelSerializable}, fn)
}

// InLockingTx is InTx for code that locks, by an UPDATE, each row its decisions
// rest on before it reads it. PostgreSQL then runs it as READ COMMITTED: it
// waits for a hot row instead of running again. Locks are taken in one agreed
// order, or the database ends a deadlock and fn runs again.
func (db *DB) InLockingTx(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return db.inTx(ctx, sql.TxOptions{Isolation: sql.LevelReadCommitted}, fn)
}

// InSnapshot runs fn on the database as it is at one instant, for reading
// several tables that belong together. It neither waits for writers nor holds
// them up, however long it takes.
func (db *DB) InSnapshot(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return db.inTx(ctx, sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, fn)
}

func (db *DB) inTx(ctx context.Context, options sql.TxOptions, fn func(ctx context.Context, tx *Tx) error) error {
	if err := notNested(ctx, db); err != nil {
		return err
	}
	inner := context.WithValue(ctx, txKey{db}, true)
	start := time.Now()
	for attempt := 1; ; attempt++ {
		tx, err := db.runOnce(inner, options, fn)
		if err == nil {
			if attempt > 2 {
				db.log.Info("transaction committed after retries", "attempts", attempt, "took", time.Since(start))
			}
			for _, f := range tx.after {
				f()
			}
			return nil
		}
		if stale := (*staleError)(nil); errors.As(err, &stale) && attempt <= db.maxConns+1 {
			continue // the next connection of the pool, or a new one
		}
		if !retryable(err) {
			return err
		}
		if attempt == retryAtMost || time.Since(start) > retryFor {
			return fmt.Errorf("gave up after %d tries against concurrent transactions: %w", attempt, err)
		}
		if waitErr := backoff(ctx, attempt); waitErr != nil {
			return errors.Join(waitErr, err)
		}
	}
}

func (db *DB) runOnce(ctx context.Context, options sql.TxOptions, fn func(ctx context.Context, tx *Tx) error) (*Tx, error) {
	if !options.ReadOnly {
		release, err := db.acquireWriter(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	if db.engine == SQLite {
		options.Isolation = sql.LevelDefault // it knows one level only, which is serializable
	}
	raw, err := db.sql.BeginTx(ctx, &options)
	if err != nil {
		err = fmt.Errorf("begin a transaction: %w", err)
		if db.engine == Postgres && ctx.Err() == nil && !errors.As(err, new(*pgconn.ConnectError)) {
			return nil, &staleError{err}
		}
		return nil, err
	}
	// Also reached by a panic in fn: the connection must not keep its locks.
	defer raw.Rollback()
	tx := &Tx{tx: raw, readOnly: options.ReadOnly}
	if err := fn(ctx, tx); err != nil {
		return nil, err
	}
	if err := raw.Commit(); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	return tx, nil
}

// staleError is a BEGIN that failed on a pooled connection, most likely because
// the server was restarted. Nothing was done yet, so another one may be tried.
type staleError struct{ err error }

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Unwrap() error { return e.err }

// backoff waits a random time that grows with the number of attempts, so that
// transactions that collided do not meet again.
func backoff(ctx context.Context, attempt int) error {
	most := min(backoffFirst<<min(attempt, 10), backoffMost)
	timer := time.NewTimer(rand.N(most) + 1)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// txKey marks a context as belonging to a transaction of a database.
type txKey struct{ db *DB }

func notNested(ctx context.Context, db *DB) error {
	if ctx.Value(txKey{db}) != nil {
		return ErrNested
	}
	return nil
}
