package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
)

// RepurchaseAgreement is the version of the agreement that a buyer accepts when
// switching auto-repurchase on (REPO-9). With another one nothing is bought.
const RepurchaseAgreement = "1.0"

// What may be chosen (REPO-6, REPO-7).
var (
	RepurchasePercents = []int64{5, 10, 20, 30, 40, 50}
	RepurchaseHours    = []int64{0, 1, 3, 6, 12, 24}
)

// Limits of an auto-repurchase.
const (
	defaultDayLimit = 10 // REPO-23
	maxDayLimit     = 100
)

// RepurchaseState is where an auto-repurchase stands.
type RepurchaseState string

// The states of an auto-repurchase.
const (
	RepurchaseOn      RepurchaseState = "on"
	RepurchaseOff     RepurchaseState = "off"     // by the buyer (REPO-12)
	RepurchaseWaiting RepurchaseState = "waiting" // a try failed; there is a next one
	RepurchaseFailing RepurchaseState = "failing" // tries are used up; it resumes when its reason is gone (REPO-24, REPO-33)
	RepurchaseInvalid RepurchaseState = "invalid" // it has to be set up again (REPO-32)
)

// Repurchase is the auto-repurchase of one subscription: when no more than Level
// is left of its packages, packages of Spec are bought from the balance.
type Repurchase struct {
	ID           string
	Subscription string
	Account      string
	Product      string
	Series       string
	Spec         string       // version chosen
	Price        money.Amount // list price then (REPO-35)
	Agreement    string
	Level        Level
	EveryHours   int64        // at most one order in so many hours; 0: no limit
	DayLimit     int64        // packages a day, by the Beijing calendar
	MonthCap     money.Amount // by the Beijing calendar; 0: none
	State        RepurchaseState
	Failure      string    // code of REPO-34, CAP_REACHED or DAILY_CAP; empty: none
	Pending      string    // crossing that is being acted on
	Next         time.Time // next try by time; zero: none
	LastOrder    string
	LastSuccess  time.Time
	Spent        money.Amount // this month
	ChangedBy    string
	Created      time.Time
	Updated      time.Time

	needed    money.Amount
	parts     int64
	attempts  int64
	pendingAt time.Time
	version   int64
}

// RepurchaseTry is one try that ended (REPO-30).
type RepurchaseTry struct {
	ID       string
	Crossing string
	Code     string // empty: it bought
	Order    string
	Quantity int64
	Amount   money.Amount
	Noticed  bool
	Next     time.Time
	At       time.Time
}

// RepurchaseInput sets a subscription's auto-repurchase up, or changes it. What
// was set before is replaced as a whole (REPO-6).
type RepurchaseInput struct {
	Subscription string
	Spec         string // empty: what was bought last (REPO-5)
	Level        Level
	EveryHours   int64
	DayLimit     int64 // 0: 10
	MonthCap     money.Amount
	Agreement    string // version that is accepted
	Actor        string
}

func (in *RepurchaseInput) validate() error {
	var faults []error
	switch in.Level.Kind {
	case LevelPercent:
		if !slices.Contains(RepurchasePercents, in.Level.Value) {
			faults = append(faults, fmt.Errorf("threshold of %d%%: give one of %v, or an absolute value", in.Level.Value, RepurchasePercents))
		}
	case LevelAbsolute:
		if in.Level.Value < 0 || in.Level.Value > lot.MaxAmount {
			faults = append(faults, fmt.Errorf("threshold of %d units: give 0..%d", in.Level.Value, int64(lot.MaxAmount)))
		}
	default:
		faults = append(faults, fmt.Errorf("kind of threshold %q: give percent or absolute", in.Level.Kind))
	}
	if !slices.Contains(RepurchaseHours, in.EveryHours) {
		faults = append(faults, fmt.Errorf("one repurchase in %d hours: give one of %v, 0 for no limit", in.EveryHours, RepurchaseHours))
	}
	if in.DayLimit == 0 {
		in.DayLimit = defaultDayLimit
	}
	if in.DayLimit < 1 || in.DayLimit > maxDayLimit {
		faults = append(faults, fmt.Errorf("%d packages a day: give 1..%d", in.DayLimit, maxDayLimit))
	}
	if in.MonthCap < 0 {
		faults = append(faults, fmt.Errorf("monthly cap %s: give an amount above 0, or 0 for none", in.MonthCap))
	}
	return invalid(faults)
}

