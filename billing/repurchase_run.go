package billing

import (
	"context"
	"fmt"
	"math"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// Codes of tries that did not buy (REPO-34), and two of our own for the caps.
const (
	FailBalance    = "BALANCE_INSUFFICIENT"
	FailOffline    = "SPEC_OFFLINE"
	FailPrice      = "PRICE_CHANGED"
	FailRestricted = "PURCHASE_RESTRICTED"
	FailAgency     = "AGENCY_MISSING"
	FailEligible   = "SPEC_NOT_ELIGIBLE"
	FailAgreement  = "AGREEMENT_UPDATED"
	FailFrozen     = "ACCOUNT_FROZEN"
	FailInternal   = "INTERNAL"
	FailMonthCap   = "CAP_REACHED"
	FailDayCap     = "DAILY_CAP"
)

// repurchaseActor is who orders: the platform's system account for the buyer,
// by the agency (REPO-25, DELEG-6).
const repurchaseActor = PlatformTrustee + ":auto_repurchase"

// Times of repurchases.
const (
	repurchaseBatch   = 100
	repurchaseAgain   = time.Second      // until the order before is completed (REPO-23)
	repurchaseOutage  = 5 * time.Second  // after an error of ours
	repurchaseOutMost = time.Minute      // most of it, growing with how long it lasts
	internalAfter     = 10 * time.Minute // an error of ours that lasts so long is told
	noticeEvery       = 24 * time.Hour   // REPO-36
)

// repurchaseBackoff are the pauses after failed tries (REPO-24).
var repurchaseBackoff = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}

// repurchasing is one try within its transaction, which holds the lock of the
// configuration.
type repurchasing struct {
	*Service
	tx        *sqldb.Tx
	r         Repurchase
	now       time.Time
	balance   *lot.Balance
	product   string
	published bool
	agency    Agency // by which it acts
}

// run decides and buys, and returns the ids of new lots. Everything it does is
// part of one transaction: the order, the money, the lots and what the
// configuration remembers of them. A crash leaves all of it or nothing, and what
// is left is due.
func (t *repurchasing) run(ctx context.Context) ([]string, error) {
	r := &t.r
	if next := r.LastSuccess.Add(time.Duration(r.EveryHours) * time.Hour); r.EveryHours > 0 && !r.LastSuccess.IsZero() && t.now.Before(next) {
		return nil, t.save(ctx, r.State, r.Failure, next) // REPO-7, REPO-24
	}
	sub, err := getSubscription(ctx, t.tx, r.Subscription)
	if err != nil {
		return nil, err
	}
	if sub.State == directory.SubscriptionClosed {
		r.Pending = ""
		return nil, t.save(ctx, RepurchaseOff, "", time.Time{})
	}
	spec, err := newest(ctx, t.tx, r.Series)
	if err != nil {
		return nil, err
	}
	want := packagesNeeded(t.balance, sub.Units, r.Level, &spec)
	if want == 0 { // bought by hand, raised by an operator, or enough by now
		r.Pending = ""
		return nil, t.save(ctx, RepurchaseOn, "", time.Time{})
	}
	// From here on nothing of the buyer's changes: agency, balance, orders.
	if err := lockBuyer(ctx, t.tx, r.Account, t.now); err != nil {
		return nil, err
	}
	code, err := t.refusal(ctx, &sub, &spec)
	if err != nil {
		return nil, err
	}
	if code != "" {
		return nil, t.refuse(ctx, code, spec.Price)
	}
	quantity, code, next, err := t.afford(ctx, want, spec.Price)
	if err != nil {
		return nil, err
	}
	switch code {
	case "":
		return t.buy(ctx, &sub, &spec, quantity)
	case FailBalance:
		return nil, t.refuse(ctx, code, spec.Price)
	}
	return nil, t.fail(ctx, code, RepurchaseWaiting, next, 0)
}

