package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"
)

// Engine names the database engine behind a DB.
type Engine string

// The engines.
const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
)

// Embedded is the store address of the SQLite file in the data folder.
const Embedded = "embedded"

// Options say which database to open.
type Options struct {
	// URL is "embedded" (the default) or postgres://user:password@host/database,
	// the value of TOLLGATE_SQL_STORE.
	URL string

	// Dir is the data folder of the embedded database. It is made if missing.
	Dir string

	// File is the name of the embedded database in Dir; default "tollgate.db".
	File string

	// MaxConns bounds the open connections; default 16.
	MaxConns int

	// Logger gets a line for each transaction that was run again more than
	// once and for each migration applied; nil discards them.
	Logger *slog.Logger
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	sql    *sql.DB
	engine Engine
	where  string // address or path for error texts, never with a password
	log    *slog.Logger

	maxConns int

	// writer is held by the one writing transaction of a SQLite file, so that
	// writers of this process queue in order instead of polling for the lock.
	// It is nil for PostgreSQL.
	writer chan struct{}
}

// Querier runs statements: a DB outside a transaction, a Tx within one.
type Querier interface {
	Exec(ctx context.Context, query string, args ...any) (sql.Result, error)
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}

// Open opens the database named by o and makes sure that it answers. Errors
// name the setting or the permission to change.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxConns <= 0 {
		o.MaxConns = 16
	}
	scheme, _, _ := strings.Cut(o.URL, ":")
	switch {
	case o.URL == "" || o.URL == Embedded:
		return openSQLite(ctx, o)
	case scheme == "postgres" || scheme == "postgresql":
		return openPostgres(ctx, o)
	default:
		return nil, fmt.Errorf("SQL store %q is not known: set TOLLGATE_SQL_STORE to embedded or to postgres://user:password@host:5432/database", scheme)
	}
}

// Close closes the database. Running transactions fail.
func (db *DB) Close() error { return db.sql.Close() }

// Engine tells which engine db runs on, for diagnostics: no caller builds a
// statement by it.
func (db *DB) Engine() Engine { return db.engine }

// Where returns the address or path of the database, without a password.
func (db *DB) Where() string { return db.where }

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.sql.PingContext(ctx); err != nil {
		return fmt.Errorf("SQL store %s does not answer: %w", db.where, err)
	}
	return nil
}

// Exec runs one statement in a transaction of its own.
func (db *DB) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := notNested(ctx, db); err != nil {
		return nil, err
	}
	release, err := db.acquireWriter(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return db.sql.ExecContext(ctx, query, args...)
}

// Query reads rows outside a transaction. Statements that write belong into
// Exec or a transaction.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return db.sql.QueryContext(ctx, query, args...)
}

// QueryRow reads at most one row outside a transaction.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return db.sql.QueryRowContext(ctx, query, args...)
}

// acquireWriter waits for the turn to write and returns the function that ends
// it. It returns at once for PostgreSQL.
func (db *DB) acquireWriter(ctx context.Context) (release func(), err error) {
	if db.writer == nil {
		return func() {}, nil
	}
	select {
	case db.writer <- struct{}{}:
		return func() { <-db.writer }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting to write to %s: %w", db.where, context.Cause(ctx))
	}
}
