package billing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// LevelKind tells how a level is compared with what remains (ALERT-8, ALERT-21).
type LevelKind string

// The kinds of level.
const (
	LevelPercent  LevelKind = "percent"  // of the total of the open packages, 1..99
	LevelAbsolute LevelKind = "absolute" // in units
)

// Level is an amount left in a subscription's packages that somebody wants to
// be told of.
type Level struct {
	Kind  LevelKind `json:"kind"`
	Value int64     `json:"value"`
}

// Told is the newest crossing of a level that is on record here: a quota store
// that lost its state must not use its id again.
type Told struct {
	Level
	Arm int64
	// Rearmed says that lots were bought or changed since, which may have armed
	// the level again.
	Rearmed bool
}

// maxLevels bounds the levels of one unit: each is compared at every report of
// every gateway.
const maxLevels = 16

// Thresholds are the levels watched on one unit of a subscription. "Used up",
// absolute 0, always is one of them (ALERT-24).
type Thresholds struct {
	Subscription string
	Unit         usage.Unit
	Version      int64   // 0: never set
	Levels       []Level // that somebody set
	Derived      []Level // that follow from alerts and auto-repurchase
	Delivered    bool    // the quota store has this version
	ChangedBy    string
	Told         []Told // filled in for the quota store alone
	Updated      time.Time
}

// WatchStore is the quota store as the keeper of thresholds.
type WatchStore interface {
	// SetThresholds makes the store watch All levels of t and "used up". A
	// version that the store has, or an older one, changes nothing and is no
	// error. Levels that stay keep their state.
	SetThresholds(ctx context.Context, t Thresholds) error
}

// ThresholdChange replaces the levels of one unit.
type ThresholdChange struct {
	Subscription string
	Unit         usage.Unit
	Levels       []Level
	Actor        string
}

func (c *ThresholdChange) validate(sub *Subscription) error {
	var faults []error
	if !slices.Contains(sub.Units, c.Unit) {
		faults = append(faults, fmt.Errorf("unit %s: the subscription is charged in %s", c.Unit, unitKey(sub.Units)))
	}
	if len(c.Levels) > maxLevels {
		faults = append(faults, fmt.Errorf("%d levels: give at most %d", len(c.Levels), maxLevels))
	}
	for i, l := range c.Levels {
		switch {
		case l.Kind == LevelPercent && (l.Value < 1 || l.Value > 99):
			faults = append(faults, fmt.Errorf("level %d%%: give 1..99", l.Value))
		case l.Kind == LevelAbsolute && (l.Value < 0 || l.Value > lot.MaxAmount):
			faults = append(faults, fmt.Errorf("level of %d units: give 0..%d", l.Value, int64(lot.MaxAmount)))
		case l.Kind != LevelPercent && l.Kind != LevelAbsolute:
			faults = append(faults, fmt.Errorf("kind of level %q: give percent or absolute", l.Kind))
		case slices.Contains(c.Levels[:i], l):
			faults = append(faults, fmt.Errorf("level %s %d is given twice", l.Kind, l.Value))
		}
	}
	return invalid(faults)
}

// SetThresholds replaces the levels of one unit of a subscription. They are
// compared at once, and again whenever units are used or bought (ALERT-14).
func (s *Service) SetThresholds(ctx context.Context, in ThresholdChange) (Thresholds, error) {
	t := Thresholds{Subscription: in.Subscription, Unit: in.Unit, Levels: in.Levels, ChangedBy: in.Actor}
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		sub, err := lockSubscription(ctx, tx, in.Subscription)
		if err != nil {
			return err
		}
		if sub.State == directory.SubscriptionClosed {
			return ErrSubscriptionClosed
		}
		if err := in.validate(&sub); err != nil {
			return err
		}
		t.Updated = s.instant()
		if t.Derived, err = derivedLevels(ctx, tx, sub.ID); err != nil {
			return err
		}
		return setThresholds(ctx, tx, &t)
	})
	if err != nil {
		return Thresholds{}, fmt.Errorf("set the thresholds of subscription %s: %w", in.Subscription, err)
	}
	inline, cancel := context.WithTimeout(context.WithoutCancel(ctx), inlineDeliverMs*time.Millisecond)
	defer cancel()
	t.Delivered = s.watch(inline, t) == nil
	s.wake()
	return t, nil
}

// setThresholds records t as the next version.
func setThresholds(ctx context.Context, tx *sqldb.Tx, t *Thresholds) error {
	levels, err := json.Marshal(slices.Concat([]Level{}, t.Levels))
	if err != nil {
		return err
	}
	derived, err := json.Marshal(slices.Concat([]Level{}, t.Derived))
	if err != nil {
		return err
	}
	return tx.QueryRow(ctx, `INSERT INTO billing_threshold (subscription, unit, version, levels, derived, delivered_version, changed_by, updated_ms)
		VALUES ($1, $2, 1, $3, $4, 0, $5, $6) ON CONFLICT (subscription, unit)
		DO UPDATE SET version = billing_threshold.version + 1, levels = excluded.levels, derived = excluded.derived,
		changed_by = excluded.changed_by, updated_ms = excluded.updated_ms
		RETURNING version`, t.Subscription, t.Unit.String(), string(levels), string(derived), t.ChangedBy, sqldb.Ms(t.Updated)).Scan(&t.Version)
}