// refusal returns why nothing may be bought, or "" (REPO-31, REPO-34).
func (t *repurchasing) refusal(ctx context.Context, sub *Subscription, spec *Spec) (string, error) {
	r := &t.r
	agency, ok, err := mayRepurchase(ctx, t.tx, r.Account)
	if err != nil {
		return "", err
	}
	chosen := *spec
	if spec.ID != r.Spec { // a newer version: may it stand for the one chosen?
		if chosen, err = getSpec(ctx, t.tx, r.Spec); err != nil {
			return "", err
		}
	}
	switch {
	case sub.State == directory.SubscriptionFrozen:
		return FailFrozen, nil
	case !ok:
		return FailAgency, nil // also when its policy was updated (REPO-37)
	case r.Agreement != RepurchaseAgreement:
		return FailAgreement, nil
	case spec.State != SpecOnSale || !t.published:
		return FailOffline, nil
	case spec.Price == 0 || spec.Reset != lot.Never:
		return FailEligible, nil
	case spec.PurchaseLimit > 0:
		return FailRestricted, nil
	case spec.Price != r.Price || smaller(spec, &chosen) || spec.Validity != chosen.Validity:
		return FailPrice, nil // less for the same money is a price change (REPO-35)
	}
	t.agency = agency
	return "", nil
}

// packagesNeeded is how many packages of spec lift what is left of every billing
// item above the level: one order closes the gap. It is 0 where the level is
// not reached.
func packagesNeeded(b *lot.Balance, units []usage.Unit, level Level, spec *Spec) int64 {
	var most int64
	for _, q := range spec.Quotas {
		remaining, total := watched(b, q.Unit)
		if !level.Reached(remaining, total) {
			continue
		}
		// Each package adds as much to what is left as to the total, so the gap
		// closes with growing numbers: find the first by halving.
		low, high := int64(1), int64(MaxQuantity)
		for low < high {
			mid := (low + high) / 2
			if add, ok := times(q.Amount, mid, math.MaxInt64-total); ok && level.Reached(remaining+add, total+add) {
				low = mid + 1
			} else {
				high = mid
			}
		}
		most = max(most, low)
	}
	return most
}

// times is a*b if it is at most limit.
func times(a, b, limit int64) (int64, bool) {
	if a > limit/b {
		return 0, false
	}
	return a * b, true
}

// afford returns how many of want packages may be bought within the caps and
// the balance, or why none may be and when that ends by itself.
func (t *repurchasing) afford(ctx context.Context, want int64, price money.Amount) (quantity int64, code string, next time.Time, err error) {
	r := &t.r
	today, _, err := spent(ctx, t.tx, r.ID, dayStart(t.now))
	if err != nil {
		return 0, "", next, err
	}
	if want = min(want, r.DayLimit-today, MaxQuantity); want <= 0 {
		return 0, FailDayCap, dayStart(t.now).Add(24 * time.Hour), nil
	}
	if r.MonthCap > 0 {
		_, month, err := spent(ctx, t.tx, r.ID, monthStart(t.now))
		if err != nil {
			return 0, "", next, err
		}
		if want = fits(want, price, r.MonthCap-month); want == 0 {
			return 0, FailMonthCap, nextMonth(t.now), nil
		}
	}
	have, err := t.available(ctx)
	if err != nil {
		return 0, "", next, err
	}
	if want = fits(want, price, have); want == 0 {
		return 0, FailBalance, next, nil
	}
	return want, "", next, nil
}

// fits is the largest quantity up to want whose amount is at most limit.
func fits(want int64, price, limit money.Amount) int64 {
	for want > 0 {
		if amount, err := orderAmount(price, want); err == nil && amount <= limit {
			return want
		}
		want = min(want-1, int64(max(limit, 0)/price)+1)
	}
	return 0
}

// available is the buyer's balance.
func (t *repurchasing) available(ctx context.Context) (money.Amount, error) {
	var have money.Amount
	err := t.tx.QueryRow(ctx, `SELECT balance FROM billing_ledger_account WHERE id = $1`, string(BuyerAccount(t.r.Account))).Scan((*int64)(&have))
	return have, err
}

