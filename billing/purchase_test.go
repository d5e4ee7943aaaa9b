package billing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/usage"
)

func TestPurchase(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		spec := f.spec(t, perCall())
		f.topUp(t, "buyer", "100")
		order := f.buy(t, "buyer", spec, 2)
		want := Order{
			ID: order.ID, Type: OrderNew, Account: "buyer", Seller: "sky", Product: "weather", Spec: spec.ID, Series: spec.ID,
			Quantity: 2, UnitPrice: money.MustParse("9.90"), Amount: money.MustParse("19.80"), Payment: PaymentBalance,
			State: OrderCompleted, Subscription: order.Subscription, Transaction: order.Transaction, IdempotencyKey: order.IdempotencyKey,
			Actor: "buyer", Placed: start, Paid: start, Completed: start,
		}
		if d := cmp.Diff(want, order); d != "" {
			t.Fatal(d)
		}
		f.wantBalance(t, "buyer", "80.20")
		// One lot per package, each valid for a month of Beijing's calendar.
		lots := f.orderLots(t, order.ID)
		if len(lots) != 2 {
			t.Fatalf("%d lots", len(lots))
		}
		for _, l := range lots {
			want := lot.Grant{
				ID: l.ID, Subscription: order.Subscription, Unit: usage.Call, Amount: 1000, Effective: start,
				Expires: time.Date(2026, 12, 31, 18, 30, 15, 250_000_000, time.UTC), Version: 1,
			}
			got, ok := f.store.has(l.ID)
			if d := cmp.Diff(want, got); d != "" || !ok || !l.Delivered {
				t.Errorf("the store has %t: %s", ok, d)
			}
		}
		sub, err := f.Subscription(t.Context(), order.Subscription)
		if err != nil || sub.State != directory.SubscriptionActive || sub.Account != "buyer" || sub.Product != "weather" {
			t.Fatalf("%+v, %v", sub, err)
		}
		dir, err := f.DirectorySubscriptions(t.Context())
		wantDir := []directory.Subscription{{
			ID: sub.ID, Account: "buyer", Product: "weather", Mode: directory.ModePerCall, State: directory.SubscriptionActive,
			Units: []usage.Unit{usage.Call}, Created: start,
		}}
		if d := cmp.Diff(wantDir, dir); d != "" || err != nil {
			t.Fatalf("directory: %v %s", err, d)
		}
		f.wantSound(t)
	})
}

// TestStacking holds PKG-9: packages of the same units stack in one
// subscription, whatever their spec; other units or another family of modes get
// their own, and so does every buyer.
func TestStacking(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "1000")
		f.topUp(t, "other", "1000")
		small := f.spec(t, tokens())
		in := tokens()
		in.Name, in.Quotas = "large, in another order", []Quota{{usage.InputToken, 9}, {usage.OutputToken, 7}}
		large := f.spec(t, in)
		in.Name, in.Quotas = "calls", []Quota{{usage.Call, 9}}
		calls := f.spec(t, in)
		in.Mode = directory.ModePerCall
		perCall := f.spec(t, in)

		first := f.buy(t, "buyer", small, 1).Subscription
		for name, c := range map[string]struct {
			account string
			spec    Spec
			same    bool
		}{
			"the same spec":      {"buyer", small, true},
			"the same units":     {"buyer", large, true},
			"another unit":       {"buyer", calls, false},
			"another mode":       {"buyer", perCall, false},
			"somebody else's":    {"other", small, false},
			"somebody's further": {"other", large, false},
		} {
			if got := f.buy(t, c.account, c.spec, 1).Subscription; (got == first) != c.same {
				t.Errorf("%s: subscription %s beside %s", name, got, first)
			}
		}
		subs, _, err := f.Subscriptions(t.Context(), SubscriptionFilter{Account: "buyer", Product: "chat"})
		if err != nil || len(subs) != 3 {
			t.Fatalf("%d subscriptions, %v", len(subs), err)
		}
		if f.changed != 4 || f.committed != 4 {
			t.Errorf("%d subscriptions were made, the hooks ran %d and %d times", 4, f.changed, f.committed)
		}
		f.wantSound(t)
	})
}

// TestLotsOfOneOrder holds that a package has a lot per unit, made in the order
// in which PKG-20 uses them.
func TestLotsOfOneOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		in := tokens()
		in.Price, in.Reset, in.Zone, in.Validity = 0, lot.Day, "Europe/Berlin", Validity{Duration: 48 * time.Hour}
		order := f.buy(t, "buyer", f.spec(t, in), 2)
		if order.Amount != 0 || order.Transaction != "" || order.State != OrderCompleted {
			t.Errorf("PAY-6, an order of nothing: %+v", order)
		}
		var got []string
		for _, l := range f.orderLots(t, order.ID) {
			got = append(got, fmt.Sprintf("%d %s %s %s %t %t %s", l.Amount, l.Unit, l.Reset, l.Zone, l.ZeroPrice, l.Overflow, l.Expires.Sub(l.Effective)))
		}
		a, b := "50000 output_token day Europe/Berlin true false 48h0m0s", "200000 input_token day Europe/Berlin true false 48h0m0s"
		if d := cmp.Diff([]string{a, b, a, b}, got); d != "" {
			t.Error(d)
		}
		f.wantSound(t)
	})
}

