package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Migrations are the schema changes of one owner, a package with tables of its
// own in the database. Owners are independent: each has its own history.
type Migrations struct {
	// Owner is the package's name; the history is kept in owner_schema.
	Owner string

	// FS holds 00001_name.sql, 00002_… at its root or in the folder
	// "migrations", each in one SQL text for both engines, beginning with
	// "-- +goose Up". A file that was released is never changed.
	FS fs.FS
}

// Migrate brings the owner's tables to the newest schema, one migration in one
// transaction each. Several processes may do so at once: one at a time works,
// the others wait. A database that a newer binary has already changed is
// ErrNewerSchema.
func (db *DB) Migrate(ctx context.Context, m Migrations) error {
	provider, err := db.provider(m)
	if err != nil {
		return err
	}
	release, err := db.acquireWriter(ctx)
	if err != nil {
		return err
	}
	defer release()
	unlock, err := db.lockFile(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// GetVersions makes the history table on first use, so a missing right to
	// create tables shows here.
	current, newest, err := provider.GetVersions(ctx)
	if err != nil {
		return db.explainMigrate(m.Owner, err)
	}
	if current > newest {
		return fmt.Errorf("%w: the %s tables in %s have schema %d, this binary knows up to %d: run the newer binary, or restore the backup made before the upgrade",
			ErrNewerSchema, m.Owner, db.where, current, newest)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return db.explainMigrate(m.Owner, err)
	}
	for _, r := range results {
		db.log.Info("schema migrated", "owner", m.Owner, "version", r.Source.Version, "took", r.Duration)
	}
	return nil
}

// SchemaVersions returns the owner's schema version in the database and the
// newest that this binary knows.
func (db *DB) SchemaVersions(ctx context.Context, m Migrations) (current, newest int64, err error) {
	provider, err := db.provider(m)
	if err != nil {
		return 0, 0, err
	}
	return provider.GetVersions(ctx)
}

// migrateWait bounds the wait for another process that migrates the same file.
const migrateWait = time.Minute

// lockFile keeps other processes from migrating the same SQLite file, for which
// the migration runner has no lock of its own. It returns at once for
// PostgreSQL, where an advisory lock does that.
func (db *DB) lockFile(ctx context.Context) (unlock func(), err error) {
	if db.engine != SQLite {
		return func() {}, nil
	}
	path := db.where + ".migrate"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock file %s cannot be written: %w: give this user write permission on its folder", path, cause(err))
	}
	ctx, cancel := context.WithTimeout(ctx, migrateWait)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil // which also unlocks it
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := backoff(ctx, attempt); err != nil {
			f.Close()
			return nil, fmt.Errorf("another process has been changing the schema of %s for too long: wait for it to end: %w", db.where, err)
		}
	}
}

func (db *DB) provider(m Migrations) (*goose.Provider, error) {
	fsys := m.FS
	if _, err := fs.Stat(fsys, "migrations"); err == nil {
		if fsys, err = fs.Sub(fsys, "migrations"); err != nil {
			return nil, fmt.Errorf("migrations of %s: %w", m.Owner, err)
		}
	}
	options := []goose.ProviderOption{
		goose.WithTableName(m.Owner + "_schema"),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()),
	}
	dialect := goose.DialectSQLite3
	if db.engine == Postgres {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60), lock.WithUnlockTimeout(1, 60))
		if err != nil {
			return nil, fmt.Errorf("migrations of %s: %w", m.Owner, err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	p, err := goose.NewProvider(dialect, db.sql, fsys, options...)
	if err != nil {
		return nil, fmt.Errorf("migrations of %s: %w", m.Owner, err)
	}
	return p, nil
}

func (db *DB) explainMigrate(owner string, err error) error {
	switch {
	case sqlState(err) == "42501" || strings.Contains(err.Error(), "permission denied"):
		return fmt.Errorf("the database user may not create the %s tables in %s: GRANT CREATE, USAGE ON SCHEMA public to it, or make it the owner of the database: %w", owner, db.where, err)
	case sqliteCode(err) == 8: // SQLITE_READONLY
		return fmt.Errorf("database file %s cannot be written: give this user write permission on it and its folder: %w", db.where, err)
	default:
		return fmt.Errorf("migrate the %s tables in %s: %w", owner, db.where, err)
	}
}
