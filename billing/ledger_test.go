package billing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/money"
	"tollgate/internal/sqldb"
)

func TestTopUp(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.wantBalance(t, "nobody", "0")
		in := TopUpInput{Account: "buyer", Amount: money.MustParse("12.345678"), Receipt: "transfer 7", Actor: "operator", IdempotencyKey: "one"}
		first, err := f.TopUp(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		want := Entry{
			Seq: 1, Transaction: first.Transaction, Kind: KindTopUp, Amount: in.Amount, Balance: in.Amount,
			Reference: "transfer 7", Actor: "operator", Time: start,
		}
		if d := cmp.Diff(want, first); d != "" {
			t.Fatal(d)
		}
		// Fault 1 of people.md 1c: the same request twice is one entry, other
		// input under the same key is refused.
		f.clock.advance(time.Hour)
		if again, err := f.TopUp(t.Context(), in); err != nil || cmp.Diff(first, again) != "" {
			t.Fatalf("repeated: %v, %s", err, cmp.Diff(first, again))
		}
		for name, change := range map[string]func(*TopUpInput){
			"amount":  func(in *TopUpInput) { in.Amount++ },
			"receipt": func(in *TopUpInput) { in.Receipt = "transfer 8" },
		} {
			other := in
			change(&other)
			if _, err := f.TopUp(t.Context(), other); !errors.Is(err, ErrIdempotencyConflict) {
				t.Errorf("another %s under the same key: %v", name, err)
			}
		}
		other := in
		other.Account = "another" // keys are the account's own
		if _, err := f.TopUp(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		f.wantBalance(t, "buyer", "12.345678")
		if v := f.wantSound(t); v.Transactions != 2 || v.Owed != 2*in.Amount {
			t.Fatalf("%+v", v)
		}
		for name, bad := range map[string]TopUpInput{
			"account": {Amount: 1, IdempotencyKey: "k"},
			"amount":  {Account: "a", IdempotencyKey: "k"},
			"key":     {Account: "a", Amount: 1, IdempotencyKey: strings.Repeat("k", maxKey+1)},
		} {
			if _, err := f.TopUp(t.Context(), bad); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) {
				t.Errorf("bad %s: %v", name, err)
			}
		}
		huge := TopUpInput{Account: "buyer", Amount: money.Max, IdempotencyKey: key()}
		if _, err := f.TopUp(t.Context(), huge); !errors.Is(err, money.ErrOverflow) {
			t.Errorf("a balance past the limit: %v", err)
		}
		f.wantBalance(t, "buyer", "12.345678")
		f.wantSound(t)
	})
}

func TestReverse(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		e := f.topUp(t, "buyer", "10")
		in := ReverseInput{Transaction: e.Transaction, Reason: "wrong account", Actor: "operator"}
		if _, err := f.Reverse(t.Context(), ReverseInput{Transaction: e.Transaction}); !errors.Is(err, ErrInvalid) {
			t.Fatalf("without a reason: %v", err)
		}
		if _, err := f.Reverse(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		f.wantBalance(t, "buyer", "0")
		if _, err := f.Reverse(t.Context(), in); !errors.Is(err, ErrNotReversible) {
			t.Fatalf("a second time: %v", err)
		}
		// Money that was spent meanwhile cannot be taken back.
		e = f.topUp(t, "buyer", "10")
		order := f.buy(t, "buyer", f.spec(t, perCall()), 1)
		in.Transaction = e.Transaction
		var short *InsufficientBalanceError
		if _, err := f.Reverse(t.Context(), in); !errors.As(err, &short) || short.Available != money.MustParse("0.10") {
			t.Fatalf("after it was spent: %v", err)
		}
		in.Transaction = order.Transaction
		if _, err := f.Reverse(t.Context(), in); !errors.Is(err, ErrNotReversible) {
			t.Fatalf("of a purchase (PKG-10): %v", err)
		}
		in.Transaction = "no"
		if _, err := f.Reverse(t.Context(), in); !errors.Is(err, ErrTransactionNotFound) {
			t.Fatalf("of nothing: %v", err)
		}
		f.wantBalance(t, "buyer", "0.10")
		f.wantSound(t)
	})
}

