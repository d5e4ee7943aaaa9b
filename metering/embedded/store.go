package embedded

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
	"tollgate/metering"
)

// Store is the embedded usage store. All methods are safe for concurrent use.
type Store struct {
	db  *sql.DB
	opt Options

	write sync.Mutex // one transaction at a time
	dims  dims

	beforeCommit func() error // tests put faults here
}

// Options are the settings of the store.
type Options struct {
	// Retention is how long the record of a call is kept after its admission;
	// 0 keeps all. Prune removes what is older, but nothing that arrived within
	// the last day, so that a batch which is sent again finds its rows.
	Retention time.Duration
	// MinuteRetention is how long figures per minute are kept; 0 keeps all.
	MinuteRetention time.Duration
	// RollupRetention is how long figures per hour and day are kept; 0 keeps
	// all.
	RollupRetention time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Validate returns every fault of the settings.
func (o *Options) Validate() error {
	var errs []error
	for _, r := range []struct {
		name string
		d    time.Duration
	}{{"retention", o.Retention}, {"minute retention", o.MinuteRetention}, {"rollup retention", o.RollupRetention}} {
		if r.d < 0 {
			errs = append(errs, fmt.Errorf("metering: %s %s is negative: give 0 to keep everything", r.name, r.d))
		}
	}
	return errors.Join(errs...)
}

// Open opens the store in the file path, which it makes if needed.
func Open(ctx context.Context, path string, opt Options) (*Store, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	// FULL: what Insert has confirmed is acknowledged to the journal, which may
	// then remove it, so it must survive a crash of the machine.
	q := url.Values{"_pragma": {
		"auto_vacuum(incremental)", "journal_mode(wal)", "synchronous(full)", "busy_timeout(5000)", "cache_size(-32768)",
	}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("metering: open %s: %w", path, err)
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	s := &Store{db: db, opt: opt}
	if err = s.migrate(ctx); err == nil {
		err = s.dims.load(ctx, db)
	}
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("metering: open %s: %w", path, err)
	}
	return s, nil
}

// Close closes the file.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.db.Close()
}

// ByRequest returns the record of one call, or metering.ErrNotFound.
func (s *Store) ByRequest(ctx context.Context, id ids.Request) (usage.Record, error) {
	var r usage.Record
	var body []byte
	err := s.db.QueryRowContext(ctx, "SELECT body FROM call WHERE request = $1", id[:]).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return r, metering.ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("metering: request %s: %w", id, err)
	}
	if err := usage.DecodeRecord(body, &r); err != nil {
		return r, fmt.Errorf("metering: request %s: %w", id, err)
	}
	return r, nil
}

// kept says what queries can rely on.
func (s *Store) kept() (k metering.Kept) {
	for l, d := range map[metering.Level]time.Duration{
		metering.Raw: s.opt.Retention, metering.Minute: s.opt.MinuteRetention, metering.Hour: s.opt.RollupRetention, metering.Day: s.opt.RollupRetention,
	} {
		if d > 0 {
			k[l] = s.opt.Now().Add(-d).UnixMilli()
		}
	}
	return k
}