// TestOnDemand holds PKG-2 and PKG-3: an on-demand package is sold only where
// the on-demand service is open, and stacks before its credit line.
func TestOnDemand(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		in := onDemand()
		in.Name, in.Mode, in.Price, in.Quotas = "a million", directory.ModeOnDemandPackage, money.Yuan, []Quota{{usage.Token, 1_000_000}}
		pack := f.spec(t, in)
		service := f.spec(t, onDemand())
		buy := func(spec Spec, quantity int64) (Order, error) {
			return f.Purchase(t.Context(), PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: quantity, IdempotencyKey: key()})
		}
		if _, err := buy(pack, 1); !errors.Is(err, ErrOnDemandNotOpen) {
			t.Fatalf("PKG-2, before it is open: %v", err)
		}
		if _, err := buy(service, 2); !errors.Is(err, ErrInvalid) {
			t.Fatalf("opened twice in one order: %v", err)
		}
		opened, err := buy(service, 1)
		if err != nil {
			t.Fatal(err)
		}
		credit := f.orderLots(t, opened.ID)
		if len(credit) != 1 || !credit[0].Overflow || credit[0].ZeroPrice || credit[0].Amount != lot.MaxAmount || !credit[0].Expires.IsZero() {
			t.Fatalf("credit line: %+v", credit)
		}
		if _, err := buy(service, 1); !errors.Is(err, ErrOnDemandOpen) {
			t.Fatalf("opened twice: %v", err)
		}
		bought, err := buy(pack, 3)
		if err != nil || bought.Subscription != opened.Subscription {
			t.Fatalf("PKG-3, package beside its service: %+v, %v", bought, err)
		}
		for _, l := range f.orderLots(t, bought.ID) {
			if l.Overflow || l.Amount != 1_000_000 {
				t.Errorf("package: %+v", l)
			}
		}
		// A credit of the spec's own goes before the setting; closed is not open.
		if _, err := f.Close(t.Context(), SubscriptionChange{ID: opened.Subscription, Reason: "asked for"}); err != nil {
			t.Fatal(err)
		}
		if _, err := buy(pack, 1); !errors.Is(err, ErrOnDemandNotOpen) {
			t.Fatalf("after it was closed: %v", err)
		}
		in = onDemand()
		in.Quotas[0].Amount = 500
		opened, err = buy(f.spec(t, in), 1)
		if err != nil || f.orderLots(t, opened.ID)[0].Amount != 500 {
			t.Fatalf("%+v, %v", opened, err)
		}
		f.wantSound(t)
	})
}

func TestPurchaseRefusals(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		spec := f.spec(t, perCall())
		in := PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: 3, Actor: "buyer", IdempotencyKey: "k"}
		f.topUp(t, "buyer", "20")
		var short *InsufficientBalanceError
		_, err := f.Purchase(t.Context(), in)
		if !errors.Is(err, ErrInsufficientBalance) || !errors.As(err, &short) {
			t.Fatalf("too little money: %v", err)
		}
		missing, err := short.Missing()
		if short.Needed != money.MustParse("29.70") || short.Available != money.MustParse("20") || missing != money.MustParse("9.70") || err != nil ||
			!strings.Contains(short.Error(), "top up at least 9.70") {
			t.Fatalf("%v", short)
		}
		// A refusal leaves nothing: no subscription, no order, and the key free.
		if subs, _, err := f.Subscriptions(t.Context(), SubscriptionFilter{}); err != nil || len(subs) != 0 || f.committed != 0 {
			t.Fatalf("a refused purchase left a subscription: %v, %v", subs, err)
		}
		f.topUp(t, "buyer", "9.70")
		if _, err := f.Purchase(t.Context(), in); err != nil {
			t.Fatalf("the same key after a top-up: %v", err)
		}
		f.wantBalance(t, "buyer", "0")
		for name, c := range map[string]struct {
			change func(*PurchaseInput)
			want   error
		}{
			"no account":       {func(in *PurchaseInput) { in.Account = "" }, ErrInvalid},
			"no spec":          {func(in *PurchaseInput) { in.Spec = "" }, ErrInvalid},
			"no quantity":      {func(in *PurchaseInput) { in.Quantity = 0 }, ErrInvalid},
			"quantity too big": {func(in *PurchaseInput) { in.Quantity = MaxQuantity + 1 }, ErrInvalid},
			"no key":           {func(in *PurchaseInput) { in.IdempotencyKey = "" }, ErrInvalid},
			"unknown spec":     {func(in *PurchaseInput) { in.Spec = "no" }, ErrSpecNotFound},
		} {
			bad := in
			bad.IdempotencyKey = key()
			c.change(&bad)
			if _, err := f.Purchase(t.Context(), bad); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := f.Order(t.Context(), "no"); !errors.Is(err, ErrOrderNotFound) {
			t.Errorf("an order that is not there: %v", err)
		}
		f.wantSound(t)
	})
}

