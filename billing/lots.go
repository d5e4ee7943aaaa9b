package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// Lot is one grant with what billing knows of it. What is left of it only the
// quota store knows.
type Lot struct {
	lot.Grant
	Order     string
	Delivered bool // the quota store has the newest version
	Created   time.Time
	Updated   time.Time
	ChangedBy string // actor of the newest version
	Reason    string // of the newest version; empty for the first
}

// LotFilter narrows a list of lots; empty fields do not.
type LotFilter struct {
	Subscription string
	Order        string
	Page         Page
}

// Lot returns one lot.
func (s *Service) Lot(ctx context.Context, id string) (Lot, error) { return getLot(ctx, s.db, id) }

// Lots lists lots, the newest first, and the cursor of the next part, which is
// empty at the end.
func (s *Service) Lots(ctx context.Context, f LotFilter) ([]Lot, string, error) {
	var cond filter
	cond.addIf("subscription = $?", f.Subscription)
	cond.addIf("order_id = $?", f.Order)
	return list(ctx, s.db, "lot", lotColumns, cond, f.Page, scanLot, func(l Lot) string { return l.ID })
}

// LotChange voids a lot or adds units to it.
type LotChange struct {
	Lot            string
	Add            int64  // units to add in each period; only for AddUnits
	Reason         string // required
	Actor          string
	IdempotencyKey string // only for AddUnits: voiding twice is harmless
}

// VoidLot withdraws a lot: nothing more is used from it, and what was left
// lapses. No money is given back (PKG-10). Voiding a void lot changes nothing.
func (s *Service) VoidLot(ctx context.Context, in LotChange) (Lot, error) {
	if in.Reason == "" {
		return Lot{}, fmt.Errorf("%w: reason is empty: say why the lot is withdrawn", ErrInvalid)
	}
	return s.changeLot(ctx, "void", in, func(ctx context.Context, tx *sqldb.Tx, l *Lot, now time.Time) (bool, error) {
		changed := !l.Void
		l.Void = true
		return changed, nil
	})
}

// AddUnits raises the amount of a lot by a new version of it, as a correction
// by an operator. The same key and input again changes nothing.
func (s *Service) AddUnits(ctx context.Context, in LotChange) (Lot, error) {
	var faults []error
	if in.Add <= 0 || in.Add > lot.MaxAmount {
		faults = append(faults, fmt.Errorf("%d units: give 1..%d; to take units away, void the lot", in.Add, int64(lot.MaxAmount)))
	}
	if in.Reason == "" {
		faults = append(faults, errors.New("reason is empty: say why units are added"))
	}
	if err := validateKey(in.IdempotencyKey); err != nil {
		faults = append(faults, err)
	}
	if err := invalid(faults); err != nil {
		return Lot{}, err
	}
	return s.changeLot(ctx, "add units to", in, func(ctx context.Context, tx *sqldb.Tx, l *Lot, now time.Time) (bool, error) {
		earlier, err := claim(ctx, tx, request{
			scope: "add_units/" + l.ID, key: in.IdempotencyKey,
			input: struct {
				Add    int64
				Reason string
			}{in.Add, in.Reason},
		}, l.ID, sqldb.Ms(now))
		switch {
		case err != nil || earlier != "":
			return false, err
		case l.Void:
			return false, ErrLotVoid
		case l.Amount > lot.MaxAmount-in.Add:
			return false, fmt.Errorf("%w: the lot holds %d and may hold at most %d", ErrInvalid, l.Amount, int64(lot.MaxAmount))
		}
		l.Amount += in.Add
		return true, nil
	})
}

// changeLot makes a new version of a lot, if change wants one, and delivers it.
func (s *Service) changeLot(ctx context.Context, what string, in LotChange, change func(context.Context, *sqldb.Tx, *Lot, time.Time) (bool, error)) (Lot, error) {
	var l Lot
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		// The lock comes first: the version is read under it.
		if _, err := tx.Exec(ctx, `UPDATE billing_lot SET version = version WHERE id = $1`, in.Lot); err != nil {
			return err
		}
		var err error
		if l, err = getLot(ctx, tx, in.Lot); err != nil {
			return err
		}
		changed, err := change(ctx, tx, &l, now)
		if err != nil || !changed {
			return err
		}
		l.Version++
		l.Updated, l.ChangedBy, l.Reason, l.Delivered = now, in.Actor, in.Reason, false
		return updateLot(ctx, tx, &l)
	})
	if err != nil {
		return Lot{}, fmt.Errorf("%s lot %s: %w", what, in.Lot, err)
	}
	if !l.Delivered {
		s.deliverLots(ctx, []string{l.ID})
		if fresh, err := getLot(context.WithoutCancel(ctx), s.db, l.ID); err == nil {
			l = fresh
		}
	}
	return l, nil
}

