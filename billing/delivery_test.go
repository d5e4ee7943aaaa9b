package billing

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/testkit/wait"
)

// TestDeliveryGoesOn holds that lots reach a store that was away, in their
// order of time, and that the order is completed by the last of them.
func TestDeliveryGoesOn(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		spec := f.spec(t, tokens())
		f.store.fail(errStoreDown, nil)
		order := f.buy(t, "buyer", spec, 2)
		if order.State != OrderProcessing || !order.Completed.IsZero() {
			t.Fatalf("with the store away: %+v", order)
		}
		b, err := f.Backlog(t.Context())
		if err != nil || b.Lots != 4 || !b.Oldest.Equal(start) || b.Attempts != 1 || !strings.Contains(b.LastError, "down") {
			t.Fatalf("%+v, %v", b, err)
		}
		// Not due again yet; then due, and put off further each time, but never
		// by more than PKG-27 allows.
		if n, err := f.DeliverDue(t.Context()); n != 0 || err != nil {
			t.Fatalf("tried %d at once, %v", n, err)
		}
		for range 12 {
			f.clock.advance(deliverMost)
			if n, err := f.DeliverDue(t.Context()); n != 4 || err != nil {
				t.Fatalf("tried %d after %s, %v", n, deliverMost, err)
			}
		}
		if b, err := f.Backlog(t.Context()); err != nil || b.Attempts != 13 || !b.Oldest.Equal(start) {
			t.Fatalf("%+v, %v", b, err)
		}
		f.store.fail(nil, nil)
		f.clock.advance(deliverMost)
		if n, err := f.DeliverDue(t.Context()); n != 4 || err != nil {
			t.Fatalf("tried %d, %v", n, err)
		}
		order, err = f.Order(t.Context(), order.ID)
		if err != nil || order.State != OrderCompleted || !order.Completed.Equal(f.clock.now()) {
			t.Fatalf("%+v, %v", order, err)
		}
		if b, err := f.Backlog(t.Context()); err != nil || b != (Backlog{}) {
			t.Fatalf("%+v, %v", b, err)
		}
		f.wantSound(t)
	})
}

// TestPartOfAnOrder holds that an order is not completed while one of its lots
// is missing in the store.
func TestPartOfAnOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		f.store.fail(errStoreDown, nil)
		order := f.buy(t, "buyer", f.spec(t, tokens()), 3)
		f.store.fail(nil, nil)
		f.store.refused = f.orderLots(t, order.ID)[2].ID
		for range 3 {
			f.clock.advance(deliverMost)
			if _, err := f.DeliverDue(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if o, err := f.Order(t.Context(), order.ID); err != nil || o.State != OrderProcessing || f.store.size() != 5 {
			t.Fatalf("with 5 of 6 lots: %+v, %v, %d in the store", o, err, f.store.size())
		}
		f.store.refused = ""
		f.clock.advance(deliverMost)
		if n, err := f.DeliverDue(t.Context()); n != 1 || err != nil {
			t.Fatalf("tried %d, %v", n, err)
		}
		if o, err := f.Order(t.Context(), order.ID); err != nil || o.State != OrderCompleted {
			t.Fatalf("%+v, %v", o, err)
		}
	})
}

// TestOvertakenVersion changes a lot while its first version is on the way: that
// version's arrival must not pass for the second one's.
func TestOvertakenVersion(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		f.store.during = func(g lot.Grant) {
			f.store.fail(errStoreDown, nil)
			if _, err := f.AddUnits(t.Context(), LotChange{Lot: g.ID, Add: 1, Reason: "r", IdempotencyKey: key()}); err != nil {
				t.Error(err)
			}
			f.store.fail(nil, nil)
		}
		order := f.buy(t, "buyer", f.spec(t, perCall()), 1)
		l := f.orderLots(t, order.ID)[0]
		if g, _ := f.store.has(l.ID); g.Version != 1 || l.Version != 2 || l.Delivered || order.State != OrderCompleted {
			t.Fatalf("the store has %+v, the books %+v", g, l)
		}
		f.clock.advance(deliverMost)
		if n, err := f.DeliverDue(t.Context()); n != 1 || err != nil {
			t.Fatalf("tried %d, %v", n, err)
		}
		if g, _ := f.store.has(l.ID); g.Version != 2 || g.Amount != 1001 {
			t.Fatalf("the store has %+v", g)
		}
		f.wantSound(t)
	})
}

