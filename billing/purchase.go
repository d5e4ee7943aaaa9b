package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// MaxQuantity is how many packages one order may hold.
const MaxQuantity = 1000

// PurchaseInput orders packages of one spec, paid from the balance.
type PurchaseInput struct {
	Account        string // buyer
	Spec           string // id
	Quantity       int64  // 1..MaxQuantity
	Actor          string // who orders
	IdempotencyKey string // ORDER-15

	kind    OrderType // empty: OrderNew
	product string    // its name, for the notice
}

// Validate returns every fault of in as an ErrInvalid.
func (in *PurchaseInput) Validate() error {
	var faults []error
	if in.Account == "" {
		faults = append(faults, errors.New("account is empty"))
	}
	if in.Spec == "" {
		faults = append(faults, errors.New("spec is empty: give the id of the spec to buy"))
	}
	if in.Quantity < 1 || in.Quantity > MaxQuantity {
		faults = append(faults, fmt.Errorf("quantity %d: give 1..%d", in.Quantity, MaxQuantity))
	}
	if err := validateKey(in.IdempotencyKey); err != nil {
		faults = append(faults, err)
	}
	return invalid(faults)
}

// Purchase buys. In one transaction it checks the purchase, moves the money,
// records the order, finds or makes the subscription, makes the lots and notes
// that they have to be delivered; then it delivers them to the quota store.
// With a store that does not answer, the order comes back in the state
// processing and is delivered in the background (API-1, PKG-27).
//
// The same key and input again returns the same order as it stands then
// (ORDER-15); other input is ErrIdempotencyConflict. A purchase that was
// refused leaves no trace, so the same key may be tried again after a top-up.
//
// Refusals are ErrInvalid, ErrSpecNotFound, ErrSpecOffline,
// ErrPurchaseRestricted, ErrOnDemandNotOpen, ErrOnDemandOpen,
// ErrSubscriptionFrozen and *InsufficientBalanceError.
func (s *Service) Purchase(ctx context.Context, in PurchaseInput) (Order, error) {
	if err := in.Validate(); err != nil {
		return Order{}, err
	}
	var order Order
	var fresh []string
	if s.notices != nil {
		if spec, err := getSpec(ctx, s.db, in.Spec); err == nil {
			in.product, _ = s.productName(ctx, spec.Product)
		}
	}
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var err error
		order, fresh, err = s.purchase(ctx, tx, in, s.instant())
		return err
	})
	if err != nil {
		return Order{}, fmt.Errorf("purchase of spec %s: %w", in.Spec, err)
	}
	if len(fresh) > 0 {
		s.deliverLots(ctx, fresh)
		if o, err := getOrder(context.WithoutCancel(ctx), s.db, order.ID); err == nil {
			order = o
		}
	}
	return order, nil
}

// purchase returns the order and the ids of its new lots; none if the order was
// made by an earlier request with the same key.
func (s *Service) purchase(ctx context.Context, tx *sqldb.Tx, in PurchaseInput, now time.Time) (Order, []string, error) {
	order := Order{
		ID: ids.New(now), Type: OrderNew, Account: in.Account, Quantity: in.Quantity, Payment: PaymentBalance, State: OrderProcessing,
		IdempotencyKey: in.IdempotencyKey, Actor: in.Actor, Placed: now, Paid: now,
	}
	scope := "purchase/" + in.Account
	if in.kind != "" {
		order.Type, scope = in.kind, string(in.kind)+"/"+in.Account
	}
	earlier, err := claim(ctx, tx, request{
		scope: scope, key: in.IdempotencyKey,
		input: struct {
			Account, Spec string
			Quantity      int64
		}{in.Account, in.Spec, in.Quantity},
	}, order.ID, sqldb.Ms(now))
	if err != nil {
		return Order{}, nil, err
	}
	if earlier != "" {
		was, err := getOrder(ctx, tx, earlier)
		return was, nil, err
	}
	if err := lockBuyer(ctx, tx, in.Account, now); err != nil {
		return Order{}, nil, err
	}
	spec, err := getSpec(ctx, tx, in.Spec)
	if err != nil {
		return Order{}, nil, err
	}
	if err := checkPurchase(ctx, tx, &spec, in); err != nil {
		return Order{}, nil, err
	}
	sub, made, err := subscribe(ctx, tx, &spec, in.Account, now)
	if err != nil {
		return Order{}, nil, err
	}
	if err := s.checkLots(ctx, tx, sub.ID, in.Quantity*int64(len(spec.Quotas)), now); err != nil {
		return Order{}, nil, err
	}
	order.Spec, order.Series, order.Product, order.Seller, order.Subscription = spec.ID, spec.Series, spec.Product, spec.Seller, sub.ID
	order.UnitPrice = spec.Price
	if order.Amount, err = orderAmount(spec.Price, in.Quantity); err != nil {
		return Order{}, nil, err
	}
	if order.Transaction, err = pay(ctx, tx, &order, now); err != nil {
		return Order{}, nil, err
	}
	if err := alertAtPurchase(ctx, tx, &spec, &order, now); err != nil {
		return Order{}, nil, err
	}
	if err := insertOrder(ctx, tx, &order); err != nil {
		return Order{}, nil, fmt.Errorf("record the order: %w", err)
	}
	if err := derive(ctx, tx, &sub, in.Actor, now); err != nil {
		return Order{}, nil, err
	}
	if order.Type == OrderNew {
		if err := s.tellPaid(ctx, tx, &order, spec.Name, in.product); err != nil {
			return Order{}, nil, err
		}
	}
	lots, err := s.grants(&spec, &order, now)
	if err != nil {
		return Order{}, nil, err
	}
	fresh := make([]string, len(lots))
	for i := range lots {
		if err := insertLot(ctx, tx, &lots[i]); err != nil {
			return Order{}, nil, err
		}
		fresh[i] = lots[i].ID
	}
	if made {
		// Last, since the hook's row is everybody's: it is held as shortly as can be.
		err = s.changed(ctx, tx)
	}
	return order, fresh, err
}