// TestRepeatedPurchase holds ORDER-15.
func TestRepeatedPurchase(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		spec := f.spec(t, perCall())
		f.topUp(t, "buyer", "1000")
		f.topUp(t, "other", "1000")
		in := PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: 1, Actor: "buyer", IdempotencyKey: "once"}
		orders := make([]Order, 8)
		var wg sync.WaitGroup
		for i := range orders { // a double click, eight times over
			wg.Go(func() {
				var err error
				if orders[i], err = f.Purchase(t.Context(), in); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, o := range orders {
			if o.ID != orders[0].ID {
				t.Errorf("orders %s and %s under one key", o.ID, orders[0].ID)
			}
		}
		f.wantBalance(t, "buyer", "990.10")
		if f.store.size() != 1 {
			t.Errorf("%d lots", f.store.size())
		}
		// The same order later too, although the spec is no longer sold.
		if _, err := f.SetSpecState(t.Context(), spec.ID, SpecWithdrawn); err != nil {
			t.Fatal(err)
		}
		if o, err := f.Purchase(t.Context(), in); err != nil || o.ID != orders[0].ID || o.State != OrderCompleted {
			t.Fatalf("%+v, %v", o, err)
		}
		changed := in
		changed.Quantity = 2
		if _, err := f.Purchase(t.Context(), changed); !errors.Is(err, ErrIdempotencyConflict) {
			t.Fatalf("another quantity under the same key: %v", err)
		}
		other := in
		other.Account = "other"
		if _, err := f.Purchase(t.Context(), other); !errors.Is(err, ErrSpecOffline) {
			t.Fatalf("another account's key is its own, so this is a new purchase: %v", err)
		}
		f.wantSound(t)
	})
}

// TestMoneyForK buys at once from N goroutines with money for k: exactly k
// purchases succeed, and what they bought is there.
func TestMoneyForK(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		const n, k = 24, 7
		spec := f.spec(t, perCall())
		f.topUp(t, "buyer", "69.35") // seven times 9.90 and 5 fen
		var bought atomic.Int64
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				_, err := f.Purchase(t.Context(), PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: 1, IdempotencyKey: key()})
				if err == nil {
					bought.Add(1)
				} else if !errors.Is(err, ErrInsufficientBalance) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if bought.Load() != k || f.store.size() != k {
			t.Errorf("%d purchases and %d lots, want %d", bought.Load(), f.store.size(), k)
		}
		f.wantBalance(t, "buyer", "0.05")
		subs, _, err := f.Subscriptions(t.Context(), SubscriptionFilter{})
		if err != nil || len(subs) != 1 {
			t.Errorf("%d subscriptions, %v", len(subs), err)
		}
		f.wantSound(t)
	})
}

// TestManyBuyersOneSeller has the seller's account as the hot row.
func TestManyBuyersOneSeller(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		const buyers, each = 12, 5
		spec := f.spec(t, perCall())
		var wg sync.WaitGroup
		for i := range buyers {
			buyer := fmt.Sprintf("buyer-%d", i)
			f.topUp(t, buyer, "49.50")
			wg.Go(func() {
				for range each {
					if _, err := f.Purchase(t.Context(), PurchaseInput{Account: buyer, Spec: spec.ID, Quantity: 1, IdempotencyKey: key()}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		earned, _, err := f.Statement(t.Context(), StatementInput{Account: SellerAccount("sky"), Page: Page{Limit: 1}})
		if err != nil || earned[0].Balance != buyers*each*spec.Price || earned[0].Seq != buyers*each {
			t.Errorf("earned: %+v, %v", earned, err)
		}
		if v := f.wantSound(t); v.Owed != 0 || v.Orders != buyers*each {
			t.Errorf("%+v", v)
		}
	})
}

// TestPurchaseLimit holds LIMIT-3, over the versions of a spec and against
// purchases at once.
func TestPurchaseLimit(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		in := perCall()
		in.Price, in.PurchaseLimit = 0, 3
		spec := f.spec(t, in)
		var bought atomic.Int64
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				_, err := f.Purchase(t.Context(), PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: 1, IdempotencyKey: key()})
				if err == nil {
					bought.Add(1)
				} else if !errors.Is(err, ErrPurchaseRestricted) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if bought.Load() != 3 {
			t.Errorf("%d bought", bought.Load())
		}
		in.PurchaseLimit = 4
		next, err := f.ReviseSpec(t.Context(), spec.ID, in)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Purchase(t.Context(), PurchaseInput{Account: "buyer", Spec: next.ID, Quantity: 2, IdempotencyKey: key()})
		if !errors.Is(err, ErrPurchaseRestricted) || !strings.Contains(err.Error(), "3 of 4 bought") {
			t.Errorf("the new version counts the old one's: %v", err)
		}
		f.buy(t, "buyer", next, 1)
		_, err = f.Purchase(t.Context(), PurchaseInput{Account: "buyer", Spec: next.ID, Quantity: 1, IdempotencyKey: key()})
		if !errors.Is(err, ErrPurchaseRestricted) || !strings.Contains(err.Error(), "4 of 4 bought") {
			t.Errorf("both versions count: %v", err)
		}
		f.buy(t, "another", next, 4) // the limit is each account's own
		f.wantSound(t)
	})
}