// TestLostAnswer has the store apply grants and its answers lost: they are
// delivered again and take effect once.
func TestLostAnswer(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		f.store.fail(nil, errors.New("connection reset"))
		order := f.buy(t, "buyer", f.spec(t, tokens()), 1)
		if order.State != OrderProcessing || f.store.size() != 2 {
			t.Fatalf("%+v, %d lots", order, f.store.size())
		}
		f.store.fail(nil, nil)
		f.restart(t)
		f.clock.advance(deliverMost)
		if _, err := f.DeliverDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		for id, n := range f.store.changes {
			if n != 1 {
				t.Errorf("lot %s took effect %d times", id, n)
			}
		}
		if order, err := f.Order(t.Context(), order.ID); err != nil || order.State != OrderCompleted {
			t.Errorf("%+v, %v", order, err)
		}
	})
}

// TestRun holds that the background loop delivers what another process left
// behind, without being told.
func TestRun(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		f.store.fail(errStoreDown, nil)
		left := f.buy(t, "buyer", f.spec(t, tokens()), 1)
		f.store.fail(nil, nil)
		f.clock.advance(deliverMost)
		f.restart(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- f.Run(ctx) }()
		wait.Until(t, 10*time.Second, "the order to be completed", func(ctx context.Context) error {
			o, err := f.Order(ctx, left.ID)
			if err == nil && o.State != OrderCompleted {
				err = errors.New(string(o.State))
			}
			return err
		})
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestSlowStoreDoesNotHoldAPurchase gives up waiting for a store that hangs and
// leaves the rest to Run, without blaming the store.
func TestSlowStoreDoesNotHoldAPurchase(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		f.lots = hangingStore{}
		order := f.buy(t, "buyer", f.spec(t, tokens()), 1)
		if order.State != OrderProcessing {
			t.Fatalf("%+v", order)
		}
		f.lots = f.store
		if n, err := f.DeliverDue(t.Context()); n != 2 || err != nil || f.store.size() != 2 {
			t.Fatalf("tried %d, %v", n, err)
		}
	})
}

// hangingStore never answers.
type hangingStore struct{}

func (hangingStore) ApplyGrant(ctx context.Context, _ lot.Grant) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestVoidAndAddUnits(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		order := f.buy(t, "buyer", f.spec(t, tokens()), 1)
		lots := f.orderLots(t, order.ID)
		f.clock.advance(time.Minute)
		add := LotChange{Lot: lots[0].ID, Add: 500, Reason: "goodwill", Actor: "operator", IdempotencyKey: "k"}
		l, err := f.AddUnits(t.Context(), add)
		if err != nil || l.Amount != 50_500 || l.Version != 2 || !l.Delivered || l.Reason != "goodwill" || l.ChangedBy != "operator" || !l.Updated.Equal(f.clock.now()) {
			t.Fatalf("%+v, %v", l, err)
		}
		if l, err = f.AddUnits(t.Context(), add); err != nil || l.Amount != 50_500 || l.Version != 2 {
			t.Fatalf("repeated: %+v, %v", l, err)
		}
		other := add
		other.Add = 501
		if _, err := f.AddUnits(t.Context(), other); !errors.Is(err, ErrIdempotencyConflict) {
			t.Fatalf("other units under the same key: %v", err)
		}
		if g, _ := f.store.has(lots[0].ID); g.Amount != 50_500 || g.Version != 2 {
			t.Fatalf("the store has %+v", g)
		}
		void := LotChange{Lot: lots[0].ID, Reason: "fraud", Actor: "operator"}
		if l, err = f.VoidLot(t.Context(), void); err != nil || !l.Void || l.Version != 3 {
			t.Fatalf("%+v, %v", l, err)
		}
		if l, err = f.VoidLot(t.Context(), void); err != nil || l.Version != 3 {
			t.Fatalf("voided twice: %+v, %v", l, err)
		}
		if g, _ := f.store.has(lots[0].ID); !g.Void {
			t.Fatalf("the store has %+v", g)
		}
		add.IdempotencyKey = key()
		if _, err := f.AddUnits(t.Context(), add); !errors.Is(err, ErrLotVoid) {
			t.Fatalf("units added to a void lot: %v", err)
		}
		add.Lot, add.Add = lots[1].ID, lot.MaxAmount
		if _, err := f.AddUnits(t.Context(), add); !errors.Is(err, ErrInvalid) {
			t.Fatalf("units past exact numbers: %v", err)
		}
		if _, err := f.AddUnits(t.Context(), LotChange{Lot: lots[1].ID, Add: -1}); !errors.Is(err, ErrInvalid) {
			t.Fatalf("units taken away: %v", err)
		}
		if _, err := f.VoidLot(t.Context(), LotChange{Lot: "no", Reason: "r"}); !errors.Is(err, ErrLotNotFound) {
			t.Fatalf("a lot that is not there: %v", err)
		}
		if _, err := f.VoidLot(t.Context(), LotChange{Lot: lots[1].ID}); !errors.Is(err, ErrInvalid) {
			t.Fatalf("without a reason: %v", err)
		}
		f.wantBalance(t, "buyer", "95") // PKG-10: nothing comes back
		f.wantSound(t)
	})
}

