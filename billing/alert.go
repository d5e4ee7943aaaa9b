package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// Alert is what a buyer set, or was given, for the packages of one spec: be
// told when no more than Level is left. Packages that stack are compared by the
// sum of what is left of them (ALERT-13), whichever spec they are of.
type Alert struct {
	Account   string
	Series    string // of the spec, all its versions together
	Spec      string // newest version bought
	Name      string // of that version
	Product   string
	Eligible  bool // resettable packages and credit lines are not (ALERT-1, ALERT-3)
	Set       bool // false: there is no setting, as for specs bought before the default existed (ALERT-5)
	Enabled   bool
	Level     Level
	ChangedBy string
	Updated   time.Time
}

// AlertPresets are the percentages offered (ALERT-22); any of 1..99 may be
// given, and any absolute value below the total (ALERT-8).
var AlertPresets = []int64{5, 10, 20, 30, 40, 50}

// defaultAlert is what a first purchase gets (ALERT-4).
var defaultAlert = Level{Kind: LevelPercent, Value: 20}

// defaultAlertSince is the day of ALERT-4, 2025-05-23, at midnight in Beijing.
var defaultAlertSince = time.Date(2025, 5, 22, 16, 0, 0, 0, time.UTC)

// getsDefaultAlert decides at a purchase of a spec whether an alert is made for
// it (ALERT-7). A setting that exists is kept, also one that is switched off;
// a spec that was bought before, as those from before 2025-07-08 were (ALERT-5),
// has no claim to one any more.
func getsDefaultAlert(configured bool, earlier, now time.Time) bool {
	return !configured && earlier.IsZero() && !now.Before(defaultAlertSince)
}

// alertEligible reports whether packages of spec can have alerts.
func alertEligible(spec *Spec) bool {
	return spec.Reset == lot.Never && spec.Mode != directory.ModeOnDemand
}

