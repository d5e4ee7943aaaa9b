package clickhouse

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// Store is a usage store in ClickHouse. All methods are safe for concurrent
// use, by any number of processes.
type Store struct {
	conn driver.Conn
	opt  Options
}

// Options are the settings of the store.
type Options struct {
	// Retention, MinuteRetention and RollupRetention are the TTLs of the calls,
	// of the figures per minute, and of those per hour and day; 0 keeps all.
	// ClickHouse drops parts whose rows are all too old, so rows go up to a
	// month later than asked.
	Retention, MinuteRetention, RollupRetention time.Duration
	// Cluster names the cluster on which the tables are made as replicated
	// ones; empty: one server. Replicated inserts wait for a quorum.
	Cluster string
	// Trusted is how long after its first try a batch may be left to
	// ClickHouse's own deduplication; what is older is compared row by row.
	// Default 15m.
	Trusted time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Log takes corrections; default: discarded.
	Log *slog.Logger
}

var clusterName = regexp.MustCompile(`^[A-Za-z0-9_.-]*$`)

// Schemes maps the schemes of an address to those of the client.
var schemes = map[string]string{"clickhouse": "clickhouse", "clickhouse+http": "http", "clickhouse+https": "https"}

// parse turns an address into the client's options.
func parse(address string) (*ch.Options, error) {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok || schemes[scheme] == "" {
		return nil, fmt.Errorf("the address is not one of ClickHouse: write clickhouse://user:password@host:9000/database, or clickhouse+http://…:8123/…")
	}
	o, err := ch.ParseDSN(schemes[scheme] + "://" + rest)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	if o.Compression == nil {
		o.Compression = &ch.Compression{Method: ch.CompressionLZ4}
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = 5 * time.Second
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 2 * time.Minute
	}
	o.MaxOpenConns, o.MaxIdleConns = 8, 4
	o.ConnMaxLifetime = time.Hour
	return o, nil
}

// Open connects to ClickHouse and makes what is missing of the schema.
func Open(ctx context.Context, address string, opt Options) (*Store, error) {
	if !clusterName.MatchString(opt.Cluster) {
		return nil, fmt.Errorf("metering: cluster %q: write its name as in ClickHouse's remote_servers", opt.Cluster)
	}
	if opt.Trusted == 0 {
		opt.Trusted = 15 * time.Minute
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	co, err := parse(address)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	database := co.Auth.Database
	if database == "" {
		database = "default"
	}
	conn, err := ch.Open(co)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	s := &Store{conn: conn, opt: opt}
	if err := s.conn.Ping(ctx); err == nil || !isMissing(err) {
		if err == nil {
			err = s.migrate(ctx)
		}
		if err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("metering: ClickHouse: %w", err)
		}
		return s, nil
	}
	_ = conn.Close()
	return nil, fmt.Errorf("metering: ClickHouse has no database %s: make it there (CREATE DATABASE %[1]s), or name another in the address", database)
}

func isMissing(err error) bool {
	var e *ch.Exception
	return errors.As(err, &e) && e.Code == 81 // UNKNOWN_DATABASE
}

// Close closes the connections.
func (s *Store) Close() error { return s.conn.Close() }

// ByRequest returns the record of one call, or metering.ErrNotFound.
func (s *Store) ByRequest(ctx context.Context, id ids.Request) (usage.Record, error) {
	var r usage.Record
	var body []byte
	// The id begins with the instant it was made at, which is that of
	// admission but for clocks that were set; the second look finds those.
	at := id.Time()
	near := []any{at.Add(-time.Hour).UnixMilli(), at.Add(time.Hour).UnixMilli()}
	for _, look := range []struct {
		where string
		args  []any
	}{
		{"usage_call WHERE time >= fromUnixTimestamp64Milli(?) AND time < fromUnixTimestamp64Milli(?) AND request = unhex(?) LIMIT 1", append(near, id.String())},
		{"usage_call WHERE request = unhex(?) LIMIT 1", []any{id.String()}},
		{"usage_open WHERE request = unhex(?) ORDER BY finished DESC LIMIT 1", []any{id.String()}},
	} {
		err := s.conn.QueryRow(ctx, "SELECT body FROM "+look.where, look.args...).Scan(&body)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err == nil {
			err = usage.DecodeRecord(body, &r)
		}
		if err != nil {
			return r, fmt.Errorf("metering: request %s: %w", id, err)
		}
		return r, nil
	}
	return r, metering.ErrNotFound
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