// voidAll voids every lot of a subscription and returns how many.
func voidAll(ctx context.Context, tx *sqldb.Tx, subscription, reason, actor string, now time.Time) (int, error) {
	// The locks come first, in the order of their ids.
	ids, err := collect(ctx, tx, func(row scanner) (string, error) {
		var id string
		return id, row.Scan(&id)
	}, `SELECT id FROM billing_lot WHERE subscription = $1 AND NOT void ORDER BY id`, subscription)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if _, err := tx.Exec(ctx, `UPDATE billing_lot SET version = version WHERE id = $1`, id); err != nil {
			return 0, err
		}
		l, err := getLot(ctx, tx, id)
		if err != nil {
			return 0, err
		}
		l.Version++
		l.Void, l.Updated, l.ChangedBy, l.Reason = true, now, actor, reason
		if err := updateLot(ctx, tx, &l); err != nil {
			return 0, err
		}
	}
	return len(ids), nil
}

// grants returns the lots of an order: one per unit for each package of the
// quantity. All have the same effective instant, so that PKG-20 uses them in
// the order of their ids, unit by unit.
func (s *Service) grants(spec *Spec, order *Order, now time.Time) ([]Lot, error) {
	expires, err := spec.Validity.Expires(now, spec.Zone)
	if err != nil {
		return nil, err
	}
	var lots []Lot
	for range order.Quantity {
		for _, q := range spec.Quotas {
			l := Lot{
				Grant: lot.Grant{
					ID: ids.New(now), Subscription: order.Subscription, Unit: q.Unit, Amount: q.Amount, Effective: now, Expires: expires,
					Reset: spec.Reset, Zone: spec.Zone, ZeroPrice: spec.ZeroPrice(), Away: spec.StoreAway, Version: 1,
				},
				Order: order.ID, Created: now, Updated: now, ChangedBy: order.Actor,
			}
			if spec.Mode != directory.ModeOnDemand && l.Away.Policy == lot.AwayDefault {
				l.Away = s.away
			}
			if spec.Mode == directory.ModeOnDemand {
				l.Overflow = true
				if l.Amount == 0 {
					l.Amount = s.credit
				}
			}
			if err := l.Validate(); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			lots = append(lots, l)
		}
	}
	return lots, nil
}

const lotColumns = `SELECT id, subscription, order_id, unit, amount, effective_ms, expires_ms, reset_cycle, zone, zero_price, overflow,
	version, void, delivered_version = version, changed_by, change_reason, created_ms, updated_ms, store_away FROM billing_lot`

func scanLot(row scanner) (Lot, error) {
	var l Lot
	var unit string
	err := row.Scan(&l.ID, &l.Subscription, &l.Order, &unit, &l.Amount, sqldb.Instant{Dst: &l.Effective}, sqldb.Instant{Dst: &l.Expires},
		&l.Reset, &l.Zone, &l.ZeroPrice, &l.Overflow, &l.Version, &l.Void, &l.Delivered, &l.ChangedBy, &l.Reason,
		sqldb.Instant{Dst: &l.Created}, sqldb.Instant{Dst: &l.Updated}, sqldb.JSON(&l.Away))
	if err != nil {
		return l, err
	}
	l.Unit, err = usage.ParseUnit(unit)
	return l, err
}

func getLot(ctx context.Context, q sqldb.Querier, id string) (Lot, error) {
	l, err := scanLot(q.QueryRow(ctx, lotColumns+" WHERE id = $1", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Lot{}, fmt.Errorf("%w: %q", ErrLotNotFound, id)
	}
	return l, err
}

// insertLot records a new lot and that it has to be delivered.
func insertLot(ctx context.Context, tx *sqldb.Tx, l *Lot) error {
	_, err := tx.Exec(ctx, `INSERT INTO billing_lot (id, subscription, order_id, unit, amount, effective_ms, expires_ms, reset_cycle, zone,
		zero_price, overflow, version, void, delivered_version, changed_by, change_reason, created_ms, updated_ms, store_away)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, $14, $15, $16, $16, $17)`,
		l.ID, l.Subscription, l.Order, l.Unit.String(), l.Amount, sqldb.Ms(l.Effective), sqldb.Ms(l.Expires), string(l.Reset), l.Zone,
		l.ZeroPrice, l.Overflow, l.Version, l.Void, l.ChangedBy, l.Reason, sqldb.Ms(l.Created), sqldb.JSON(l.Away))
	if err != nil {
		return fmt.Errorf("record lot %s: %w", l.ID, err)
	}
	return enqueue(ctx, tx, l)
}

// updateLot records a new version of a lot and that it has to be delivered.
func updateLot(ctx context.Context, tx *sqldb.Tx, l *Lot) error {
	_, err := tx.Exec(ctx, `UPDATE billing_lot SET amount = $2, version = $3, void = $4, changed_by = $5, change_reason = $6, updated_ms = $7 WHERE id = $1`,
		l.ID, l.Amount, l.Version, l.Void, l.ChangedBy, l.Reason, sqldb.Ms(l.Updated))
	if err != nil {
		return fmt.Errorf("record version %d of lot %s: %w", l.Version, l.ID, err)
	}
	return enqueue(ctx, tx, l)
}