// checkLots holds that a subscription does not get more live lots than the
// quota store takes. The caller holds the buyer's lock.
func (s *Service) checkLots(ctx context.Context, tx *sqldb.Tx, subscription string, more int64, now time.Time) error {
	var live int64
	err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM billing_lot WHERE subscription = $1 AND NOT void AND (expires_ms = 0 OR expires_ms > $2)`,
		subscription, sqldb.Ms(now)).Scan(&live)
	if err != nil {
		return fmt.Errorf("count the subscription's lots: %w", err)
	}
	if live+more > s.maxLots {
		return fmt.Errorf("%w: it has %d that are not over, %d more are wanted, %d is the most: buy fewer or larger packages", ErrTooManyLots, live, more, s.maxLots)
	}
	return nil
}

// checkPurchase holds what does not depend on money or subscriptions. The
// caller holds the buyer's lock, so that the count cannot grow meanwhile.
func checkPurchase(ctx context.Context, tx *sqldb.Tx, spec *Spec, in PurchaseInput) error {
	if spec.State != SpecOnSale {
		return fmt.Errorf("%w: it is %s: choose one of the product's specs on sale", ErrSpecOffline, spec.State)
	}
	if spec.Mode == directory.ModeOnDemand && in.Quantity != 1 {
		return fmt.Errorf("%w: quantity %d: the on-demand service is opened once", ErrInvalid, in.Quantity)
	}
	if spec.PurchaseLimit == 0 {
		return nil
	}
	var bought int64
	err := tx.QueryRow(ctx, `SELECT CAST(COALESCE(SUM(quantity), 0) AS BIGINT) FROM billing_order
		WHERE series = $1 AND account = $2 AND state NOT IN ('cancelled', 'failed')`, spec.Series, in.Account).Scan(&bought)
	if err != nil {
		return fmt.Errorf("count earlier purchases: %w", err)
	}
	if in.Quantity > spec.PurchaseLimit-bought {
		return fmt.Errorf("%w: %d of %d bought, %d more wanted: choose another spec", ErrPurchaseRestricted, bought, spec.PurchaseLimit, in.Quantity)
	}
	return nil
}

// subscribe finds the subscription that spec's packages stack in (PKG-9), or
// makes it, which it reports. On-demand packages need the one that opening the
// on-demand service made (PKG-2).
func subscribe(ctx context.Context, tx *sqldb.Tx, spec *Spec, account string, now time.Time) (sub Subscription, made bool, err error) {
	sub, found, err := openSubscription(ctx, tx, account, spec)
	switch {
	case err != nil:
		return Subscription{}, false, fmt.Errorf("find the subscription: %w", err)
	case found && sub.State == directory.SubscriptionFrozen:
		return Subscription{}, false, fmt.Errorf("%w: subscription %s", ErrSubscriptionFrozen, sub.ID)
	case found && spec.Mode == directory.ModeOnDemand:
		return Subscription{}, false, fmt.Errorf("%w: subscription %s", ErrOnDemandOpen, sub.ID)
	case found:
		return sub, false, nil
	case spec.Mode == directory.ModeOnDemandPackage:
		return Subscription{}, false, fmt.Errorf("%w: buy the product's on-demand spec for %s", ErrOnDemandNotOpen, unitKey(spec.Units()))
	}
	if sub, err = insertSubscription(ctx, tx, account, spec, now); err != nil {
		return Subscription{}, false, fmt.Errorf("make the subscription: %w", err)
	}
	return sub, true, nil
}

// pay moves the order's amount from the buyer to the seller and returns the id
// of the ledger transaction, "" when there is nothing to pay (PAY-6).
func pay(ctx context.Context, tx *sqldb.Tx, o *Order, now time.Time) (string, error) {
	if o.Amount == 0 {
		return "", nil
	}
	debit, err := o.Amount.Neg()
	if err != nil {
		return "", err
	}
	id := ids.New(now)
	return id, post(ctx, tx, transaction{
		id: id, kind: KindPurchase, reference: o.ID, actor: o.Actor,
		postings: []posting{{BuyerAccount(o.Account), debit}, {SellerAccount(o.Seller), o.Amount}},
	}, now)
}

// tellPaid posts the receipt of an order that cost something (MSG-10).
func (s *Service) tellPaid(ctx context.Context, tx *sqldb.Tx, o *Order, spec, product string) error {
	if s.notices == nil || o.Amount == 0 {
		return nil
	}
	entry, err := entryOf(ctx, tx, BuyerAccount(o.Account), o.Transaction)
	if err != nil {
		return err
	}
	_, err = s.notices.Post(ctx, tx, notify.Event{
		Account: o.Account, Kind: "order_paid", Dedup: o.ID, Object: o.ID,
		Data: map[string]any{
			"order": o.ID, "product": product, "spec": spec, "amount": int64(o.Amount), "balance": int64(entry.Balance), "link": "/orders/" + o.ID,
		},
	})
	return err
}
