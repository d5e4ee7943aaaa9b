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
	"tollgate/internal/sqldb"
	"tollgate/metering"
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

func openUsage(ctx context.Context, cfg config.Config, now func() time.Time) (*metering.Store, error) {
	path := filepath.Join(cfg.Data, "usage.db")
	// SQLite gives its other files the mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("usage store: %w", err)
	}
	s, err := metering.OpenStore(ctx, path, metering.StoreOptions{Retention: cfg.Usage.Retention, Now: now})
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