// alertAtPurchase makes the default alert where the rules want one. The caller
// holds the buyer's lock, and has not recorded the order yet.
func alertAtPurchase(ctx context.Context, tx *sqldb.Tx, spec *Spec, o *Order, now time.Time) error {
	if !alertEligible(spec) {
		return nil
	}
	var configured bool
	var earlier time.Time
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM billing_alert WHERE account = $1 AND series = $2),
		(SELECT COALESCE(MIN(placed_ms), 0) FROM billing_order WHERE account = $1 AND series = $2 AND state NOT IN ('cancelled', 'failed'))`,
		o.Account, spec.Series).Scan(&configured, sqldb.Instant{Dst: &earlier})
	if err != nil {
		return fmt.Errorf("alert of spec %s: %w", spec.ID, err)
	}
	if !getsDefaultAlert(configured, earlier, now) {
		return nil
	}
	return putAlert(ctx, tx, &Alert{Account: o.Account, Series: spec.Series, Enabled: true, Level: defaultAlert, Updated: now})
}

// putAlert keeps a setting. It takes the place of the one before, of either
// kind (ALERT-9).
func putAlert(ctx context.Context, tx *sqldb.Tx, a *Alert) error {
	_, err := tx.Exec(ctx, `INSERT INTO billing_alert (account, series, enabled, kind, value, changed_by, updated_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (account, series) DO UPDATE SET enabled = excluded.enabled, kind = excluded.kind, value = excluded.value,
		changed_by = excluded.changed_by, updated_ms = excluded.updated_ms`,
		a.Account, a.Series, a.Enabled, string(a.Level.Kind), a.Level.Value, a.ChangedBy, sqldb.Ms(a.Updated))
	if err != nil {
		return fmt.Errorf("keep the alert of series %s: %w", a.Series, err)
	}
	return nil
}

// AlertChange sets the alerts of one or more specs that the account bought:
// one, several (ALERT-10), or all that can have one (ALERT-11).
type AlertChange struct {
	Account string
	Specs   []string // ids, of any version; empty: all eligible ones
	Enabled bool
	Level   Level
	Actor   string
}

// SetAlerts changes all the named alerts or none, and returns them. What is left
// is compared with the new level at once (ALERT-12, ALERT-14).
func (s *Service) SetAlerts(ctx context.Context, in AlertChange) ([]Alert, error) {
	var out []Alert
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		all, err := alerts(ctx, tx, in.Account)
		if err != nil {
			return err
		}
		chosen, err := chooseAlerts(ctx, tx, all, in)
		if err != nil {
			return err
		}
		subs, err := collect(ctx, tx, scanSubscription, subscriptionColumns+" WHERE account = $1 AND state <> 'closed' ORDER BY id", in.Account)
		if err != nil {
			return err
		}
		for i := range subs { // locked in the order of their ids, before anything is decided
			if subs[i], err = lockSubscription(ctx, tx, subs[i].ID); err != nil {
				return err
			}
		}
		if err := checkAlertLevel(ctx, tx, in, chosen, now); err != nil {
			return err
		}
		out = out[:0]
		for _, a := range chosen {
			a.Set, a.Enabled, a.Level, a.ChangedBy, a.Updated = true, in.Enabled, in.Level, in.Actor, now
			if err := putAlert(ctx, tx, &a); err != nil {
				return err
			}
			out = append(out, a)
		}
		for i := range subs {
			if err := derive(ctx, tx, &subs[i], in.Actor, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("set the alerts of account %s: %w", in.Account, err)
	}
	s.wake()
	return out, nil
}

// chooseAlerts returns those of all that in names.
func chooseAlerts(ctx context.Context, tx *sqldb.Tx, all []Alert, in AlertChange) ([]Alert, error) {
	var chosen []Alert
	if len(in.Specs) == 0 {
		for _, a := range all {
			if a.Eligible {
				chosen = append(chosen, a)
			}
		}
		if len(chosen) == 0 {
			return nil, fmt.Errorf("%w: no package of the account can have an alert: buy one that does not reset", ErrAlertNotEligible)
		}
		return chosen, nil
	}
	for _, id := range in.Specs {
		spec, err := getSpec(ctx, tx, id)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(a Alert) bool { return a.Series == spec.Series })
		switch {
		case i < 0:
			return nil, fmt.Errorf("%w: spec %s was not bought", ErrAlertNotEligible, id)
		case !all[i].Eligible:
			return nil, fmt.Errorf("%w: spec %s", ErrAlertNotEligible, id)
		}
		if !slices.ContainsFunc(chosen, func(a Alert) bool { return a.Series == spec.Series }) {
			chosen = append(chosen, all[i])
		}
	}
	return chosen, nil
}

// checkAlertLevel holds ALERT-22: 1..99 per cent, or less than the total of the
// packages that are open.
func checkAlertLevel(ctx context.Context, tx *sqldb.Tx, in AlertChange, chosen []Alert, now time.Time) error {
	var faults []error
	switch in.Level.Kind {
	case LevelPercent:
		if in.Level.Value < 1 || in.Level.Value > 99 {
			faults = append(faults, fmt.Errorf("threshold of %d%%: give 1..99", in.Level.Value))
		}
	case LevelAbsolute:
		if in.Level.Value < 0 {
			faults = append(faults, fmt.Errorf("threshold of %d units: give 0 or more", in.Level.Value))
		}
		for _, a := range chosen {
			total, err := openTotal(ctx, tx, a.Account, a.Series, now)
			if err != nil {
				return err
			}
			if total > 0 && in.Level.Value >= total {
				faults = append(faults, fmt.Errorf("threshold of %d units for %q: give less than the total of %d", in.Level.Value, a.Name, total))
			}
		}
	default:
		faults = append(faults, fmt.Errorf("kind of threshold %q: give percent or absolute", in.Level.Kind))
	}
	return invalid(faults)
}

// openTotal is the least total over the billing items of the open packages that
// stack with those of a series; 0 if there are none.
func openTotal(ctx context.Context, q sqldb.Querier, account, series string, now time.Time) (int64, error) {
	var total int64
	err := q.QueryRow(ctx, `SELECT COALESCE(MIN(total), 0) FROM (
			SELECT CAST(SUM(l.amount) AS BIGINT) AS total FROM billing_lot l
			WHERE l.subscription IN (SELECT o.subscription FROM billing_order o WHERE o.account = $1 AND o.series = $2)
			AND NOT l.void AND NOT l.overflow AND l.reset_cycle = '' AND l.effective_ms <= $3 AND (l.expires_ms = 0 OR l.expires_ms > $3)
			GROUP BY l.subscription, l.unit) AS totals`, account, series, sqldb.Ms(now)).Scan(&total)
	if err != nil {
		return 0, fmt.Errorf("total of series %s: %w", series, err)
	}
	return total, nil
}

// Alerts lists the specs that an account bought with their alerts.
func (s *Service) Alerts(ctx context.Context, account string) ([]Alert, error) {
	list, err := alerts(ctx, s.db, account)
	if err != nil {
		return nil, fmt.Errorf("alerts of account %s: %w", account, err)
	}
	return list, nil
}

func alerts(ctx context.Context, q sqldb.Querier, account string) ([]Alert, error) {
	return collect(ctx, q, func(row scanner) (Alert, error) {
		a := Alert{Account: account}
		var reset lot.Cycle
		var mode directory.Mode
		err := row.Scan(&a.Series, &a.Spec, &a.Name, &a.Product, &reset, &mode, &a.Set, &a.Enabled, &a.Level.Kind, &a.Level.Value,
			&a.ChangedBy, sqldb.Instant{Dst: &a.Updated})
		a.Eligible = reset == lot.Never && mode != directory.ModeOnDemand
		return a, err
	}, `SELECT s.series, s.id, s.name, s.product, s.reset_cycle, s.mode, a.series IS NOT NULL, COALESCE(a.enabled, FALSE),
		COALESCE(a.kind, ''), COALESCE(a.value, 0), COALESCE(a.changed_by, ''), COALESCE(a.updated_ms, 0)
		FROM (SELECT series, MAX(id) AS last FROM billing_order WHERE account = $1 AND state NOT IN ('cancelled', 'failed') GROUP BY series) o
		JOIN billing_order b ON b.id = o.last JOIN billing_spec s ON s.id = b.spec
		LEFT JOIN billing_alert a ON a.account = $1 AND a.series = s.series ORDER BY s.series DESC`, account)
}

// watched sums what is left of one billing item, and the totals, over the
// packages that alerts and repurchases are about, as the quota store does: open
// ones that neither reset nor are credit lines. What a gateway holds and has not
// used is left.
func watched(b *lot.Balance, unit usage.Unit) (remaining, total int64) {
	for i := range b.Lots {
		l := &b.Lots[i]
		if l.Unit != unit || l.Reset != lot.Never || l.Overflow || (l.State != "active" && l.State != "exhausted") {
			continue
		}
		remaining += max(0, l.Amount-l.Used)
		total += l.Amount
	}
	return remaining, total
}

// Reached reports whether remaining has reached l (ALERT-21).
func (l Level) Reached(remaining, total int64) bool {
	if l.Kind == LevelAbsolute {
		return remaining <= l.Value
	}
	// remaining*100 <= total*value, without leaving an int64.
	whole, part := total/100*l.Value, total%100*l.Value
	return remaining <= whole+part/100
}

// String is l as it is told: 20% or 2000.
func (l Level) String() string {
	if l.Kind == LevelPercent {
		return fmt.Sprintf("%d%%", l.Value)
	}
	return fmt.Sprint(l.Value)
}

// packageName is what a subscription's packages are called in notices: the
// product and the spec bought last.
func packageName(ctx context.Context, q sqldb.Querier, subscription, product string) (string, error) {
	var name string
	err := q.QueryRow(ctx, `SELECT s.name FROM billing_order o JOIN billing_spec s ON s.id = o.spec
		WHERE o.subscription = $1 AND s.mode <> 'on_demand' AND s.reset_cycle = '' ORDER BY o.id DESC LIMIT 1`, subscription).Scan(&name)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if product != "" {
		name = product + " " + name
	}
	return name, err
}
