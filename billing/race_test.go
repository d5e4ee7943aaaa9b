package billing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"tollgate/internal/money"
)

// TestEverythingAtOnce runs every operation from many goroutines on few
// accounts, with a quota store that fails now and then and two processes
// delivering. Nothing may be refused but for a reason of the rules, and the
// books must hold: this is what finds locks taken in different orders.
func TestEverythingAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		credit := onDemand()
		credit.Quotas[0].Amount = 500
		specs := []Spec{f.spec(t, perCall()), f.spec(t, tokens()), f.spec(t, credit)}
		accounts := []string{"ann", "bob", "cay"}
		for _, a := range accounts {
			f.topUp(t, a, "200")
		}
		ctx, stop := context.WithCancel(t.Context())
		var background, wg sync.WaitGroup
		for range 2 { // as two processes would
			background.Go(func() {
				if err := f.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		for worker := range 10 {
			wg.Go(func() {
				for range 25 {
					if err := f.something(ctx, accounts, specs); err != nil {
						t.Errorf("worker %d: %v", worker, err)
					}
				}
			})
		}
		wg.Wait()
		stop()
		background.Wait()
		f.store.fail(nil, nil)
		for range 20 {
			f.clock.advance(deliverMost)
			if _, err := f.DeliverDue(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := f.Backlog(t.Context()); err != nil || b.Lots != 0 {
			t.Errorf("%+v, %v", b, err)
		}
		f.wantSound(t)
		lots, _, err := f.Lots(t.Context(), LotFilter{Page: Page{Limit: maxPage}})
		if err != nil || len(lots) != f.store.size() {
			t.Errorf("%d lots in the books, %d in the store, %v", len(lots), f.store.size(), err)
		}
		for _, l := range lots {
			if g, ok := f.store.has(l.ID); !ok || g != l.Grant {
				t.Errorf("the store has %+v of %+v", g, l.Grant)
			}
		}
	})
}

// something does one thing of those a buyer, a seller or an operator may do, and
// returns what should not have gone wrong.
func (f *fixture) something(ctx context.Context, accounts []string, specs []Spec) error {
	account := accounts[rand.IntN(len(accounts))]
	var err error
	switch rand.IntN(10) {
	case 0:
		_, err = f.TopUp(ctx, TopUpInput{Account: account, Amount: money.Yuan, IdempotencyKey: key()})
	case 1:
		f.store.fail(errStoreDown, nil)
	case 2:
		f.store.fail(nil, nil)
	case 3:
		var subs []Subscription
		if subs, _, err = f.Subscriptions(ctx, SubscriptionFilter{Account: account}); err != nil || len(subs) == 0 {
			break
		}
		in := SubscriptionChange{ID: subs[rand.IntN(len(subs))].ID, Reason: "r"}
		change := []func(context.Context, SubscriptionChange) (Subscription, error){f.Freeze, f.Unfreeze, f.Unfreeze, f.Close}
		_, err = change[rand.IntN(len(change))](ctx, in)
	case 4, 5:
		var lots []Lot
		if lots, _, err = f.Lots(ctx, LotFilter{}); err != nil || len(lots) == 0 {
			break
		}
		in := LotChange{Lot: lots[rand.IntN(len(lots))].ID, Add: 1, Reason: "r", IdempotencyKey: key()}
		if rand.IntN(4) == 0 {
			_, err = f.VoidLot(ctx, in)
		} else {
			_, err = f.AddUnits(ctx, in)
		}
	default:
		in := PurchaseInput{Account: account, Spec: specs[rand.IntN(len(specs))].ID, Quantity: 1, IdempotencyKey: key()}
		var a, b Order
		if a, err = f.Purchase(ctx, in); err != nil {
			break
		}
		if b, err = f.Purchase(ctx, in); err == nil && a.ID != b.ID {
			err = fmt.Errorf("orders %s and %s under one key", a.ID, b.ID)
		}
	}
	for _, rule := range []error{ErrInsufficientBalance, ErrSubscriptionFrozen, ErrSubscriptionClosed, ErrOnDemandOpen, ErrLotVoid} {
		if errors.Is(err, rule) {
			return nil
		}
	}
	return err
}
