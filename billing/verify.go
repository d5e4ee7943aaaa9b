package billing

import (
	"context"
	"fmt"

	"tollgate/internal/money"
	"tollgate/internal/sqldb"
)

// Verification is the proof, or the disproof, that the books hold.
type Verification struct {
	Accounts     int64        // ledger accounts looked at
	Transactions int64        // ledger transactions looked at
	Orders       int64        // orders looked at
	Owed         money.Amount // sum of all buyers' balances
	Faults       []string     // what does not hold; empty when all is well
}

// maxFaults bounds the faults listed by each check.
const maxFaults = 100

// checks are the invariants, each a query that returns a line for every breach.
var checks = []struct{ name, query string }{
	{
		"the entries of a transaction sum to zero",
		`SELECT t.id FROM billing_ledger_tx t LEFT JOIN billing_ledger_entry e ON e.tx = t.id GROUP BY t.id HAVING COUNT(e.seq) < 2 OR SUM(e.amount) <> 0`,
	},
	{
		"a balance is the sum of the account's entries",
		`SELECT a.id FROM billing_ledger_account a LEFT JOIN billing_ledger_entry e ON e.account = a.id
		 GROUP BY a.id, a.balance, a.entries HAVING a.balance <> COALESCE(SUM(e.amount), 0) OR a.entries <> COUNT(e.seq) OR a.entries <> COALESCE(MAX(e.seq), 0)`,
	},
	{
		"each entry's balance follows from the one before",
		`SELECT e.account FROM billing_ledger_entry e LEFT JOIN billing_ledger_entry p ON p.account = e.account AND p.seq = e.seq - 1
		 WHERE e.balance <> e.amount + COALESCE(p.balance, 0) OR (p.seq IS NULL AND e.seq <> 1)`,
	},
	{
		"no floored account was ever below zero",
		`SELECT e.account FROM billing_ledger_entry e JOIN billing_ledger_account a ON a.id = e.account WHERE a.floored AND e.balance < 0`,
	},
	{
		"a paid order has exactly the payment of its amount",
		`SELECT o.id FROM billing_order o LEFT JOIN billing_ledger_entry e ON e.tx = o.ledger_tx AND e.account LIKE 'buyer/%'
		 WHERE o.paid_ms > 0 AND o.amount <> -COALESCE(e.amount, 0)`,
	},
	{
		"a purchase in the ledger belongs to exactly one order",
		`SELECT t.id FROM billing_ledger_tx t LEFT JOIN billing_order o ON o.ledger_tx = t.id WHERE t.kind = 'purchase' GROUP BY t.id HAVING COUNT(o.id) <> 1`,
	},
	{
		"a completed order has been delivered",
		`SELECT o.id FROM billing_order o JOIN billing_lot l ON l.order_id = o.id WHERE o.state = 'completed' AND l.delivered_version = 0`,
	},
	{
		"a lot is either delivered or about to be",
		`SELECT l.id FROM billing_lot l LEFT JOIN billing_delivery d ON d.lot = l.id AND d.version = l.version WHERE l.delivered_version < l.version AND d.lot IS NULL`,
	},
	{
		"a lot belongs to its order's subscription",
		`SELECT l.id FROM billing_lot l JOIN billing_order o ON o.id = l.order_id WHERE l.subscription <> o.subscription`,
	},
}

// Verify proves the books from their rows, all in one snapshot of the database,
// and holds nobody up.
// A fault is reported in the result; the error is for a database that cannot be
// read.
func (s *Service) Verify(ctx context.Context) (Verification, error) {
	var v Verification
	err := s.db.InSnapshot(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		v = Verification{}
		err := tx.QueryRow(ctx, `SELECT COUNT(*), CAST(COALESCE(SUM(CASE WHEN floored THEN balance ELSE 0 END), 0) AS BIGINT) FROM billing_ledger_account`).
			Scan(&v.Accounts, (*int64)(&v.Owed))
		if err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM billing_ledger_tx`).Scan(&v.Transactions); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM billing_order`).Scan(&v.Orders); err != nil {
			return err
		}
		for _, c := range checks {
			bad, err := collect(ctx, tx, func(row scanner) (string, error) {
				var id string
				return id, row.Scan(&id)
			}, fmt.Sprintf("%s LIMIT %d", c.query, maxFaults))
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			for _, id := range bad {
				v.Faults = append(v.Faults, fmt.Sprintf("%s: not %s", c.name, id))
			}
		}
		return verifyLots(ctx, tx, &v)
	})
	if err != nil {
		return Verification{}, fmt.Errorf("verify the books: %w", err)
	}
	return v, nil
}

// verifyLots holds that each paid order has as many lots as its quantity times
// the quotas of its spec: no grant is missing and none was made twice.
func verifyLots(ctx context.Context, tx *sqldb.Tx, v *Verification) error {
	type row struct {
		order          string
		quantity, lots int64
		quotas         []Quota
	}
	rows, err := collect(ctx, tx, func(r scanner) (row, error) {
		var x row
		return x, r.Scan(&x.order, &x.quantity, &x.lots, sqldb.JSON(&x.quotas))
	}, `SELECT o.id, o.quantity, (SELECT COUNT(*) FROM billing_lot l WHERE l.order_id = o.id), s.quotas
		FROM billing_order o JOIN billing_spec s ON s.id = o.spec WHERE o.paid_ms > 0`)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if want := r.quantity * int64(len(r.quotas)); r.lots != want {
			v.Faults = append(v.Faults, fmt.Sprintf("an order has one lot per package and unit: order %s has %d, not %d", r.order, r.lots, want))
		}
	}
	return nil
}