// TestVersionsWhileAway changes a lot twice before the store has it at all: the
// newest version is what is delivered, and it completes the order.
func TestVersionsWhileAway(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		f.store.fail(errStoreDown, nil)
		order := f.buy(t, "buyer", f.spec(t, perCall()), 1)
		id := f.orderLots(t, order.ID)[0].ID
		if l, err := f.AddUnits(t.Context(), LotChange{Lot: id, Add: 1, Reason: "r", IdempotencyKey: key()}); err != nil || l.Delivered {
			t.Fatalf("%+v, %v", l, err)
		}
		if _, err := f.VoidLot(t.Context(), LotChange{Lot: id, Reason: "r"}); err != nil {
			t.Fatal(err)
		}
		f.store.fail(nil, nil)
		f.clock.advance(deliverMost)
		if n, err := f.DeliverDue(t.Context()); n != 1 || err != nil {
			t.Fatalf("tried %d, %v", n, err)
		}
		if g, _ := f.store.has(id); g.Version != 3 || !g.Void || f.store.changes[id] != 1 {
			t.Errorf("the store has %+v after %d changes", g, f.store.changes[id])
		}
		if o, err := f.Order(t.Context(), order.ID); err != nil || o.State != OrderCompleted {
			t.Errorf("%+v, %v", o, err)
		}
		f.wantSound(t)
	})
}

// TestRegrant fills a store that was emptied: with every lot, also those that
// are over, because what was used of them stays on the books.
func TestRegrant(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		stays := f.orderLots(t, f.buy(t, "buyer", f.spec(t, tokens()), 1).ID)
		expires := f.orderLots(t, f.buy(t, "buyer", f.spec(t, perCall()), 1).ID)
		if _, err := f.VoidLot(t.Context(), LotChange{Lot: stays[1].ID, Reason: "r"}); err != nil {
			t.Fatal(err)
		}
		regrant := func(what string, want int, target error) {
			t.Helper()
			seen := map[string]bool{}
			n, err := f.Regrant(t.Context(), func(ctx context.Context, subscription string, lots []Lot) error {
				if seen[subscription] {
					t.Errorf("%s: subscription %s was handed over twice", what, subscription)
				}
				seen[subscription] = true
				for _, l := range lots {
					if l.Subscription != subscription || !l.Delivered {
						t.Errorf("%s: lot %+v among those of %s", what, l, subscription)
					}
					if err := f.store.ApplyGrant(ctx, l.Grant); err != nil {
						return err
					}
				}
				return nil
			})
			if n != want || !errors.Is(err, target) {
				t.Fatalf("%s: %d, %v", what, n, err)
			}
		}
		f.store.empty()
		regrant("emptied", 3, nil)
		if f.store.size() != 3 {
			t.Fatalf("%d in the store", f.store.size())
		}
		if g, _ := f.store.has(stays[1].ID); !g.Void {
			t.Error("a void lot came back to life")
		}
		regrant("again, harmless", 3, nil)
		f.clock.advance(expires[0].Expires.Sub(f.clock.now()))
		f.store.empty()
		regrant("after one expired", 3, nil)
		f.store.fail(errStoreDown, nil)
		regrant("into a store that is away", 0, errStoreDown)
	})
}