// TestReverseAtOnce reverses one top-up from many goroutines: once it takes
// effect.
func TestReverseAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		f.topUp(t, "buyer", "100")
		e := f.topUp(t, "buyer", "10")
		var done sync.Map
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				id, err := f.Reverse(t.Context(), ReverseInput{Transaction: e.Transaction, Reason: "r"})
				if err == nil {
					done.Store(id, true)
				} else if !errors.Is(err, ErrNotReversible) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		n := 0
		done.Range(func(any, any) bool { n++; return true })
		if n != 1 {
			t.Errorf("reversed %d times", n)
		}
		f.wantBalance(t, "buyer", "100")
		f.wantSound(t)
	})
}

func TestStatement(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		spec := f.spec(t, perCall())
		f.topUp(t, "buyer", "100")
		for range 4 {
			f.clock.advance(time.Hour)
			f.buy(t, "buyer", spec, 1)
		}
		account := BuyerAccount("buyer")
		var all []Entry
		page := Page{Limit: 2}
		for {
			entries, next, err := f.Statement(t.Context(), StatementInput{Account: account, Page: page})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, entries...)
			if next == "" {
				break
			}
			page.Cursor = next
		}
		if len(all) != 5 {
			t.Fatalf("%d entries", len(all))
		}
		for i, e := range all { // newest first, each balance following from the one before
			if e.Seq != int64(5-i) {
				t.Errorf("entry %d has number %d", i, e.Seq)
			}
			var before money.Amount
			if i+1 < len(all) {
				before = all[i+1].Balance
			}
			if e.Balance != before+e.Amount {
				t.Errorf("entry %d: %s and %s make %s", e.Seq, before, e.Amount, e.Balance)
			}
		}
		if all[0].Kind != KindPurchase || all[0].Amount != -spec.Price {
			t.Errorf("the newest entry: %+v", all[0])
		}
		if o, err := f.Order(t.Context(), all[0].Reference); err != nil || o.Transaction != all[0].Transaction {
			t.Errorf("the entry's order: %+v, %v", o, err)
		}
		part, _, err := f.Statement(t.Context(), StatementInput{Account: account, From: start.Add(time.Hour), To: start.Add(3 * time.Hour)})
		if err != nil || len(part) != 2 || part[1].Seq != 2 || part[0].Seq != 3 {
			t.Errorf("a half-open time range: %+v, %v", part, err)
		}
		seller, _, err := f.Statement(t.Context(), StatementInput{Account: SellerAccount("sky")})
		if err != nil || len(seller) != 4 || seller[0].Balance != 4*spec.Price {
			t.Errorf("the seller's statement: %+v, %v", seller, err)
		}
		if _, _, err := f.Statement(t.Context(), StatementInput{Account: account, Page: Page{Cursor: nextCursor("statement", "x")}}); !errors.Is(err, ErrCursor) {
			t.Errorf("a foreign cursor: %v", err)
		}
	})
}

// TestPostRefusesWhatIsUnbalanced holds the invariant against our own faults.
func TestPostRefusesWhatIsUnbalanced(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		for name, postings := range map[string][]posting{
			"no postings":    nil,
			"one posting":    {{ExternalPayments, 5}},
			"sum not zero":   {{ExternalPayments, -5}, {PlatformRevenue, 4}},
			"posting of 0":   {{ExternalPayments, 0}, {PlatformRevenue, 0}},
			"sum overflows":  {{ExternalPayments, money.Max}, {PlatformRevenue, 1}},
			"account twice":  {{ExternalPayments, -2}, {PlatformRevenue, 1}, {PlatformRevenue, 1}},
			"floor is kept":  {{BuyerAccount("b"), -5}, {PlatformRevenue, 5}},
			"smallest value": {{BuyerAccount("b"), money.Min}, {ExternalPayments, money.Max}, {PlatformRevenue, 1}},
		} {
			err := f.moneyTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				return post(ctx, tx, transaction{id: name, kind: KindTopUp, postings: postings}, start)
			})
			if err == nil {
				t.Errorf("%s was recorded", name)
			}
		}
		if v := f.wantSound(t); v.Accounts != 0 || v.Transactions != 0 {
			t.Errorf("a refused transaction left rows: %+v", v)
		}
	})
}

