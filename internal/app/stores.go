package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/config"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/metering/clickhouse"
	embeddedusage "tollgate/metering/embedded"
	"tollgate/quota"
	"tollgate/quota/embedded"
	"tollgate/quota/redisstore"
)

// quotaStore is a quota store that can be closed.
type quotaStore interface {
	quota.Store
	Close() error
}

func openQuota(ctx context.Context, cfg config.Config, log *slog.Logger, now func() time.Time) (quotaStore, error) {
	if cfg.Quota.Store.Reveal() == config.Embedded {
		s, err := embedded.Open(filepath.Join(cfg.Data, "quota"), embedded.Options{Now: now, Log: log})
		if err != nil {
			return nil, fmt.Errorf("quota store: %w", err)
		}
		return s, nil
	}
	// The client's own lines would stand beside ours on standard error.
	redis.SetLogger(redisLog{log})
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := redisstore.Open(ctx, cfg.Quota.Store.Reveal(), redisstore.Options{})
	if err != nil {
		return nil, hint(fmt.Errorf("quota store %s: %w", cfg.Quota.Store, err), "start it, or correct TOLLGATE_QUOTA_STORE")
	}
	return s, nil
}

func openSQL(ctx context.Context, cfg config.Config, log *slog.Logger) (*sqldb.DB, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return sqldb.Open(ctx, sqldb.Options{URL: cfg.SQL.Store.Reveal(), Dir: cfg.Data, Logger: log})
}

// usageStore is a usage store as the roles use it.
type usageStore interface {
	metering.Sink
	Query(ctx context.Context, in metering.QueryInput) (metering.Result, error)
	List(ctx context.Context, in metering.ListInput) (metering.Page, error)
	ByRequest(ctx context.Context, id ids.Request) (usage.Record, error)
	// Prune removes what is past its retention and tells how many rows.
	Prune(ctx context.Context) (int64, error)
	Close() error
}

// openUsage opens the usage store: the embedded one in the data folder, or
// ClickHouse.
func openUsage(ctx context.Context, cfg config.Config, log *slog.Logger, now func() time.Time) (usageStore, error) {
	u := cfg.Usage
	if u.Store.Reveal() != config.Embedded {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		s, err := clickhouse.Open(ctx, u.Store.Reveal(), clickhouse.Options{
			Retention: u.Retention, MinuteRetention: u.MinuteRetention, RollupRetention: u.RollupRetention,
			Cluster: u.Cluster, Now: now, Log: log,
		})
		if err != nil {
			return nil, hint(fmt.Errorf("usage store %s: %w", u.Store, err), "start it, or correct TOLLGATE_USAGE_STORE")
		}
		return s, nil
	}
	path := filepath.Join(cfg.Data, "usage.db")
	// SQLite gives its other files the mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("usage store: %w", err)
	}
	s, err := embeddedusage.Open(ctx, path, embeddedusage.Options{
		Retention: u.Retention, MinuteRetention: u.MinuteRetention, RollupRetention: u.RollupRetention, Now: now,
	})
	if err != nil {
		return nil, fmt.Errorf("usage store: %w", err)
	}
	return s, nil
}

// redisLog takes the Redis client's messages at debug level: each failure is
// told by whoever asked.
type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(_ context.Context, format string, args ...any) {
	l.log.Debug("redis client", "message", fmt.Sprintf(format, args...))
}