// buy makes the order. Its key is that of the crossing, the same over all tries:
// whatever else goes wrong, a crossing cannot be ordered for twice.
func (t *repurchasing) buy(ctx context.Context, sub *Subscription, spec *Spec, quantity int64) ([]string, error) {
	r := &t.r
	order, fresh, err := t.purchase(ctx, t.tx, PurchaseInput{
		Account: r.Account, Spec: spec.ID, Quantity: quantity, Actor: repurchaseActor, kind: OrderAutoRepurchase,
		IdempotencyKey: fmt.Sprintf("%s/%s/%d", r.ID, r.Pending, r.parts),
	}, t.now)
	if err != nil {
		return nil, err
	}
	if order.Subscription != r.Subscription {
		return nil, fmt.Errorf("the repurchase of subscription %s went into %s", r.Subscription, order.Subscription)
	}
	_, before, err := spent(ctx, t.tx, r.ID, monthStart(t.now))
	if err != nil {
		return nil, err
	}
	if err := t.note(ctx, RepurchaseTry{Order: order.ID, Quantity: quantity, Amount: order.Amount}); err != nil {
		return nil, err
	}
	r.parts, r.attempts, r.needed, r.LastOrder, r.LastSuccess = r.parts+1, 0, 0, order.ID, t.now
	// It is looked at once more when the order is completed: below the level
	// still, because a cap or the balance made it small, it buys again (REPO-22).
	if err := t.save(ctx, RepurchaseOn, "", t.now.Add(repurchaseAgain)); err != nil {
		return nil, err
	}
	t.tx.AfterCommit(func() { // both identities (DELEG-6)
		t.log.Info("audit", "action", "repurchase.order", "actor", repurchaseActor, "account", r.Account, "agency", t.agency.ID, "repurchase", r.ID, "order", order.ID)
	})
	return fresh, t.tell(ctx, sub, spec, &order, before)
}

// tell posts the notices of a purchase: the receipt, the month's cap at 80 and
// 100 % of it, and a balance that will not do for the next one (MSG-30).
func (t *repurchasing) tell(ctx context.Context, sub *Subscription, spec *Spec, o *Order, before money.Amount) error {
	if t.notices == nil {
		return nil
	}
	r := &t.r
	name, err := packageName(ctx, t.tx, sub.ID, t.product)
	if err != nil {
		return err
	}
	have, err := t.available(ctx)
	if err != nil {
		return err
	}
	after, err := before.Add(o.Amount)
	if err != nil {
		return err
	}
	post := func(kind, dedup string, data map[string]any) {
		if err != nil {
			return
		}
		data["package"], data["link"] = name, "/services/"+sub.ID
		_, err = t.notices.Post(ctx, t.tx, notify.Event{Account: r.Account, Kind: kind, Dedup: dedup, Object: sub.ID, Data: data})
	}
	post("repurchase_succeeded", o.ID, map[string]any{
		"plan": spec.Name, "amount": int64(o.Amount), "balance": int64(have), "spent": int64(after), "cap": int64(r.MonthCap),
	})
	for _, percent := range []int64{80, 100} {
		limit := int64(r.MonthCap) / 100 * percent
		reached := int64(after) >= limit || percent == 100 && after+spec.Price > r.MonthCap // nothing more fits
		if r.MonthCap > 0 && reached {
			month := monthStart(t.now).In(beijing).Format("2006-01")
			post("repurchase_cap", fmt.Sprintf("%s/%s/%d/%d", r.ID, month, int64(r.MonthCap), percent), map[string]any{
				"percent": percent, "spent": int64(after), "cap": int64(r.MonthCap),
			})
		}
	}
	if have < spec.Price {
		post("payment_ahead", r.ID+"/"+o.ID, map[string]any{"amount": int64(spec.Price), "balance": int64(have)})
	}
	return err
}

