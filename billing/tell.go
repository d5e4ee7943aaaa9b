package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// telling is what a notice of a crossing holds that does not come from the
// database: it is gathered before the transaction, and left out where it cannot
// be had in time.
type telling struct{ product, runway string }

// tellingTimeout bounds the gathering for a batch of crossings: a notice that
// comes now without a forecast is better than one that comes late.
const tellingTimeout = 3 * time.Second

// tellings gathers what the notices of list hold, by crossing.
func (s *Service) tellings(ctx context.Context, list []Crossing) map[string]telling {
	out := make(map[string]telling, len(list))
	if s.notices == nil {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, tellingTimeout)
	defer cancel()
	for _, c := range list {
		sub, err := getSubscription(ctx, s.db, c.Subscription)
		if err != nil {
			continue // unknown, or the database is away, which the transaction will tell
		}
		var t telling
		t.product, _ = s.productName(ctx, sub.Product)
		if r, ok, err := s.runway(ctx, &sub, c.Unit, c.Remaining, s.instant()); err == nil && ok {
			t.runway = r.String()
		}
		out[c.ID] = t
	}
	return out
}

func (s *Service) productName(ctx context.Context, product string) (string, bool) {
	if s.products == nil {
		return "", true
	}
	name, published, err := s.products.Product(ctx, product)
	if err != nil {
		s.log.Warn("a product's name is left out of a notice", "product", product, "error", err)
	}
	return name, published
}

// crossed acts on a crossing that was not known: it makes the subscription's
// auto-repurchase due, and tells the buyer, whether or not something is bought
// (people 0.2).
func (s *Service) crossed(ctx context.Context, tx *sqldb.Tx, c Crossing, t telling, now time.Time) error {
	sub, err := getSubscription(ctx, tx, c.Subscription)
	if errors.Is(err, ErrSubscriptionNotFound) {
		return nil // not of our books: it is kept for whoever looks for it
	}
	if err != nil {
		return err
	}
	repurchase, err := trigger(ctx, tx, c, now)
	if err != nil || s.notices == nil || sub.State == directory.SubscriptionClosed {
		return err
	}
	kind, err := noticeOf(ctx, tx, &sub, c)
	if err != nil || kind == "" {
		return err
	}
	name, err := packageName(ctx, tx, sub.ID, t.product)
	if err != nil || name == "" {
		return err // nothing but a credit line, or packages that reset (ALERT-3)
	}
	_, err = s.notices.Post(ctx, tx, notify.Event{
		Account: sub.Account, Kind: kind, Dedup: c.ID, Object: sub.ID,
		Data: map[string]any{
			"package": name, "region": s.region, "remaining": c.Remaining, "total": c.Total, "unit": c.Unit.String(),
			"threshold": c.Level.String(), "overflow": overflows(&sub), "runway": t.runway, "repurchase": repurchase, "link": "/services/" + sub.ID,
		},
	})
	return err
}

// overflows reports whether use goes on, and is paid for, when the packages of
// sub are used up (ALERT-26).
func overflows(sub *Subscription) bool { return sub.Mode == directory.ModeOnDemand }