// TestOrderAmount holds CONV-7: one rounding per order line, half up.
func TestOrderAmount(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		price    string
		quantity int64
		want     string
	}{
		{"9.90", 2, "19.80"},
		{"0.005", 1, "0.01"},
		{"0.005", 3, "0.02"},
		{"0.0049", 1, "0.00"},
		{"0.0049", 3, "0.01"},
		{"0.000001", 1000, "0.00"},
		{"0.000005", 1000, "0.01"},
		{"1000000000", 1000, "1000000000000.00"},
	} {
		got, err := orderAmount(money.MustParse(c.price), c.quantity)
		if err != nil || got.String() != c.want {
			t.Errorf("%d at %s = %s, %v, want %s", c.quantity, c.price, got, err, c.want)
		}
	}
}

// TestHookRefusal holds that the change and the hook's own are one: when the
// hook fails, nothing was bought.
func TestHookRefusal(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		spec := f.spec(t, perCall())
		f.topUp(t, "buyer", "100")
		f.refuse = errors.New("no directory")
		if _, err := f.Purchase(t.Context(), PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: 1, IdempotencyKey: "k"}); !errors.Is(err, f.refuse) {
			t.Fatalf("%v", err)
		}
		f.wantBalance(t, "buyer", "100")
		if v := f.wantSound(t); v.Orders != 0 || f.committed != 0 || f.store.calls != 0 {
			t.Fatalf("%+v, %d, %d", v, f.committed, f.store.calls)
		}
	})
}

// TestCallerLeaves has the buyer hang up in the middle of the purchase: it is
// carried out all the same, with its lots, so that a repetition finds it.
func TestCallerLeaves(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		spec := f.spec(t, perCall())
		f.topUp(t, "buyer", "100")
		ctx, leave := context.WithCancel(t.Context())
		f.onChange = leave
		in := PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: 1, IdempotencyKey: key()}
		order, err := f.Purchase(ctx, in)
		if err != nil || order.State != OrderCompleted || f.store.size() != 1 {
			t.Fatalf("%+v, %v, %d lots", order, err, f.store.size())
		}
		in.IdempotencyKey = key()
		if _, err := f.Purchase(ctx, in); !errors.Is(err, context.Canceled) {
			t.Fatalf("a purchase that begins after the buyer left: %v", err)
		}
		f.wantBalance(t, "buyer", "90.10")
	})
}

// TestTooManyLots: a purchase is refused before it is paid when the subscription
// would have more live lots than the quota store takes; those that are over do
// not count.
func TestTooManyLots(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.maxLots = 3
		in := perCall()
		in.Price = 0
		spec := f.spec(t, in)
		f.buy(t, "buyer", spec, 2)
		_, err := f.Purchase(t.Context(), PurchaseInput{Account: "buyer", Spec: spec.ID, Quantity: 2, IdempotencyKey: key()})
		if !errors.Is(err, ErrTooManyLots) || !strings.Contains(err.Error(), "2 that are not over, 2 more are wanted, 3 is the most") {
			t.Errorf("2 and 2 of 3: %v", err)
		}
		f.buy(t, "buyer", spec, 1)
		f.buy(t, "another", spec, 3)
		lots, _, err := f.Lots(t.Context(), LotFilter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lots {
			if _, err := f.VoidLot(t.Context(), LotChange{Lot: l.ID, Reason: "test", Actor: "op"}); err != nil {
				t.Fatal(err)
			}
		}
		f.buy(t, "buyer", spec, 3)
		f.wantSound(t)
	})
}
