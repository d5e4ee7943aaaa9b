package billing

import (
	"context"
	"fmt"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// Crossing says that what remained of a subscription's packages reached a
// level. The quota store records it in the step that caused it, and delivers it
// at least once; it is kept here once, by its id, before the store may forget
// it.
type Crossing struct {
	ID           string // the quota store's: subscription/unit/level/arm
	Subscription string
	Unit         usage.Unit
	Level        Level
	Arm          int64 // how often the level was armed, from 1 (ALERT-20)
	Remaining    int64
	Total        int64
	At           time.Time // by the quota store's clock
	Received     time.Time
	position     string
}

// RecordCrossings keeps crossings and returns how many were new. In the same
// transaction the buyer's notice of each is posted and its repurchase becomes
// due: once, however often a crossing is told. When it returns nil all of that
// is durable, and the crossings may be acknowledged.
func (s *Service) RecordCrossings(ctx context.Context, list []Crossing) (fresh int, err error) {
	told := s.tellings(ctx, list)
	err = s.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		fresh = 0
		now := s.instant()
		for _, c := range list {
			res, err := tx.Exec(ctx, `INSERT INTO billing_crossing (id, crossing, subscription, unit, kind, value, arm, remaining, total, at_ms, received_ms)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (crossing) DO NOTHING`,
				ids.New(now), c.ID, c.Subscription, c.Unit.String(), string(c.Level.Kind), c.Level.Value, c.Arm, c.Remaining, c.Total, sqldb.Ms(c.At), sqldb.Ms(now))
			if err != nil {
				return fmt.Errorf("crossing %s: %w", c.ID, err)
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			fresh += int(n)
			if n == 0 {
				continue
			}
			if err := s.crossed(ctx, tx, c, told[c.ID], now); err != nil {
				return fmt.Errorf("crossing %s: %w", c.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("record crossings: %w", err)
	}
	if fresh > 0 {
		s.wakeBuyer()
	}
	return fresh, nil
}

// CrossingFilter narrows a list of crossings; empty fields do not.
type CrossingFilter struct {
	Subscription string
	Page         Page
}

// Crossings lists crossings in the order of their arrival, the newest first, and
// the cursor of the next part, which is empty at the end.
func (s *Service) Crossings(ctx context.Context, f CrossingFilter) ([]Crossing, string, error) {
	var cond filter
	cond.addIf("subscription = $?", f.Subscription)
	return list(ctx, s.db, "crossing", `SELECT id, crossing, subscription, unit, kind, value, arm, remaining, total, at_ms, received_ms FROM billing_crossing`,
		cond, f.Page, scanCrossing, func(c Crossing) string { return c.position })
}

func scanCrossing(row scanner) (Crossing, error) {
	var c Crossing
	var unit string
	err := row.Scan(&c.position, &c.ID, &c.Subscription, &unit, &c.Level.Kind, &c.Level.Value, &c.Arm, &c.Remaining, &c.Total,
		sqldb.Instant{Dst: &c.At}, sqldb.Instant{Dst: &c.Received})
	if err == nil {
		c.Unit, err = usage.ParseUnit(unit)
	}
	return c, err
}