// noticeOf returns the kind of notice a crossing makes, or "" for none: the
// level of an alert that is switched on or one that somebody set is told, and
// exhaustion always is, once, by its own notice (ALERT-24). A level that only
// auto-repurchase watches is not: its purchase has a notice of its own.
func noticeOf(ctx context.Context, tx *sqldb.Tx, sub *Subscription, c Crossing) (string, error) {
	if c.Level == (Level{LevelAbsolute, 0}) {
		return "used_up", nil
	}
	var alerted bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM billing_alert a JOIN billing_order o ON o.account = a.account AND o.series = a.series
		WHERE o.subscription = $1 AND a.enabled AND a.kind = $2 AND a.value = $3)`, sub.ID, string(c.Level.Kind), c.Level.Value).Scan(&alerted)
	if err != nil {
		return "", err
	}
	if !alerted {
		t, err := scanThresholds(tx.QueryRow(ctx, thresholdColumns+" WHERE subscription = $1 AND unit = $2", sub.ID, c.Unit.String()))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return "", nil
		case err != nil:
			return "", err
		case !slices.Contains(t.Levels, c.Level):
			return "", nil
		}
	}
	if overflows(sub) {
		return "low_quota_on_demand", nil // MSG-12: finance > account balance
	}
	return "low_quota", nil // MSG-13: product > expiring notice
}

// Runway is how long what is left lasts, by the faster and by the slower of the
// pace of the last 24 hours and that of the last 7 days.
type Runway struct{ Least, Most time.Duration }

// String is r in a few characters: "3 h", "2 d – 9 d".
func (r Runway) String() string {
	least, most := span(r.Least), span(r.Most)
	if least == most {
		return least
	}
	return least + " – " + most
}

func span(d time.Duration) string {
	switch {
	case d < time.Hour:
		return "<1 h"
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", min(d/(24*time.Hour), 999))
}

// maxRunway is where a forecast stops meaning anything.
const maxRunway = 999 * 24 * time.Hour

// Runway forecasts how long remaining units of a subscription last. It is false
// when nothing was used in the last 7 days, or nobody can tell.
func (s *Service) Runway(ctx context.Context, subscription string, unit usage.Unit, remaining int64) (Runway, bool, error) {
	sub, err := getSubscription(ctx, s.db, subscription)
	if err != nil {
		return Runway{}, false, err
	}
	return s.runway(ctx, &sub, unit, remaining, s.instant())
}

func (s *Service) runway(ctx context.Context, sub *Subscription, unit usage.Unit, remaining int64, now time.Time) (Runway, bool, error) {
	if s.pace == nil {
		return Runway{}, false, nil
	}
	var spans []time.Duration
	for _, back := range []time.Duration{24 * time.Hour, 7 * 24 * time.Hour} {
		from := now.Add(-back)
		if sub.Created.After(from) {
			from = sub.Created // a new subscription's pace is that of its short life
		}
		used, err := s.pace.Used(ctx, sub.ID, unit, from, now)
		if err != nil {
			return Runway{}, false, fmt.Errorf("pace of subscription %s: %w", sub.ID, err)
		}
		if d, ok := lasts(remaining, used, now.Sub(from)); ok {
			spans = append(spans, d)
		}
	}
	if len(spans) == 0 {
		return Runway{}, false, nil
	}
	return Runway{Least: slices.Min(spans), Most: slices.Max(spans)}, true, nil
}

// lasts is how long remaining lasts if used units are used in every span.
func lasts(remaining, used int64, span time.Duration) (time.Duration, bool) {
	if used <= 0 || span <= 0 {
		return 0, false
	}
	hi, lo := bits.Mul64(uint64(max(remaining, 0)), uint64(max(span/time.Second, 1)))
	if hi >= uint64(used) {
		return maxRunway, true
	}
	seconds, _ := bits.Div64(hi, lo, uint64(used))
	if seconds >= uint64(maxRunway/time.Second) {
		return maxRunway, true
	}
	return time.Duration(seconds) * time.Second, true
}

// expirySteps are the days before the end of a package at which its buyer is
// told that units of it will lapse.
var expirySteps = []int64{30, 7, 1}

// RemindExpiring tells the buyers of packages that end within 30, 7 or 1 days
// after at how much of them would lapse, once for each package and step. It is a
// job that runs once a day.
func (s *Service) RemindExpiring(ctx context.Context, at time.Time) error {
	if s.notices == nil || s.quota == nil {
		return nil
	}
	last := at.Add(time.Duration(slices.Max(expirySteps)) * 24 * time.Hour)
	lots, err := collect(ctx, s.db, scanLot, lotColumns+` WHERE NOT void AND NOT overflow AND reset_cycle = '' AND expires_ms > $1 AND expires_ms <= $2
		AND EXISTS (SELECT 1 FROM billing_subscription s WHERE s.id = subscription AND s.state <> 'closed') ORDER BY subscription, id`, sqldb.Ms(at), sqldb.Ms(last))
	if err != nil {
		return fmt.Errorf("packages that end soon: %w", err)
	}
	left := map[string]int64{} // by lot
	for i, l := range lots {
		if i == 0 || lots[i-1].Subscription != l.Subscription {
			b, err := s.quota.Read(ctx, l.Subscription)
			if err != nil {
				return fmt.Errorf("what is left of subscription %s: %w", l.Subscription, err)
			}
			for j := range b.Lots {
				left[b.Lots[j].ID] = b.Lots[j].Remaining + b.Lots[j].Leased
			}
		}
		if left[l.ID] <= 0 {
			continue
		}
		if err := s.remindExpiring(ctx, l, left[l.ID], at); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) remindExpiring(ctx context.Context, l Lot, left int64, at time.Time) error {
	days := slices.Max(expirySteps)
	for _, step := range expirySteps { // the nearest step that was reached
		if l.Expires.Sub(at) <= time.Duration(step)*24*time.Hour {
			days = min(days, step)
		}
	}
	o, err := getOrder(ctx, s.db, l.Order)
	if err != nil {
		return err
	}
	spec, err := getSpec(ctx, s.db, o.Spec)
	if err != nil {
		return err
	}
	product, _ := s.productName(ctx, o.Product)
	return s.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := s.notices.Post(ctx, tx, notify.Event{
			Account: o.Account, Kind: "quota_expiring", Dedup: fmt.Sprintf("%s/%d", l.ID, days), Object: l.Subscription,
			Data: map[string]any{
				"package": strings.TrimSpace(product + " " + spec.Name), "remaining": left, "unit": l.Unit.String(), "days": days,
				"expires": l.Expires.UTC().Format(time.RFC3339), "link": "/services/" + l.Subscription,
			},
		})
		return err
	})
}
