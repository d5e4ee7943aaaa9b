package recovery

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"time"

	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
	"tollgate/quota"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations are the tables of this package.
var Migrations = sqldb.Migrations{Owner: "quota", FS: migrationFiles}

// book is what is kept of the quota store in the SQL database.
type book struct{ db *sqldb.DB }

// page is the row of quota_store.
type page struct {
	generation int64
	server     string
	rebuilds   int64
	rebuilt    time.Time
	reason     string
}

func (b book) read(ctx context.Context) (p page, err error) {
	err = b.db.QueryRow(ctx, `SELECT generation, server, rebuilds, rebuilt_ms, reason FROM quota_store WHERE id = 1`).
		Scan(&p.generation, &p.server, &p.rebuilds, sqldb.Instant{Dst: &p.rebuilt}, &p.reason)
	if err != nil {
		return p, fmt.Errorf("quota: read the state of the quota store: %w", err)
	}
	return p, nil
}

// next raises the generation and returns it.
func (b book) next(ctx context.Context) (generation int64, err error) {
	err = b.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.QueryRow(ctx, `UPDATE quota_store SET generation = generation + 1 WHERE id = 1 RETURNING generation`).Scan(&generation)
	})
	if err != nil {
		return 0, fmt.Errorf("quota: raise the generation of the quota store: %w", err)
	}
	return generation, nil
}

// atLeast raises the generation to one that the store has: the database was
// put back to an earlier state.
func (b book) atLeast(ctx context.Context, generation int64) error {
	_, err := b.db.Exec(ctx, `UPDATE quota_store SET generation = $1 WHERE id = 1 AND generation < $1`, generation)
	return err
}

// claim makes owner the one to rebuild until then, and returns the generation
// the store will have; or errBusy while another has the claim.
func (b book) claim(ctx context.Context, owner string, now, until time.Time) (generation int64, err error) {
	err = b.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.QueryRow(ctx, `UPDATE quota_store SET generation = generation + 1, claimed_by = $1, claimed_until_ms = $3
			WHERE id = 1 AND (claimed_by = $1 OR claimed_until_ms <= $2) RETURNING generation`, owner, sqldb.Ms(now), sqldb.Ms(until)).Scan(&generation)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, errBusy
	}
	if err != nil {
		return 0, fmt.Errorf("quota: claim the rebuild of the quota store: %w", err)
	}
	return generation, nil
}

// renew prolongs the claim of a rebuild that takes long.
func (b book) renew(ctx context.Context, owner string, until time.Time) error {
	_, err := b.db.Exec(ctx, `UPDATE quota_store SET claimed_until_ms = $2 WHERE id = 1 AND claimed_by = $1`, owner, sqldb.Ms(until))
	return err
}

// release gives the claim up without a result.
func (b book) release(ctx context.Context, owner string) error {
	_, err := b.db.Exec(ctx, `UPDATE quota_store SET claimed_by = '', claimed_until_ms = 0 WHERE id = 1 AND claimed_by = $1`, owner)
	return err
}

// done notes which server is whole, gives the claim up, and counts the rebuild
// if it restored something.
func (b book) done(ctx context.Context, owner, server, reason string, restored bool, now time.Time) error {
	_, err := b.db.Exec(ctx, `UPDATE quota_store SET server = $2, claimed_by = '', claimed_until_ms = 0 WHERE id = 1 AND claimed_by = $1`, owner, server)
	if err == nil && restored {
		_, err = b.db.Exec(ctx, `UPDATE quota_store SET rebuilds = rebuilds + 1, rebuilt_ms = $1, reason = $2 WHERE id = 1`, sqldb.Ms(now), reason)
	}
	return err
}

// keep merges what the store said of a subscription into the book. An earlier
// state changes nothing.
func (b book) keep(ctx context.Context, cp *quota.Checkpoint) error {
	return b.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		for i := range cp.Incarnations {
			if err := keepOne(ctx, tx, cp.Subscription, &cp.Incarnations[i]); err != nil {
				return fmt.Errorf("quota: checkpoint of subscription %s: %w", cp.Subscription, err)
			}
		}
		return nil
	})
}

func keepOne(ctx context.Context, tx *sqldb.Tx, sub string, s *quota.IncarnationState) error {
	over := map[string]int64{}
	err := tx.QueryRow(ctx, `SELECT overrun FROM quota_checkpoint WHERE subscription = $1 AND node = $2 AND boot = $3`,
		sub, s.Incarnation.Node, int64(s.Incarnation.Boot)).Scan(sqldb.JSON(&over))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	for u, n := range s.Overrun {
		if n > over[usage.Unit(u).String()] {
			over[usage.Unit(u).String()] = n
		}
	}
	final := 0
	if s.Final {
		final = 1
	}
	_, err = tx.Exec(ctx, `INSERT INTO quota_checkpoint AS t (subscription, node, boot, final, overrun) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (subscription, node, boot) DO UPDATE SET overrun = excluded.overrun,
		final = CASE WHEN excluded.final > t.final THEN excluded.final ELSE t.final END`,
		sub, s.Incarnation.Node, int64(s.Incarnation.Boot), final, sqldb.JSON(over))
	if err != nil {
		return err
	}
	for _, c := range s.Counters {
		_, err := tx.Exec(ctx, `INSERT INTO quota_checkpoint_counter AS t (subscription, node, boot, lot, from_ms, granted, used, returned)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (subscription, node, boot, lot, from_ms) DO UPDATE SET
			granted = CASE WHEN excluded.granted > t.granted THEN excluded.granted ELSE t.granted END,
			used = CASE WHEN excluded.used > t.used THEN excluded.used ELSE t.used END,
			returned = CASE WHEN excluded.returned > t.returned THEN excluded.returned ELSE t.returned END`,
			sub, s.Incarnation.Node, int64(s.Incarnation.Boot), c.Lot, c.From, c.Granted, c.Used, c.Returned)
		if err != nil {
			return err
		}
	}
	return nil
}

// load returns the checkpoint of a subscription, in the order of node and boot.
func (b book) load(ctx context.Context, sub string) ([]quota.IncarnationState, error) {
	var list []quota.IncarnationState
	rows, err := b.db.Query(ctx, `SELECT node, boot, final, overrun FROM quota_checkpoint WHERE subscription = $1 ORDER BY node, boot`, sub)
	if err != nil {
		return nil, err
	}
	at := map[quota.Incarnation]int{}
	for rows.Next() {
		var s quota.IncarnationState
		var boot, final int64
		over := map[string]int64{}
		if err := rows.Scan(&s.Incarnation.Node, &boot, &final, sqldb.JSON(&over)); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		s.Incarnation.Boot, s.Final = uint64(boot), final == 1
		for u := range usage.NumUnits {
			s.Overrun[u] = over[u.String()]
		}
		at[s.Incarnation] = len(list)
		list = append(list, s)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	rows, err = b.db.Query(ctx, `SELECT node, boot, lot, from_ms, granted, used, returned FROM quota_checkpoint_counter
		WHERE subscription = $1 ORDER BY node, boot, lot, from_ms`, sub)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var i quota.Incarnation
		var boot int64
		var c quota.Counter
		if err := rows.Scan(&i.Node, &boot, &c.Lot, &c.From, &c.Granted, &c.Used, &c.Returned); err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		i.Boot = uint64(boot)
		if k, ok := at[i]; ok {
			list[k].Counters = append(list[k].Counters, c)
		}
	}
	return list, errors.Join(rows.Err(), rows.Close())
}