// refuse ends a try for a reason of the buyer's or the seller's: some need a new
// set-up (REPO-32), the others are tried again with growing pauses, and resume
// by themselves (REPO-24, REPO-33).
func (t *repurchasing) refuse(ctx context.Context, code string, price money.Amount) error {
	switch code {
	case FailOffline, FailPrice, FailRestricted, FailEligible, FailAgreement:
		err := t.fail(ctx, code, RepurchaseInvalid, time.Time{}, 0)
		return err
	}
	needed := money.Amount(0)
	if code == FailBalance {
		var err error
		if needed, err = orderAmount(price, 1); err != nil {
			return err
		}
	}
	if t.r.attempts++; t.r.attempts > int64(len(repurchaseBackoff)) {
		return t.fail(ctx, code, RepurchaseFailing, time.Time{}, needed)
	}
	return t.fail(ctx, code, RepurchaseWaiting, t.now.Add(repurchaseBackoff[t.r.attempts-1]), needed)
}

// fail keeps a try that did not buy, and tells the buyer of the first of each
// reason in 24 hours (REPO-30, REPO-36).
func (t *repurchasing) fail(ctx context.Context, code string, state RepurchaseState, next time.Time, needed money.Amount) error {
	r := &t.r
	var told bool
	err := t.tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM billing_repurchase_try WHERE repurchase = $1 AND code = $2 AND noticed AND at_ms > $3)`,
		r.ID, code, sqldb.Ms(t.now.Add(-noticeEvery))).Scan(&told)
	if err != nil {
		return err
	}
	if code == FailInternal && told {
		return t.save(ctx, state, code, next) // one line a day is enough for ours
	}
	if err := t.note(ctx, RepurchaseTry{Code: code, Noticed: !told && t.notices != nil, Next: next}); err != nil {
		return err
	}
	if !told && t.notices != nil {
		spec, err := getSpec(ctx, t.tx, r.Spec)
		if err != nil {
			return err
		}
		name, err := packageName(ctx, t.tx, r.Subscription, t.product)
		if err != nil {
			return err
		}
		data := map[string]any{"package": name, "plan": spec.Name, "code": code, "next": "", "link": "/services/" + r.Subscription}
		if !next.IsZero() {
			data["next"] = next.Format(time.RFC3339)
		}
		_, err = t.notices.Post(ctx, t.tx, notify.Event{
			Account: r.Account, Kind: "repurchase_failed", Dedup: fmt.Sprintf("%s/%s/%d", r.ID, code, sqldb.Ms(t.now)), Object: r.Subscription, Data: data,
		})
		if err != nil {
			return err
		}
	}
	r.needed = needed
	if state == RepurchaseInvalid {
		r.Pending = ""
	}
	return t.save(ctx, state, code, next)
}

// note keeps a try.
func (t *repurchasing) note(ctx context.Context, try RepurchaseTry) error {
	_, err := t.tx.Exec(ctx, `INSERT INTO billing_repurchase_try (id, repurchase, crossing, code, order_id, quantity, amount, noticed, next_ms, at_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, ids.New(t.now), t.r.ID, t.r.Pending, try.Code, try.Order, try.Quantity, int64(try.Amount),
		try.Noticed, sqldb.Ms(try.Next), sqldb.Ms(t.now))
	if err != nil {
		return fmt.Errorf("keep a try: %w", err)
	}
	return nil
}

// save keeps where the repurchase stands.
func (t *repurchasing) save(ctx context.Context, state RepurchaseState, failure string, next time.Time) error {
	r := &t.r
	due := sqldb.Ms(next)
	if next.IsZero() {
		due = 0
	}
	_, err := t.tx.Exec(ctx, `UPDATE billing_repurchase SET state = $2, failure = $3, needed = $4, pending = $5, parts = $6, attempts = $7, due_ms = $8,
		last_order = $9, last_success_ms = $10, version = version + 1, updated_ms = $11 WHERE id = $1`,
		r.ID, string(state), failure, int64(r.needed), r.Pending, r.parts, r.attempts, due, r.LastOrder, sqldb.Ms(r.LastSuccess), sqldb.Ms(t.now))
	return err
}
