package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// Subscription is a buyer's right to call a product. All packages of one
// family of modes and one set of units stack in one subscription (PKG-9).
type Subscription struct {
	ID      string
	Account string
	Product string
	Mode    directory.Mode // of the first purchase: on_demand also where on-demand packages were added
	State   directory.SubscriptionState
	Units   []usage.Unit
	Reason  string // why it is frozen or closed
	Created time.Time
	Updated time.Time
}

// SubscriptionFilter narrows a list of subscriptions; empty fields do not.
type SubscriptionFilter struct {
	Account string
	Product string
	State   directory.SubscriptionState
	Page    Page
}

// Subscription returns one subscription, of any state.
func (s *Service) Subscription(ctx context.Context, id string) (Subscription, error) {
	return getSubscription(ctx, s.db, id)
}

// Subscriptions lists subscriptions, the newest first, and the cursor of the
// next part, which is empty at the end.
func (s *Service) Subscriptions(ctx context.Context, f SubscriptionFilter) ([]Subscription, string, error) {
	var cond filter
	cond.addIf("account = $?", f.Account)
	cond.addIf("product = $?", f.Product)
	cond.addIf("state = $?", string(f.State))
	return list(ctx, s.db, "subscription", subscriptionColumns, cond, f.Page, scanSubscription, func(s Subscription) string { return s.ID })
}

// closedShownFor is how long a closed subscription stays in the directory, so
// that its buyer is told that it is closed and not that there never was one.
const closedShownFor = 30 * 24 * time.Hour

// DirectorySubscriptions returns what the gateways need to know: every
// subscription that is open, and those closed in the last 30 days, by id.
func (s *Service) DirectorySubscriptions(ctx context.Context) ([]directory.Subscription, error) {
	subs, err := collect(ctx, s.db, scanSubscription, subscriptionColumns+" WHERE state <> $1 OR updated_ms > $2 ORDER BY id",
		string(directory.SubscriptionClosed), sqldb.Ms(s.instant().Add(-closedShownFor)))
	if err != nil {
		return nil, fmt.Errorf("subscriptions for the directory: %w", err)
	}
	out := make([]directory.Subscription, len(subs))
	for i, sub := range subs {
		out[i] = directory.Subscription{
			ID: sub.ID, Account: sub.Account, Product: sub.Product, Mode: sub.Mode, State: sub.State, Units: sub.Units, Created: sub.Created,
		}
	}
	return out, nil
}

// SubscriptionChange freezes, unfreezes or closes a subscription.
type SubscriptionChange struct {
	ID     string
	Reason string // required to freeze and to close
	Actor  string
}

// Freeze makes the gateways refuse calls until Unfreeze (PKG-29). The lots run
// on. Freezing a frozen subscription changes nothing.
func (s *Service) Freeze(ctx context.Context, in SubscriptionChange) (Subscription, error) {
	return s.setState(ctx, in, directory.SubscriptionFrozen)
}

// Unfreeze lets a frozen subscription serve again.
func (s *Service) Unfreeze(ctx context.Context, in SubscriptionChange) (Subscription, error) {
	return s.setState(ctx, in, directory.SubscriptionActive)
}

// Close ends a subscription for good and voids its lots. No money is given back
// (PKG-10). Buying the product again makes a new subscription.
func (s *Service) Close(ctx context.Context, in SubscriptionChange) (Subscription, error) {
	return s.setState(ctx, in, directory.SubscriptionClosed)
}