func TestSubscriptionStates(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		spec := f.spec(t, tokens())
		order := f.buy(t, "buyer", spec, 1)
		in := SubscriptionChange{ID: order.Subscription, Reason: "arrears", Actor: "operator"}
		want := func(what string, sub Subscription, err error, state directory.SubscriptionState, hooks int) {
			t.Helper()
			if err != nil || sub.State != state || f.changed != hooks || f.committed != hooks {
				t.Fatalf("%s: %+v, %v, hooks ran %d and %d times, want %d", what, sub, err, f.changed, f.committed, hooks)
			}
			if got, err := f.Subscription(t.Context(), sub.ID); err != nil || got.State != state {
				t.Fatalf("%s: %+v, %v", what, got, err)
			}
		}
		if _, err := f.Freeze(t.Context(), SubscriptionChange{ID: order.Subscription}); !errors.Is(err, ErrInvalid) {
			t.Fatalf("frozen without a reason: %v", err)
		}
		sub, err := f.Freeze(t.Context(), in)
		want("freeze", sub, err, directory.SubscriptionFrozen, 2)
		sub, err = f.Freeze(t.Context(), in)
		want("freeze again", sub, err, directory.SubscriptionFrozen, 2)
		buy := PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: 1, IdempotencyKey: key()}
		if _, err := f.Purchase(t.Context(), buy); !errors.Is(err, ErrSubscriptionFrozen) {
			t.Fatalf("bought into a frozen subscription: %v", err)
		}
		sub, err = f.Unfreeze(t.Context(), SubscriptionChange{ID: order.Subscription})
		want("unfreeze", sub, err, directory.SubscriptionActive, 3)
		if _, err := f.Purchase(t.Context(), buy); err != nil {
			t.Fatal(err)
		}
		sub, err = f.Close(t.Context(), in)
		want("close", sub, err, directory.SubscriptionClosed, 4)
		if _, err := f.Unfreeze(t.Context(), in); !errors.Is(err, ErrSubscriptionClosed) {
			t.Fatalf("reopened: %v", err)
		}
		if n, err := f.DeliverDue(t.Context()); n != 4 || err != nil {
			t.Fatalf("%d lots voided, %v", n, err)
		}
		for id, g := range f.store.grants {
			if !g.Void {
				t.Errorf("lot %s of a closed subscription is not void", id)
			}
		}
		// A new one for the next purchase; the closed one is shown for a while.
		if again := f.buy(t, "buyer", spec, 1); again.Subscription == order.Subscription {
			t.Fatal("bought into a closed subscription")
		}
		for after, n := range map[time.Duration]int{0: 2, closedShownFor + time.Second: 1} {
			f.clock.advance(after)
			if dir, err := f.DirectorySubscriptions(t.Context()); err != nil || len(dir) != n {
				t.Errorf("%d subscriptions in the directory after %s, %v", len(dir), after, err)
			}
			f.clock.advance(-after)
		}
		in.ID = "no"
		if _, err := f.Freeze(t.Context(), in); !errors.Is(err, ErrSubscriptionNotFound) {
			t.Fatalf("a subscription that is not there: %v", err)
		}
		f.wantSound(t)
	})
}

// TestTwoDeliverersOfOneOrder has two processes note the two lots of an order
// at the same time: the later of them must see both and complete it.
func TestTwoDeliverersOfOneOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "1000")
		spec := f.spec(t, tokens())
		for range 30 {
			f.store.fail(errStoreDown, nil)
			order := f.buy(t, "buyer", spec, 1)
			f.store.fail(nil, nil)
			var ready, wg sync.WaitGroup
			ready.Add(2)
			for _, l := range f.orderLots(t, order.ID) {
				wg.Go(func() {
					ready.Done()
					ready.Wait()
					if err := f.note(t.Context(), []delivery{{lot: l.ID, order: order.ID, version: 1}}); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if o, err := f.Order(t.Context(), order.ID); err != nil || o.State != OrderCompleted {
				t.Fatalf("both lots are noted: %+v, %v", o, err)
			}
		}
	})
}
