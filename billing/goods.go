package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// CreateSpec puts a new spec on sale.
func (s *Service) CreateSpec(ctx context.Context, in SpecInput) (Spec, error) {
	if err := in.Validate(); err != nil {
		return Spec{}, err
	}
	now := s.instant()
	id := ids.New(now)
	spec := Spec{ID: id, Series: id, Version: 1, SpecInput: in, State: SpecOnSale, Created: now}
	err := s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error { return insertSpec(ctx, tx, &spec) })
	if err != nil {
		return Spec{}, fmt.Errorf("create a spec: %w", err)
	}
	return spec, nil
}

// ReviseSpec replaces a spec by a new version, which is on sale if the old one
// was. Orders and lots of the old version keep what they were bought as. The
// product, the seller and the mode cannot change. Only the newest version can
// be revised; an older one is ErrSpecSuperseded.
func (s *Service) ReviseSpec(ctx context.Context, id string, in SpecInput) (Spec, error) {
	if err := in.Validate(); err != nil {
		return Spec{}, err
	}
	now := s.instant()
	var next Spec
	err := s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		old, err := getSpec(ctx, tx, id)
		switch {
		case err != nil:
			return err
		case old.State == SpecSuperseded:
			return ErrSpecSuperseded
		case in.Product != old.Product || in.Seller != old.Seller || in.Mode != old.Mode:
			return fmt.Errorf("%w: a new version keeps the product, the seller and the mode: create another spec instead", ErrInvalid)
		}
		next = Spec{ID: ids.New(now), Series: old.Series, Version: old.Version + 1, SpecInput: in, State: old.State, Created: now}
		if _, err := tx.Exec(ctx, `UPDATE billing_spec SET state = $2 WHERE id = $1`, id, string(SpecSuperseded)); err != nil {
			return err
		}
		return insertSpec(ctx, tx, &next)
	})
	if err != nil {
		return Spec{}, fmt.Errorf("revise spec %s: %w", id, err)
	}
	return next, nil
}

// SetSpecState withdraws a spec from sale or puts it on sale again. What was
// sold is not touched.
func (s *Service) SetSpecState(ctx context.Context, id string, state SpecState) (Spec, error) {
	if state != SpecOnSale && state != SpecWithdrawn {
		return Spec{}, fmt.Errorf("%w: state %q: give on_sale or withdrawn", ErrInvalid, state)
	}
	var spec Spec
	err := s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var err error
		if spec, err = getSpec(ctx, tx, id); err != nil {
			return err
		}
		if spec.State == SpecSuperseded {
			return ErrSpecSuperseded
		}
		spec.State = state
		_, err = tx.Exec(ctx, `UPDATE billing_spec SET state = $2 WHERE id = $1`, id, string(state))
		return err
	})
	if err != nil {
		return Spec{}, fmt.Errorf("set the state of spec %s: %w", id, err)
	}
	return spec, nil
}

// Spec returns one spec, of any state.
func (s *Service) Spec(ctx context.Context, id string) (Spec, error) {
	return getSpec(ctx, s.db, id)
}

// SpecFilter narrows a list of specs; empty fields do not.
type SpecFilter struct {
	Product string
	Seller  string
	State   SpecState
	Page    Page
}

// Specs lists specs, the newest first, and the cursor of the next part, which
// is empty at the end.
func (s *Service) Specs(ctx context.Context, f SpecFilter) ([]Spec, string, error) {
	var cond filter
	cond.addIf("product = $?", f.Product)
	cond.addIf("seller = $?", f.Seller)
	cond.addIf("state = $?", string(f.State))
	return list(ctx, s.db, "spec", specColumns+" FROM billing_spec", cond, f.Page, scanSpec, func(s Spec) string { return s.ID })
}

const specColumns = `SELECT id, series, version, product, seller, name, mode, quotas, price, validity_months, validity_ms,
	reset_cycle, zone, purchase_limit, state, actor, created_ms, store_away`

func insertSpec(ctx context.Context, tx *sqldb.Tx, s *Spec) error {
	_, err := tx.Exec(ctx, `INSERT INTO billing_spec (id, series, version, product, seller, name, mode, quotas, price, validity_months,
		validity_ms, reset_cycle, zone, purchase_limit, state, actor, created_ms, store_away)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)`,
		s.ID, s.Series, s.Version, s.Product, s.Seller, s.Name, string(s.Mode), sqldb.JSON(s.Quotas), int64(s.Price), s.Validity.Months,
		s.Validity.Duration.Milliseconds(), string(s.Reset), s.Zone, s.PurchaseLimit, string(s.State), s.Actor, sqldb.Ms(s.Created), sqldb.JSON(s.StoreAway))
	return err
}

func getSpec(ctx context.Context, q sqldb.Querier, id string) (Spec, error) {
	s, err := scanSpec(q.QueryRow(ctx, specColumns+" FROM billing_spec WHERE id = $1", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Spec{}, fmt.Errorf("%w: %q", ErrSpecNotFound, id)
	}
	return s, err
}

func scanSpec(row scanner) (Spec, error) {
	var s Spec
	var validityMs int64
	err := row.Scan(&s.ID, &s.Series, &s.Version, &s.Product, &s.Seller, &s.Name, &s.Mode, sqldb.JSON(&s.Quotas), (*int64)(&s.Price),
		&s.Validity.Months, &validityMs, &s.Reset, &s.Zone, &s.PurchaseLimit, &s.State, &s.Actor, sqldb.Instant{Dst: &s.Created}, sqldb.JSON(&s.StoreAway))
	s.Validity.Duration = time.Duration(validityMs) * time.Millisecond
	return s, err
}

// scanner is a row of *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// list reads one page of a table with ULIDs in its column id, newest first.
func list[T any](ctx context.Context, q sqldb.Querier, kind, from string, cond filter, p Page, scan func(scanner) (T, error), id func(T) string) ([]T, string, error) {
	after, err := p.after(kind)
	if err != nil {
		return nil, "", err
	}
	cond.addIf("id < $?", after)
	limit := p.limit()
	items, err := collect(ctx, q, scan, fmt.Sprintf("%s%s ORDER BY id DESC LIMIT %d", from, cond.where(), limit+1), cond.args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %ss: %w", kind, err)
	}
	next := ""
	if len(items) > limit {
		items = items[:limit]
		next = nextCursor(kind, id(items[limit-1]))
	}
	return items, next, nil
}

// collect runs a query and scans all its rows.
func collect[T any](ctx context.Context, q sqldb.Querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var items []T
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, rows.Err()
}
