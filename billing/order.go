package billing

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"tollgate/internal/money"
	"tollgate/internal/sqldb"
)

// OrderState is where an order stands (ORDER-2).
type OrderState string

// The states of an order. A purchase paid from the balance is made in the state
// processing and becomes completed when the quota store has all its lots. The
// states pending_payment, cancelled and failed are for orders that are paid
// later or by others.
const (
	OrderPendingPayment OrderState = "pending_payment"
	OrderProcessing     OrderState = "processing"
	OrderCompleted      OrderState = "completed"
	OrderCancelled      OrderState = "cancelled"
	OrderFailed         OrderState = "failed"
)

// OrderType is what an order is for (ORDER-3).
type OrderType string

// The types of order so far.
const (
	OrderNew            OrderType = "new"
	OrderAutoRepurchase OrderType = "auto_repurchase" // by the platform for the buyer (REPO-25)
)

// PaymentBalance pays an order from the buyer's balance (PAY-5).
const PaymentBalance = "balance"

// Order is one purchase.
type Order struct {
	ID             string
	Type           OrderType
	Account        string // buyer
	Seller         string
	Product        string
	Spec           string // id of the version bought
	Series         string
	Quantity       int64
	UnitPrice      money.Amount // when it was placed
	Amount         money.Amount // whole fen: unit price times quantity, rounded half up once (CONV-7)
	Payment        string
	State          OrderState
	FailureCode    string // of ORDER-16; empty unless failed
	Subscription   string
	Transaction    string // payment in the ledger; empty when the amount is zero
	IdempotencyKey string
	Actor          string
	Placed         time.Time
	Paid           time.Time // zero: not yet
	Completed      time.Time // zero: not yet
}

// OrderFilter narrows a list of orders; empty fields do not.
type OrderFilter struct {
	Account string
	Seller  string
	Product string
	State   OrderState
	Page    Page
}

// Order returns one order.
func (s *Service) Order(ctx context.Context, id string) (Order, error) {
	return getOrder(ctx, s.db, id)
}

// Orders lists orders, the newest first, and the cursor of the next part, which
// is empty at the end.
func (s *Service) Orders(ctx context.Context, f OrderFilter) ([]Order, string, error) {
	var cond filter
	cond.addIf("account = $?", f.Account)
	cond.addIf("seller = $?", f.Seller)
	cond.addIf("product = $?", f.Product)
	cond.addIf("state = $?", string(f.State))
	return list(ctx, s.db, "order", orderColumns, cond, f.Page, scanOrder, func(o Order) string { return o.ID })
}

const orderColumns = `SELECT id, type, account, seller, product, spec, series, quantity, unit_price, amount, payment, state, failure_code,
	subscription, ledger_tx, idempotency_key, actor, placed_ms, paid_ms, completed_ms FROM billing_order`

func scanOrder(row scanner) (Order, error) {
	var o Order
	err := row.Scan(&o.ID, &o.Type, &o.Account, &o.Seller, &o.Product, &o.Spec, &o.Series, &o.Quantity, (*int64)(&o.UnitPrice), (*int64)(&o.Amount),
		&o.Payment, &o.State, &o.FailureCode, &o.Subscription, &o.Transaction, &o.IdempotencyKey, &o.Actor,
		sqldb.Instant{Dst: &o.Placed}, sqldb.Instant{Dst: &o.Paid}, sqldb.Instant{Dst: &o.Completed})
	return o, err
}

func getOrder(ctx context.Context, q sqldb.Querier, id string) (Order, error) {
	o, err := scanOrder(q.QueryRow(ctx, orderColumns+" WHERE id = $1", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Order{}, fmt.Errorf("%w: %q", ErrOrderNotFound, id)
	}
	return o, err
}

func insertOrder(ctx context.Context, tx *sqldb.Tx, o *Order) error {
	_, err := tx.Exec(ctx, `INSERT INTO billing_order (id, type, account, seller, product, spec, series, quantity, unit_price, amount, payment,
		state, failure_code, subscription, ledger_tx, idempotency_key, actor, placed_ms, paid_ms, completed_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)`,
		o.ID, string(o.Type), o.Account, o.Seller, o.Product, o.Spec, o.Series, o.Quantity, int64(o.UnitPrice), int64(o.Amount), o.Payment,
		string(o.State), o.FailureCode, o.Subscription, o.Transaction, o.IdempotencyKey, o.Actor,
		sqldb.Ms(o.Placed), sqldb.Ms(o.Paid), sqldb.Ms(o.Completed))
	return err
}

// orderAmount is the price of quantity times unitPrice, rounded once (CONV-7).
func orderAmount(unitPrice money.Amount, quantity int64) (money.Amount, error) {
	exact, err := unitPrice.Mul(quantity)
	if err != nil {
		return 0, err
	}
	return money.RoundToFenHalfUp(exact)
}
