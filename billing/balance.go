package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/ids"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
)

// Balance is what a buyer can spend.
type Balance struct {
	Account   string
	Available money.Amount
	Updated   time.Time // of the last change; zero if there never was one
}

// Balance returns the balance of a buyer, which is zero for an account that
// never had any.
func (s *Service) Balance(ctx context.Context, account string) (Balance, error) {
	b := Balance{Account: account}
	err := s.db.QueryRow(ctx, `SELECT balance, updated_ms FROM billing_ledger_account WHERE id = $1`, string(BuyerAccount(account))).
		Scan((*int64)(&b.Available), sqldb.Instant{Dst: &b.Updated})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return Balance{}, fmt.Errorf("balance of %s: %w", account, err)
	}
	return b, nil
}

// TopUpInput is money an operator books into a buyer's balance.
type TopUpInput struct {
	Account        string
	Amount         money.Amount // more than zero
	Receipt        string       // where the money came from; free text
	Actor          string
	IdempotencyKey string
}

// Validate returns every fault of in as an ErrInvalid.
func (in *TopUpInput) Validate() error {
	var faults []error
	if in.Account == "" {
		faults = append(faults, errors.New("account is empty"))
	}
	if in.Amount <= 0 {
		faults = append(faults, fmt.Errorf("amount %s: give more than zero; to take a top-up back, reverse it", in.Amount))
	}
	if err := validateKey(in.IdempotencyKey); err != nil {
		faults = append(faults, err)
	}
	return invalid(faults)
}

// TopUp books money from outside into a buyer's balance and returns the entry.
// The same key and input again returns the same entry.
func (s *Service) TopUp(ctx context.Context, in TopUpInput) (Entry, error) {
	if err := in.Validate(); err != nil {
		return Entry{}, err
	}
	var entry Entry
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		id := ids.New(now)
		earlier, err := claim(ctx, tx, request{
			scope: "top_up/" + in.Account, key: in.IdempotencyKey,
			input: struct{ Account, Amount, Receipt string }{in.Account, in.Amount.String(), in.Receipt},
		}, id, sqldb.Ms(now))
		if err != nil {
			return err
		}
		if earlier != "" {
			entry, err = entryOf(ctx, tx, BuyerAccount(in.Account), earlier)
			return err
		}
		debit, err := in.Amount.Neg()
		if err != nil {
			return err
		}
		err = post(ctx, tx, transaction{
			id: id, kind: KindTopUp, reference: in.Receipt, actor: in.Actor,
			postings: []posting{{BuyerAccount(in.Account), in.Amount}, {ExternalPayments, debit}},
		}, now)
		if err != nil {
			return err
		}
		if entry, err = entryOf(ctx, tx, BuyerAccount(in.Account), id); err != nil || s.notices == nil {
			return err
		}
		_, err = s.notices.Post(ctx, tx, notify.Event{
			Account: in.Account, Kind: "top_up", Dedup: id,
			Data: map[string]any{"amount": int64(in.Amount), "balance": int64(entry.Balance), "link": "/balance"},
		})
		return err
	})
	if err != nil {
		return Entry{}, fmt.Errorf("top up account %s: %w", in.Account, err)
	}
	s.wakeBuyer() // a repurchase that waited for money goes on (REPO-33)
	return entry, nil
}

// ReverseInput takes a top-up back.
type ReverseInput struct {
	Transaction string
	Reason      string // required
	Actor       string
}

