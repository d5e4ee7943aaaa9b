package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// sqlitePragmas are set on every connection. Money needs synchronous FULL: a
// committed transaction survives power loss. The busy timeout only matters
// against other processes (a backup, tollgate migrate); within this one the
// writers queue.
var sqlitePragmas = []string{
	"busy_timeout(5000)",
	"journal_mode(WAL)",
	"synchronous(FULL)",
	"foreign_keys(1)",
}

func openSQLite(ctx context.Context, o Options) (*DB, error) {
	if o.File == "" {
		o.File = "tollgate.db"
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("data folder %q: %w", o.Dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder %s cannot be made: %w: give --data a folder that this user may write", dir, cause(err))
	}
	path := filepath.Join(dir, o.File)
	if err := probeWritable(dir, path); err != nil {
		return nil, err
	}
	q := url.Values{"_txlock": {"immediate"}, "_pragma": sqlitePragmas}
	dsn := (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}).String()
	pool, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	pool.SetMaxOpenConns(o.MaxConns)
	pool.SetMaxIdleConns(o.MaxConns)
	db := &DB{sql: pool, engine: SQLite, where: path, log: o.Logger, maxConns: o.MaxConns, writer: make(chan struct{}, 1)}
	// The first connection reads the file's header and switches it to WAL, so
	// a file that is no database, or is damaged, is told here.
	var schemaVersion int64
	if err := pool.QueryRowContext(ctx, "PRAGMA schema_version").Scan(&schemaVersion); err != nil {
		pool.Close()
		return nil, explainSQLite(path, err)
	}
	return db, nil
}

// probeWritable tells, before SQLite's own short messages would, that the
// folder or the file cannot be written.
func probeWritable(dir, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		if errors.Is(err, syscall.EISDIR) {
			return fmt.Errorf("database file %s is a folder: move it away or give --data another folder", path)
		}
		return fmt.Errorf("database file %s cannot be written: %w: give this user write permission on it, or --data another folder", path, cause(err))
	}
	f.Close()
	// WAL keeps two files beside the database, so the folder must be writable
	// even where the file already is.
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return fmt.Errorf("data folder %s cannot be written: %w: give this user write permission on it, or --data another folder", dir, cause(err))
	}
	probe.Close()
	return os.Remove(probe.Name())
}

func explainSQLite(path string, err error) error {
	switch sqliteCode(err) {
	case 26: // SQLITE_NOTADB
		return fmt.Errorf("%s is not a SQLite database: move it away or give --data another folder: %w", path, err)
	case 11: // SQLITE_CORRUPT
		return fmt.Errorf("database file %s is damaged: restore it from a backup: %w", path, err)
	case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
		return fmt.Errorf("database file %s is locked by another process: stop that one or give --data another folder: %w", path, err)
	case 13: // SQLITE_FULL
		return fmt.Errorf("the disk of %s is full: free some space: %w", path, err)
	default:
		return fmt.Errorf("open database file %s: %w", path, err)
	}
}

// cause strips the path from a file error whose text already names it.
func cause(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