// plan finds the spec to be bought and holds REPO-1, REPO-3..5 and REPO-8.
func plan(ctx context.Context, q sqldb.Querier, sub *Subscription, chosen string) (Spec, error) {
	var last string
	err := q.QueryRow(ctx, `SELECT o.spec FROM billing_order o JOIN billing_spec s ON s.id = o.spec
		WHERE o.subscription = $1 AND s.mode <> 'on_demand' AND s.reset_cycle = '' AND o.state NOT IN ('cancelled', 'failed') ORDER BY o.id DESC LIMIT 1`, sub.ID).Scan(&last)
	if errors.Is(err, sql.ErrNoRows) {
		return Spec{}, fmt.Errorf("%w: the subscription has no package that does not reset", ErrRepurchaseNotEligible)
	}
	if err != nil {
		return Spec{}, err
	}
	current, err := getSpec(ctx, q, last)
	if err != nil {
		return Spec{}, err
	}
	var spec Spec
	if chosen == "" {
		spec, err = newest(ctx, q, current.Series)
	} else {
		spec, err = getSpec(ctx, q, chosen)
	}
	if err != nil {
		return Spec{}, err
	}
	refuse := func(format string, args ...any) (Spec, error) {
		return Spec{}, fmt.Errorf("%w: %s", ErrRepurchaseNotEligible, fmt.Sprintf(format, args...))
	}
	switch {
	case spec.Product != sub.Product || family(spec.Mode) != family(sub.Mode) || unitKey(spec.Units()) != unitKey(sub.Units) || spec.Mode == directory.ModeOnDemand:
		return refuse("packages of spec %s do not stack with those of the subscription", spec.ID)
	case spec.State == SpecSuperseded:
		return Spec{}, ErrSpecSuperseded
	case spec.State != SpecOnSale:
		return Spec{}, ErrSpecOffline
	case spec.Reset != lot.Never:
		return refuse("the package resets by itself (REPO-4)")
	case spec.Price == 0:
		return refuse("the package is free: choose one with a price (REPO-3, REPO-8)")
	case spec.PurchaseLimit > 0:
		return refuse("the package can only be bought a limited number of times: choose another one (REPO-8)")
	}
	if smaller(&spec, &current) {
		return refuse("the package holds less than the one bought last: choose one that does not (REPO-5)")
	}
	return spec, nil
}

// smaller reports whether a holds less than b of any billing item.
func smaller(a, b *Spec) bool {
	for _, q := range b.Quotas {
		if !slices.ContainsFunc(a.Quotas, func(p Quota) bool { return p.Unit == q.Unit && p.Amount >= q.Amount }) {
			return true
		}
	}
	return false
}

// newest returns the newest version of a series.
func newest(ctx context.Context, q sqldb.Querier, series string) (Spec, error) {
	return scanSpec(q.QueryRow(ctx, specColumns+" FROM billing_spec WHERE series = $1 ORDER BY version DESC LIMIT 1", series))
}

// SetRepurchase switches auto-repurchase on. What is left is compared with the
// level at once: below it a package is bought right away, as
// PreviewRepurchase says before.
//
// Refusals are ErrInvalid, ErrSubscriptionNotFound, ErrSubscriptionClosed,
// ErrRepurchaseNotEligible, ErrSpecNotFound, ErrSpecOffline, ErrSpecSuperseded,
// ErrAgreementRequired and ErrAgencyRequired.
func (s *Service) SetRepurchase(ctx context.Context, in RepurchaseInput) (Repurchase, error) {
	if err := in.validate(); err != nil {
		return Repurchase{}, err
	}
	sub, err := getSubscription(ctx, s.db, in.Subscription)
	if err != nil {
		return Repurchase{}, err
	}
	product, _ := s.productName(ctx, sub.Product)
	err = s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error { return s.setRepurchase(ctx, tx, in, product) })
	if err != nil {
		return Repurchase{}, fmt.Errorf("set up auto-repurchase of subscription %s: %w", in.Subscription, err)
	}
	s.wake()
	s.wakeBuyer()
	return s.Repurchase(context.WithoutCancel(ctx), in.Subscription)
}

