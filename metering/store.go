package metering

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// Store is the embedded usage store: one SQLite file of its own, written by
// one process. All methods are safe for concurrent use.
type Store struct {
	db  *sql.DB
	opt StoreOptions

	write sync.Mutex       // one transaction at a time
	names map[string]int64 // what the table name holds; guarded by write
}

// StoreOptions are the settings of the embedded store.
type StoreOptions struct {
	// Retention is how long a record is kept after its admission; 0 keeps all.
	// Prune removes what is older. A record that is sent again after it was
	// pruned comes back until the next Prune.
	Retention time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// schema is the whole of version 1. Ids are kept once, in name, and referred
// to by number, which makes the rows that sums run over about 100 bytes.
//
// call is clustered by time, the range every query has; the two indexes serve
// a buyer's own figures. The model is a text because clients choose it: name
// would grow without bound. record holds the whole record and makes the
// request id unique (METER-12).
const schema = `
CREATE TABLE name (
	id    INTEGER PRIMARY KEY,
	value TEXT NOT NULL UNIQUE
);
CREATE TABLE record (
	request  BLOB PRIMARY KEY,
	time     INTEGER NOT NULL,
	finished INTEGER NOT NULL,
	flags    INTEGER NOT NULL,
	body     BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE call (
	time INTEGER NOT NULL, request BLOB NOT NULL,
	account INTEGER NOT NULL, subscription INTEGER NOT NULL, product INTEGER NOT NULL, api INTEGER NOT NULL,
	credential INTEGER NOT NULL, application INTEGER NOT NULL, region INTEGER NOT NULL, node INTEGER NOT NULL,
	status INTEGER NOT NULL, basis INTEGER NOT NULL, flags INTEGER NOT NULL,
	cached INTEGER NOT NULL, reasoning INTEGER NOT NULL, bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL, total_ns INTEGER NOT NULL,
	u0 INTEGER NOT NULL, u1 INTEGER NOT NULL, u2 INTEGER NOT NULL, u3 INTEGER NOT NULL, u4 INTEGER NOT NULL, u5 INTEGER NOT NULL, u6 INTEGER NOT NULL,
	c0 INTEGER NOT NULL, c1 INTEGER NOT NULL, c2 INTEGER NOT NULL, c3 INTEGER NOT NULL, c4 INTEGER NOT NULL, c5 INTEGER NOT NULL, c6 INTEGER NOT NULL,
	o0 INTEGER NOT NULL, o1 INTEGER NOT NULL, o2 INTEGER NOT NULL, o3 INTEGER NOT NULL, o4 INTEGER NOT NULL, o5 INTEGER NOT NULL, o6 INTEGER NOT NULL,
	model TEXT NOT NULL,
	PRIMARY KEY (time, request)
) WITHOUT ROWID;
CREATE INDEX call_subscription ON call (subscription, time);
CREATE INDEX call_account ON call (account, time);
PRAGMA user_version = 1;
`

const schemaVersion = 1

// OpenStore opens the store in the file path, which it makes if needed.
func OpenStore(ctx context.Context, path string, opt StoreOptions) (*Store, error) {
	if opt.Retention < 0 {
		return nil, fmt.Errorf("metering: retention %s is negative: give 0 to keep everything", opt.Retention)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	// FULL: what Insert has confirmed is acknowledged to the journal, which may
	// then remove it, so it must survive a crash of the machine.
	q := url.Values{"_pragma": {
		"auto_vacuum(incremental)", "journal_mode(wal)", "synchronous(full)", "busy_timeout(5000)", "cache_size(-16384)",
	}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("metering: open %s: %w", path, err)
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	s := &Store{db: db, opt: opt, names: map[string]int64{}}
	if err := s.migrate(ctx); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("metering: open %s: %w", path, err)
	}
	return s, nil
}

func (s *Store) migrate(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // no-op after Commit
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	switch {
	case version > schemaVersion:
		return fmt.Errorf("its schema is version %d and this Tollgate knows %d: use the newer Tollgate, or another data folder", version, schemaVersion)
	case version == 0:
		if _, err := tx.ExecContext(ctx, schema); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Close closes the file.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.db.Close()
}

// ByRequest returns the record of one call, or ErrNotFound.
func (s *Store) ByRequest(ctx context.Context, id ids.Request) (usage.Record, error) {
	var r usage.Record
	var body []byte
	err := s.db.QueryRowContext(ctx, "SELECT body FROM record WHERE request = $1", id[:]).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return r, ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("metering: request %s: %w", id, err)
	}
	if err := usage.DecodeRecord(body, &r); err != nil {
		return r, fmt.Errorf("metering: request %s: %w", id, err)
	}
	return r, nil
}

// Prune removes the records that are older than the retention and returns
// their number. It works in small steps, between which records are inserted.
func (s *Store) Prune(ctx context.Context) (int64, error) {
	if s.opt.Retention == 0 {
		return 0, nil
	}
	before := s.opt.Now().Add(-s.opt.Retention).UnixMilli()
	var removed int64
	for {
		n, err := s.pruneSome(ctx, before, 5000)
		removed += n
		if err != nil {
			return removed, fmt.Errorf("metering: prune: %w", err)
		}
		if n == 0 {
			return removed, nil
		}
	}
}

func (s *Store) pruneSome(ctx context.Context, before int64, most int) (int64, error) {
	s.write.Lock()
	defer s.write.Unlock()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() //nolint:errcheck // no-op after Commit
	// A step ends at an instant, so that both tables find its rows by a range.
	var first, cut int64
	err = tx.QueryRowContext(ctx, "SELECT min(time) FROM call WHERE time < $1 HAVING min(time) IS NOT NULL", before).Scan(&first)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx, "SELECT time FROM call WHERE time < $1 ORDER BY time LIMIT 1 OFFSET $2", before, most).Scan(&cut)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		cut = before
	case err != nil:
		return 0, err
	}
	cut = max(cut, first+1)
	if _, err := tx.ExecContext(ctx, "DELETE FROM record WHERE request IN (SELECT request FROM call WHERE time < $1)", cut); err != nil {
		return 0, err
	}
	res, err := tx.ExecContext(ctx, "DELETE FROM call WHERE time < $1", cut)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	if n > 0 {
		_, err = s.db.ExecContext(ctx, "PRAGMA incremental_vacuum(1000)")
	}
	return n, err
}