// TestVerifyFindsTampering changes the books behind the ledger's back, in every
// way Verify is there to find.
func TestVerifyFindsTampering(t *testing.T) {
	onBoth(t, func(t *testing.T, f *fixture) {
		spec := f.spec(t, tokens())
		f.topUp(t, "buyer", "100")
		f.store.fail(errStoreDown, nil)
		waiting := f.buy(t, "buyer", spec, 1)
		f.store.fail(nil, nil)
		order := f.buy(t, "buyer", spec, 2)
		lots := f.orderLots(t, order.ID)
		f.wantSound(t)
		buyer := string(BuyerAccount("buyer"))
		for _, c := range []struct{ name, query, undo string }{
			{
				"the entries of a transaction sum to zero",
				`UPDATE billing_ledger_entry SET amount = amount + 1 WHERE account = '` + buyer + `' AND seq = 1`, `UPDATE billing_ledger_entry SET amount = amount - 1 WHERE account = '` + buyer + `' AND seq = 1`,
			},
			{
				"a balance is the sum",
				`UPDATE billing_ledger_account SET balance = balance + 1 WHERE id = '` + buyer + `'`, `UPDATE billing_ledger_account SET balance = balance - 1 WHERE id = '` + buyer + `'`,
			},
			{
				"each entry's balance follows",
				`UPDATE billing_ledger_entry SET balance = balance + 1 WHERE account = '` + buyer + `' AND seq = 2`, `UPDATE billing_ledger_entry SET balance = balance - 1 WHERE account = '` + buyer + `' AND seq = 2`,
			},
			{
				"no floored account was ever below zero",
				`UPDATE billing_ledger_entry SET balance = balance - 100000000 WHERE account = '` + buyer + `' AND seq = 2`, `UPDATE billing_ledger_entry SET balance = balance + 100000000 WHERE account = '` + buyer + `' AND seq = 2`,
			},
			{
				"a paid order has exactly the payment",
				`UPDATE billing_order SET amount = amount + 1 WHERE id = '` + order.ID + `'`, `UPDATE billing_order SET amount = amount - 1 WHERE id = '` + order.ID + `'`,
			},
			{
				"a purchase in the ledger belongs to exactly one order",
				`UPDATE billing_order SET ledger_tx = '' WHERE id = '` + order.ID + `'`, `UPDATE billing_order SET ledger_tx = '` + order.Transaction + `' WHERE id = '` + order.ID + `'`,
			},
			{
				"a completed order has been delivered",
				`UPDATE billing_lot SET delivered_version = 0 WHERE id = '` + lots[0].ID + `'`, `UPDATE billing_lot SET delivered_version = 1 WHERE id = '` + lots[0].ID + `'`,
			},
			{
				"a lot is either delivered or about to be",
				`DELETE FROM billing_delivery`, fmt.Sprintf(`INSERT INTO billing_delivery SELECT id, version, 0, 0, '', 0 FROM billing_lot WHERE order_id = '%s'`, waiting.ID),
			},
			{
				"an order has one lot per package and unit",
				`UPDATE billing_order SET quantity = 3 WHERE id = '` + order.ID + `'`, `UPDATE billing_order SET quantity = 2 WHERE id = '` + order.ID + `'`,
			},
		} {
			if _, err := f.db.Exec(t.Context(), c.query); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			v, err := f.Verify(t.Context())
			if err != nil || !strings.Contains(strings.Join(v.Faults, "\n"), c.name) {
				t.Errorf("%s: not found: %q, %v", c.name, v.Faults, err)
			}
			if _, err := f.db.Exec(t.Context(), c.undo); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			f.wantSound(t)
		}
	})
}