func (s *Service) setState(ctx context.Context, in SubscriptionChange, state directory.SubscriptionState) (Subscription, error) {
	if in.Reason == "" && state != directory.SubscriptionActive {
		return Subscription{}, fmt.Errorf("%w: reason is empty: say why the subscription is to be %s", ErrInvalid, state)
	}
	var sub Subscription
	voided := false
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		var err error
		sub, err = lockSubscription(ctx, tx, in.ID)
		switch {
		case err != nil:
			return err
		case sub.State == state:
			return nil
		case sub.State == directory.SubscriptionClosed:
			return ErrSubscriptionClosed
		}
		sub.State, sub.Reason, sub.Updated = state, in.Reason, now
		_, err = tx.Exec(ctx, `UPDATE billing_subscription SET state = $2, reason = $3, updated_ms = $4 WHERE id = $1`,
			sub.ID, string(state), in.Reason, sqldb.Ms(now))
		if err != nil {
			return err
		}
		if state == directory.SubscriptionClosed {
			n, err := voidAll(ctx, tx, sub.ID, in.Reason, in.Actor, now)
			if err != nil {
				return err
			}
			voided = n > 0
		}
		return s.changed(ctx, tx)
	})
	if err != nil {
		return Subscription{}, fmt.Errorf("set subscription %s to %s: %w", in.ID, state, err)
	}
	if voided {
		s.wake()
	}
	return sub, nil
}

const subscriptionColumns = `SELECT id, account, product, mode, state, unit_key, reason, created_ms, updated_ms FROM billing_subscription`

func scanSubscription(row scanner) (Subscription, error) {
	var s Subscription
	var units string
	err := row.Scan(&s.ID, &s.Account, &s.Product, &s.Mode, &s.State, &units, &s.Reason, sqldb.Instant{Dst: &s.Created}, sqldb.Instant{Dst: &s.Updated})
	if err != nil {
		return s, err
	}
	s.Units, err = parseUnitKey(units)
	return s, err
}

func getSubscription(ctx context.Context, q sqldb.Querier, id string) (Subscription, error) {
	s, err := scanSubscription(q.QueryRow(ctx, subscriptionColumns+" WHERE id = $1", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Subscription{}, fmt.Errorf("%w: %q", ErrSubscriptionNotFound, id)
	}
	return s, err
}

// lockSubscription reads a subscription that cannot change before tx ends.
func lockSubscription(ctx context.Context, tx *sqldb.Tx, id string) (Subscription, error) {
	if _, err := tx.Exec(ctx, `UPDATE billing_subscription SET state = state WHERE id = $1`, id); err != nil {
		return Subscription{}, err
	}
	return getSubscription(ctx, tx, id)
}

// openSubscription returns the open subscription that packages of spec go into,
// locked, and false if there is none. The caller holds the buyer's lock, so
// that nobody makes one meanwhile.
func openSubscription(ctx context.Context, tx *sqldb.Tx, account string, spec *Spec) (Subscription, bool, error) {
	var id string
	err := tx.QueryRow(ctx, `SELECT id FROM billing_subscription WHERE account = $1 AND product = $2 AND family = $3 AND unit_key = $4 AND state <> 'closed'`,
		account, spec.Product, family(spec.Mode), unitKey(spec.Units())).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return Subscription{}, false, nil
	}
	if err != nil {
		return Subscription{}, false, err
	}
	sub, err := lockSubscription(ctx, tx, id)
	// It may have been closed between the two statements.
	return sub, err == nil && sub.State != directory.SubscriptionClosed, err
}

func insertSubscription(ctx context.Context, tx *sqldb.Tx, account string, spec *Spec, now time.Time) (Subscription, error) {
	sub := Subscription{
		ID: ids.New(now), Account: account, Product: spec.Product, Mode: spec.Mode, State: directory.SubscriptionActive,
		Units: spec.Units(), Created: now, Updated: now,
	}
	_, err := tx.Exec(ctx, `INSERT INTO billing_subscription (id, account, product, mode, family, unit_key, state, reason, created_ms, updated_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, '', $8, $8)`,
		sub.ID, account, sub.Product, string(sub.Mode), family(spec.Mode), unitKey(sub.Units), string(sub.State), sqldb.Ms(now))
	for _, u := range sub.Units {
		if err == nil { // "used up" is watched from the first purchase on (ALERT-24)
			err = setThresholds(ctx, tx, &Thresholds{Subscription: sub.ID, Unit: u, Updated: now})
		}
	}
	return sub, err
}
