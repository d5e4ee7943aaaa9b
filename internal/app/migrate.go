package app

import (
	"context"
	"errors"
	"log/slog"

	"tollgate/admin"
	"tollgate/billing"
	"tollgate/billing/notify"
	"tollgate/internal/config"
	"tollgate/internal/jobs"
	"tollgate/internal/sqldb"
	"tollgate/metering/rating"
	"tollgate/quota/recovery"
)

// Migrate brings the SQL store to the newest schema and closes it again.
func Migrate(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	if err := dataFolder(cfg.Data); err != nil {
		return err
	}
	db, err := openSQL(ctx, cfg, log)
	if err != nil {
		return err
	}
	err = db.Migrate(ctx, billing.Migrations)
	if err == nil {
		err = db.Migrate(ctx, admin.Migrations())
	}
	if err == nil {
		err = db.Migrate(ctx, recovery.Migrations)
	}
	for _, m := range []sqldb.Migrations{jobs.Migrations, rating.Migrations, notify.Migrations} {
		if err == nil {
			err = db.Migrate(ctx, m)
		}
	}
	return errors.Join(err, db.Close())
}
