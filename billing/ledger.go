package billing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
)

// LedgerAccount names an account of the ledger: kind/owner/purpose. Money in it
// is what the platform owes the owner; external accounts stand for the world
// outside and go below zero as money comes in. The kinds sort as the order in
// which rows are locked: a buyer's account first.
type LedgerAccount string

// BuyerAccount is a buyer's prepaid balance. It never goes below zero.
func BuyerAccount(account string) LedgerAccount {
	return LedgerAccount("buyer/" + account + "/balance")
}

// SellerAccount is what a seller earned and was not paid out.
func SellerAccount(account string) LedgerAccount {
	return LedgerAccount("seller/" + account + "/earned")
}

// The accounts that exist once.
const (
	ExternalPayments LedgerAccount = "external/payments/received" // money that came from outside
	PlatformRevenue  LedgerAccount = "platform/self/revenue"      // what the platform itself earned
)

// floored reports whether a may not go below zero.
func (a LedgerAccount) floored() bool { return strings.HasPrefix(string(a), "buyer/") }

// Kind is what a ledger transaction was for.
type Kind string

// The kinds of transaction.
const (
	KindTopUp    Kind = "top_up"
	KindPurchase Kind = "purchase"
	KindReversal Kind = "reversal"
)

// posting is a change of one account.
type posting struct {
	account LedgerAccount
	amount  money.Amount
}

// transaction is a set of postings that sum to zero, before it is recorded.
type transaction struct {
	id        string
	kind      Kind
	reference string
	reverses  string
	reason    string
	actor     string
	postings  []posting
}

// errUnbalanced is a broken invariant of this package, not of its input.
var errUnbalanced = errors.New("ledger: the postings of a transaction do not sum to zero")

// post records t: it locks each account in sorted order, changes its balance
// and appends an entry to it. A floored account that would go below zero is an
// *InsufficientBalanceError, and the caller's transaction must be rolled back.
func post(ctx context.Context, tx *sqldb.Tx, t transaction, now time.Time) error {
	amounts := make([]money.Amount, len(t.postings))
	for i, p := range t.postings {
		amounts[i] = p.amount
		if p.amount == 0 {
			return fmt.Errorf("ledger: %s %s posts nothing to %s", t.kind, t.id, p.account)
		}
	}
	if sum, err := money.Sum(amounts...); err != nil {
		return err
	} else if sum != 0 || len(amounts) < 2 {
		return fmt.Errorf("%w: %s %s", errUnbalanced, t.kind, t.id)
	}
	_, err := tx.Exec(ctx, `INSERT INTO billing_ledger_tx (id, kind, reference, reverses, reason, actor, created_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, t.id, string(t.kind), t.reference, t.reverses, t.reason, t.actor, sqldb.Ms(now))
	if err != nil {
		return fmt.Errorf("record a ledger transaction: %w", err)
	}
	sorted := slices.SortedFunc(slices.Values(t.postings), func(a, b posting) int { return cmp.Compare(a.account, b.account) })
	for _, p := range sorted {
		if err := enter(ctx, tx, t.id, p, now); err != nil {
			return err
		}
	}
	return nil
}

// enter makes one entry in one account.
func enter(ctx context.Context, tx *sqldb.Tx, id string, p posting, now time.Time) error {
	var before money.Amount
	var seq int64
	// The upsert makes the account on first use and locks its row.
	err := tx.QueryRow(ctx, `INSERT INTO billing_ledger_account (id, floored, balance, entries, updated_ms) VALUES ($1, $2, 0, 1, $3)
		ON CONFLICT (id) DO UPDATE SET entries = billing_ledger_account.entries + 1, updated_ms = excluded.updated_ms
		RETURNING balance, entries`, string(p.account), p.account.floored(), sqldb.Ms(now)).Scan((*int64)(&before), &seq)
	if err != nil {
		return fmt.Errorf("lock ledger account %s: %w", p.account, err)
	}
	balance, err := before.Add(p.amount)
	if err != nil {
		return fmt.Errorf("balance of %s: %w", p.account, err)
	}
	if p.account.floored() && balance < 0 {
		needed, err := p.amount.Neg()
		if err != nil {
			return err
		}
		return &InsufficientBalanceError{Account: string(p.account), Needed: needed, Available: before}
	}
	if _, err := tx.Exec(ctx, `UPDATE billing_ledger_account SET balance = $2 WHERE id = $1`, string(p.account), int64(balance)); err != nil {
		return fmt.Errorf("change the balance of %s: %w", p.account, err)
	}
	_, err = tx.Exec(ctx, `INSERT INTO billing_ledger_entry (account, seq, tx, amount, balance, created_ms) VALUES ($1, $2, $3, $4, $5, $6)`,
		string(p.account), seq, id, int64(p.amount), int64(balance), sqldb.Ms(now))
	if err != nil {
		return fmt.Errorf("enter in ledger account %s: %w", p.account, err)
	}
	return nil
}

// lockBuyer makes the buyer's ledger account if it is missing and locks it: all
// that is decided for one buyer happens one after another.
func lockBuyer(ctx context.Context, tx *sqldb.Tx, account string, now time.Time) error {
	a := BuyerAccount(account)
	_, err := tx.Exec(ctx, `INSERT INTO billing_ledger_account (id, floored, balance, entries, updated_ms) VALUES ($1, $2, 0, 0, $3)
		ON CONFLICT (id) DO UPDATE SET updated_ms = excluded.updated_ms`, string(a), a.floored(), sqldb.Ms(now))
	if err != nil {
		return fmt.Errorf("lock ledger account %s: %w", a, err)
	}
	return nil
}

// reversal returns the transaction that takes back the one with these postings.
func reversal(of string, postings []posting, reason, actor string, now time.Time) (transaction, error) {
	t := transaction{id: ids.New(now), kind: KindReversal, reference: of, reverses: of, reason: reason, actor: actor}
	for _, p := range postings {
		amount, err := p.amount.Neg()
		if err != nil {
			return transaction{}, err
		}
		t.postings = append(t.postings, posting{p.account, amount})
	}
	return t, nil
}