// derivedLevels returns the levels that the alerts on what was bought into a
// subscription, and its auto-repurchase, want watched.
func derivedLevels(ctx context.Context, q sqldb.Querier, subscription string) ([]Level, error) {
	return collect(ctx, q, func(row scanner) (Level, error) {
		var l Level
		return l, row.Scan(&l.Kind, &l.Value)
	}, `SELECT a.kind, a.value FROM billing_alert a WHERE a.enabled AND EXISTS
			(SELECT 1 FROM billing_order o WHERE o.subscription = $1 AND o.account = a.account AND o.series = a.series)
		UNION SELECT r.kind, r.value FROM billing_repurchase r WHERE r.subscription = $1 AND r.state <> 'off'
		ORDER BY 1, 2`, subscription)
}

// derive brings the watched levels of a subscription in line with its alerts
// and its auto-repurchase, if they are not. The caller holds the subscription's
// lock, so that two that change them do not overlook each other.
func derive(ctx context.Context, tx *sqldb.Tx, sub *Subscription, actor string, now time.Time) error {
	want, err := derivedLevels(ctx, tx, sub.ID)
	if err != nil {
		return fmt.Errorf("levels of subscription %s: %w", sub.ID, err)
	}
	have, err := collect(ctx, tx, scanThresholds, thresholdColumns+" WHERE subscription = $1", sub.ID)
	if err != nil {
		return err
	}
	for _, u := range sub.Units {
		t := Thresholds{Subscription: sub.ID, Unit: u}
		known := false
		if i := slices.IndexFunc(have, func(t Thresholds) bool { return t.Unit == u }); i >= 0 {
			t, known = have[i], true
		}
		if known && slices.Equal(t.Derived, want) {
			continue
		}
		t.Derived, t.ChangedBy, t.Updated = want, actor, now
		if err := setThresholds(ctx, tx, &t); err != nil {
			return err
		}
	}
	return nil
}

// All returns every level of t, each once.
func (t *Thresholds) All() []Level {
	all := slices.Clone(t.Levels)
	for _, l := range t.Derived {
		if !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

const thresholdColumns = `SELECT subscription, unit, version, levels, derived, delivered_version = version, changed_by, updated_ms FROM billing_threshold`

func scanThresholds(row scanner) (Thresholds, error) {
	var t Thresholds
	var unit, levels, derived string
	err := row.Scan(&t.Subscription, &unit, &t.Version, &levels, &derived, &t.Delivered, &t.ChangedBy, sqldb.Instant{Dst: &t.Updated})
	if err == nil {
		err = json.Unmarshal([]byte(levels), &t.Levels)
	}
	if err == nil {
		err = json.Unmarshal([]byte(derived), &t.Derived)
	}
	if err == nil {
		t.Unit, err = usage.ParseUnit(unit)
	}
	return t, err
}

// Thresholds returns the levels of every unit of a subscription that were set.
func (s *Service) Thresholds(ctx context.Context, subscription string) ([]Thresholds, error) {
	list, err := collect(ctx, s.db, scanThresholds, thresholdColumns+" WHERE subscription = $1 ORDER BY unit", subscription)
	if err != nil {
		return nil, fmt.Errorf("thresholds of subscription %s: %w", subscription, err)
	}
	return list, nil
}

// watch delivers t and notes that it was.
func (s *Service) watch(ctx context.Context, t Thresholds) error {
	if s.watches == nil {
		return errors.New("billing: Options.Watches is not set")
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var err error
	if t.Told, err = s.told(ctx, t.Subscription, t.Unit); err != nil {
		return err
	}
	if err := s.watches.SetThresholds(ctx, t); err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, `UPDATE billing_threshold SET delivered_version = $3 WHERE subscription = $1 AND unit = $2 AND delivered_version < $3 AND version >= $3`,
		t.Subscription, t.Unit.String(), t.Version)
	return err
}

// told returns the newest crossing of each level of one unit.
func (s *Service) told(ctx context.Context, subscription string, unit usage.Unit) ([]Told, error) {
	list, err := collect(ctx, s.db, func(row scanner) (Told, error) {
		var c Told
		var at, changed int64
		err := row.Scan(&c.Level.Kind, &c.Level.Value, &c.Arm, &at, &changed)
		c.Rearmed = changed > at
		return c, err
	}, `SELECT kind, value, MAX(arm), MAX(at_ms), (SELECT COALESCE(MAX(updated_ms), 0) FROM billing_lot WHERE subscription = $1 AND unit = $2)
		FROM billing_crossing WHERE subscription = $1 AND unit = $2 GROUP BY kind, value ORDER BY kind, value`, subscription, unit.String())
	if err != nil {
		return nil, fmt.Errorf("crossings of subscription %s: %w", subscription, err)
	}
	return list, nil
}

// DeliverThresholds tells the quota store of thresholds that it does not have.
// It ends at the first failure: the store is away, and the next round tries
// again.
func (s *Service) DeliverThresholds(ctx context.Context) error {
	if s.watches == nil {
		return nil
	}
	due, err := collect(ctx, s.db, scanThresholds,
		fmt.Sprintf("%s WHERE delivered_version < version ORDER BY subscription, unit LIMIT %d", thresholdColumns, deliverBatch))
	if err != nil {
		return fmt.Errorf("thresholds to be delivered: %w", err)
	}
	for _, t := range due {
		if err := s.watch(ctx, t); err != nil {
			return fmt.Errorf("thresholds of subscription %s: %w", t.Subscription, err)
		}
	}
	return nil
}

// Rewatch has every threshold delivered again, to a quota store that was
// emptied or restored from a backup.
func (s *Service) Rewatch(ctx context.Context) error {
	_, err := s.db.Exec(ctx, `UPDATE billing_threshold SET delivered_version = 0`)
	s.wake()
	return err
}