func (s *Service) setRepurchase(ctx context.Context, tx *sqldb.Tx, in RepurchaseInput, product string) error {
	now := s.instant()
	if _, err := tx.Exec(ctx, `UPDATE billing_repurchase SET version = version WHERE subscription = $1`, in.Subscription); err != nil {
		return err
	}
	sub, err := lockSubscription(ctx, tx, in.Subscription)
	if err != nil {
		return err
	}
	spec, err := s.checkRepurchase(ctx, tx, &sub, in)
	if err != nil {
		return err
	}
	id := ids.New(now)
	_, err = tx.Exec(ctx, `INSERT INTO billing_repurchase (id, subscription, account, product, series, spec, price, agreement, kind, value, every_hours,
		day_limit, month_cap, state, failure, needed, pending, parts, pending_ms, attempts, due_ms, last_order, last_success_ms, version, changed_by, created_ms, updated_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'on', '', 0, $14, 0, $15, 0, $15, '', 0, 1, $16, $15, $15)
		ON CONFLICT (subscription) DO UPDATE SET series = excluded.series, spec = excluded.spec, price = excluded.price, agreement = excluded.agreement,
		kind = excluded.kind, value = excluded.value, every_hours = excluded.every_hours, day_limit = excluded.day_limit, month_cap = excluded.month_cap,
		state = 'on', failure = '', needed = 0, pending = excluded.pending, parts = 0, pending_ms = excluded.pending_ms, attempts = 0, due_ms = excluded.due_ms,
		version = billing_repurchase.version + 1, changed_by = excluded.changed_by, updated_ms = excluded.updated_ms`,
		id, sub.ID, sub.Account, sub.Product, spec.Series, spec.ID, int64(spec.Price), in.Agreement, string(in.Level.Kind), in.Level.Value, in.EveryHours,
		in.DayLimit, int64(in.MonthCap), "set/"+id, sqldb.Ms(now), in.Actor)
	if err != nil {
		return err
	}
	if err := derive(ctx, tx, &sub, in.Actor, now); err != nil {
		return err
	}
	if s.notices == nil {
		return nil
	}
	name, err := packageName(ctx, tx, sub.ID, product)
	if err != nil {
		return err
	}
	day, _, err := worst(spec.Price, in)
	if err != nil {
		return err
	}
	_, err = s.notices.Post(ctx, tx, notify.Event{
		// The first of each Beijing day (REPO-13).
		Account: sub.Account, Kind: "repurchase_configured", Dedup: sub.Product + "/" + now.In(beijing).Format(time.DateOnly), Object: sub.ID,
		Data: map[string]any{
			"package": name, "plan": spec.Name, "price": int64(spec.Price), "threshold": in.Level.String(), "worst_day": int64(day),
			"cap": int64(in.MonthCap), "link": "/services/" + sub.ID,
		},
	})
	return err
}

// checkRepurchase holds what must be true for in to be switched on.
func (s *Service) checkRepurchase(ctx context.Context, q sqldb.Querier, sub *Subscription, in RepurchaseInput) (Spec, error) {
	if sub.State == directory.SubscriptionClosed {
		return Spec{}, ErrSubscriptionClosed
	}
	spec, err := plan(ctx, q, sub, in.Spec)
	if err != nil {
		return Spec{}, err
	}
	if in.MonthCap > 0 && in.MonthCap < spec.Price {
		return Spec{}, fmt.Errorf("%w: monthly cap %s: one package costs %s already", ErrInvalid, in.MonthCap, spec.Price)
	}
	if in.Agreement != RepurchaseAgreement {
		return Spec{}, fmt.Errorf("%w: it is %s", ErrAgreementRequired, RepurchaseAgreement)
	}
	if _, ok, err := mayRepurchase(ctx, q, sub.Account); err != nil || !ok {
		return Spec{}, errors.Join(err, unless(ok, ErrAgencyRequired))
	}
	return spec, nil
}

// unless returns err if ok is false.
func unless(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

// DisableRepurchase switches auto-repurchase off (REPO-12). An order that is
// being made either was paid before, or is not made.
func (s *Service) DisableRepurchase(ctx context.Context, subscription, actor string) (Repurchase, error) {
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		res, err := tx.Exec(ctx, `UPDATE billing_repurchase SET state = 'off', failure = '', needed = 0, pending = '', due_ms = 0, attempts = 0,
			version = version + 1, changed_by = $2, updated_ms = $3 WHERE subscription = $1`, subscription, actor, sqldb.Ms(now))
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, ErrRepurchaseNotFound)
		}
		sub, err := lockSubscription(ctx, tx, subscription)
		if err != nil {
			return err
		}
		return derive(ctx, tx, &sub, actor, now)
	})
	if err != nil {
		return Repurchase{}, fmt.Errorf("switch auto-repurchase of subscription %s off: %w", subscription, err)
	}
	s.wake()
	return s.Repurchase(context.WithoutCancel(ctx), subscription)
}

// Repurchase returns a subscription's auto-repurchase with what it spent this
// month.
func (s *Service) Repurchase(ctx context.Context, subscription string) (Repurchase, error) {
	r, err := scanRepurchase(s.db.QueryRow(ctx, repurchaseColumns+" WHERE subscription = $1", subscription))
	if errors.Is(err, sql.ErrNoRows) {
		return Repurchase{}, ErrRepurchaseNotFound
	}
	if err == nil {
		_, r.Spent, err = spent(ctx, s.db, r.ID, monthStart(s.instant()))
	}
	if err != nil {
		return Repurchase{}, fmt.Errorf("auto-repurchase of subscription %s: %w", subscription, err)
	}
	return r, nil
}