// Reverse books the opposite of a top-up, and returns the id of the reversal.
// A second reversal, and one of a purchase, is ErrNotReversible; a balance that
// was spent meanwhile is an *InsufficientBalanceError.
func (s *Service) Reverse(ctx context.Context, in ReverseInput) (string, error) {
	if in.Reason == "" {
		return "", fmt.Errorf("%w: reason is empty: say why the transaction is taken back", ErrInvalid)
	}
	var id string
	err := s.moneyTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		now := s.instant()
		var kind Kind
		err := tx.QueryRow(ctx, `SELECT kind FROM billing_ledger_tx WHERE id = $1`, in.Transaction).Scan(&kind)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrTransactionNotFound
		case err != nil:
			return err
		case kind != KindTopUp:
			return fmt.Errorf("%w: it is a %s: only top-ups are taken back so", ErrNotReversible, kind)
		}
		postings, err := collect(ctx, tx, func(row scanner) (posting, error) {
			var p posting
			return p, row.Scan(&p.account, (*int64)(&p.amount))
		}, `SELECT account, amount FROM billing_ledger_entry WHERE tx = $1`, in.Transaction)
		if err != nil {
			return err
		}
		t, err := reversal(in.Transaction, postings, in.Reason, in.Actor, now)
		if err != nil {
			return err
		}
		id = t.id
		err = post(ctx, tx, t, now)
		if sqldb.IsUnique(err) { // the index on reverses
			return fmt.Errorf("%w: it was taken back before", ErrNotReversible)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reverse transaction %s: %w", in.Transaction, err)
	}
	return id, nil
}

// Entry is one line of an account's statement.
type Entry struct {
	Seq         int64 // 1, 2, 3, … within the account, without gaps
	Transaction string
	Kind        Kind
	Amount      money.Amount // negative: a debit
	Balance     money.Amount // after the entry
	Reference   string       // order, receipt, or reversed transaction
	Reason      string
	Actor       string
	Time        time.Time
}

// StatementInput asks for a part of an account's statement.
type StatementInput struct {
	Account  LedgerAccount
	From, To time.Time // half-open [From, To); zero: no limit
	Page     Page
}

// Statement lists the entries of an account, the newest first, and the cursor
// of the next part, which is empty at the end.
func (s *Service) Statement(ctx context.Context, in StatementInput) ([]Entry, string, error) {
	after, err := in.Page.after("statement")
	if err != nil {
		return nil, "", err
	}
	var cond filter
	cond.add("e.account = $?", string(in.Account))
	if after != "" {
		seq, err := strconv.ParseInt(after, 10, 64)
		if err != nil {
			return nil, "", ErrCursor
		}
		cond.add("e.seq < $?", seq)
	}
	if !in.From.IsZero() {
		cond.add("e.created_ms >= $?", sqldb.Ms(in.From))
	}
	if !in.To.IsZero() {
		cond.add("e.created_ms < $?", sqldb.Ms(in.To))
	}
	limit := in.Page.limit()
	entries, err := collect(ctx, s.db, scanEntry, fmt.Sprintf("%s%s ORDER BY e.seq DESC LIMIT %d", entryColumns, cond.where(), limit+1), cond.args...)
	if err != nil {
		return nil, "", fmt.Errorf("statement of %s: %w", in.Account, err)
	}
	next := ""
	if len(entries) > limit {
		entries = entries[:limit]
		next = nextCursor("statement", strconv.FormatInt(entries[limit-1].Seq, 10))
	}
	return entries, next, nil
}

const entryColumns = `SELECT e.seq, e.tx, t.kind, e.amount, e.balance, t.reference, t.reason, t.actor, e.created_ms
	FROM billing_ledger_entry e JOIN billing_ledger_tx t ON t.id = e.tx`

func scanEntry(row scanner) (Entry, error) {
	var e Entry
	err := row.Scan(&e.Seq, &e.Transaction, &e.Kind, (*int64)(&e.Amount), (*int64)(&e.Balance), &e.Reference, &e.Reason, &e.Actor, sqldb.Instant{Dst: &e.Time})
	return e, err
}

func entryOf(ctx context.Context, q sqldb.Querier, account LedgerAccount, tx string) (Entry, error) {
	return scanEntry(q.QueryRow(ctx, entryColumns+" WHERE e.tx = $1 AND e.account = $2", tx, string(account)))
}