// RepurchaseTries lists the tries of a subscription's auto-repurchase, the
// newest first, and the cursor of the next part, which is empty at the end.
func (s *Service) RepurchaseTries(ctx context.Context, subscription string, p Page) ([]RepurchaseTry, string, error) {
	var cond filter
	cond.add("repurchase = (SELECT id FROM billing_repurchase WHERE subscription = $?)", subscription)
	return list(ctx, s.db, "repurchase_try", `SELECT id, crossing, code, order_id, quantity, amount, noticed, next_ms, at_ms FROM billing_repurchase_try`,
		cond, p, func(row scanner) (RepurchaseTry, error) {
			var t RepurchaseTry
			return t, row.Scan(&t.ID, &t.Crossing, &t.Code, &t.Order, &t.Quantity, (*int64)(&t.Amount), &t.Noticed, sqldb.Instant{Dst: &t.Next}, sqldb.Instant{Dst: &t.At})
		}, func(t RepurchaseTry) string { return t.ID })
}

const repurchaseColumns = `SELECT id, subscription, account, product, series, spec, price, agreement, kind, value, every_hours, day_limit, month_cap,
	state, failure, needed, pending, parts, pending_ms, attempts, due_ms, last_order, last_success_ms, version, changed_by, created_ms, updated_ms FROM billing_repurchase`

func scanRepurchase(row scanner) (Repurchase, error) {
	var r Repurchase
	err := row.Scan(&r.ID, &r.Subscription, &r.Account, &r.Product, &r.Series, &r.Spec, (*int64)(&r.Price), &r.Agreement, &r.Level.Kind, &r.Level.Value,
		&r.EveryHours, &r.DayLimit, (*int64)(&r.MonthCap), &r.State, &r.Failure, (*int64)(&r.needed), &r.Pending, &r.parts, sqldb.Instant{Dst: &r.pendingAt},
		&r.attempts, sqldb.Instant{Dst: &r.Next}, &r.LastOrder, sqldb.Instant{Dst: &r.LastSuccess}, &r.version, &r.ChangedBy,
		sqldb.Instant{Dst: &r.Created}, sqldb.Instant{Dst: &r.Updated})
	return r, err
}

// trigger makes the auto-repurchase of a crossing's subscription due, unless it
// is acting on another crossing already: both then make one order (REPO-23). One
// that has its order, and is only to be looked at again, gives way to the new
// one. It returns how notices tell of it.
func trigger(ctx context.Context, tx *sqldb.Tx, c Crossing, now time.Time) (string, error) {
	_, err := tx.Exec(ctx, `UPDATE billing_repurchase SET pending = $2, parts = 0, pending_ms = $3, attempts = 0, due_ms = $3, version = version + 1, updated_ms = $3
		WHERE subscription = $1 AND state = 'on' AND (pending = '' OR parts > 0) AND (kind = $4 AND value = $5 OR $4 = 'absolute' AND $5 = 0)`,
		c.Subscription, c.ID, sqldb.Ms(now), string(c.Level.Kind), c.Level.Value)
	if err != nil {
		return "", fmt.Errorf("auto-repurchase: %w", err)
	}
	var state RepurchaseState
	err = tx.QueryRow(ctx, `SELECT state FROM billing_repurchase WHERE subscription = $1`, c.Subscription).Scan(&state)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "off", nil
	case state == RepurchaseWaiting, state == RepurchaseFailing, state == RepurchaseInvalid:
		return "tried_failed", err
	}
	return string(state), err
}

// spent sums what an auto-repurchase bought since an instant.
func spent(ctx context.Context, q sqldb.Querier, id string, since time.Time) (quantity int64, amount money.Amount, err error) {
	err = q.QueryRow(ctx, `SELECT CAST(COALESCE(SUM(quantity), 0) AS BIGINT), CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM billing_repurchase_try
		WHERE repurchase = $1 AND code = '' AND at_ms >= $2`, id, sqldb.Ms(since)).Scan(&quantity, (*int64)(&amount))
	return quantity, amount, err
}

// beijing is where days and months of caps begin (CONV-4); it knows no summer
// time.
var beijing = time.FixedZone("UTC+8", 8*60*60)

func dayStart(t time.Time) time.Time {
	y, m, d := t.In(beijing).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, beijing).UTC()
}

func monthStart(t time.Time) time.Time {
	y, m, _ := t.In(beijing).Date()
	return time.Date(y, m, 1, 0, 0, 0, 0, beijing).UTC()
}

func nextMonth(t time.Time) time.Time {
	y, m, _ := t.In(beijing).Date()
	return time.Date(y, m+1, 1, 0, 0, 0, 0, beijing).UTC()
}
