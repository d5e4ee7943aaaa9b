package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"tollgate/billing"
	"tollgate/internal/money"
)

type wireBalance struct {
	Account   string     `json:"account_id"`
	Available string     `json:"available" doc:"Yuan that can be spent."`
	Updated   *time.Time `json:"updated,omitempty" doc:"When it last changed."`
}

type wireEntry struct {
	Seq         int64        `json:"seq" doc:"1, 2, 3, … within the account, without gaps."`
	Transaction string       `json:"transaction_id"`
	Kind        billing.Kind `json:"kind"`
	Amount      string       `json:"amount" doc:"Yuan; negative: taken."`
	Balance     string       `json:"balance" doc:"Yuan after it."`
	Reference   string       `json:"reference" doc:"The order, receipt or reversed transaction."`
	Reason      string       `json:"reason,omitempty"`
	Time        time.Time    `json:"time"`
}

func showEntry(e *billing.Entry) wireEntry {
	return wireEntry{
		Seq: e.Seq, Transaction: e.Transaction, Kind: e.Kind, Amount: e.Amount.String(), Balance: e.Balance.String(),
		Reference: e.Reference, Reason: e.Reason, Time: e.Time,
	}
}

type wireOrder struct {
	ID           string             `json:"id"`
	Type         billing.OrderType  `json:"type"`
	Account      string             `json:"account_id"`
	Product      string             `json:"product_id"`
	Spec         string             `json:"spec_id"`
	Quantity     int64              `json:"quantity"`
	UnitPrice    string             `json:"unit_price" doc:"Yuan, when it was placed."`
	Amount       string             `json:"amount" doc:"Yuan."`
	State        billing.OrderState `json:"state" enum:"pending_payment,processing,completed,cancelled,failed"`
	FailureCode  string             `json:"failure_code,omitempty"`
	Subscription string             `json:"subscription_id" doc:"What the packages went into."`
	Transaction  string             `json:"transaction_id,omitempty" doc:"The payment; absent when nothing was due."`
	Placed       time.Time          `json:"placed"`
	Paid         *time.Time         `json:"paid,omitempty"`
	Completed    *time.Time         `json:"completed,omitempty" doc:"When its packages could be used."`
}

func showOrder(o *billing.Order) wireOrder {
	return wireOrder{
		ID: o.ID, Type: o.Type, Account: o.Account, Product: o.Product, Spec: o.Spec, Quantity: o.Quantity, UnitPrice: o.UnitPrice.String(),
		Amount: o.Amount.String(), State: o.State, FailureCode: o.FailureCode, Subscription: o.Subscription, Transaction: o.Transaction,
		Placed: o.Placed, Paid: instant(o.Paid), Completed: instant(o.Completed),
	}
}

// instant is t, or nil when it is not set.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Purchase buys a package, and makes the buyer's MARKETPLACE_APP with its key
// pair if this is its first API product (API-3, AUTH-7). A product that is not
// published cannot be bought.
func (s *Server) Purchase(ctx context.Context, in billing.PurchaseInput) (billing.Order, error) {
	if err := s.buyerExists(ctx, s.db, in.Account); err != nil {
		return billing.Order{}, err
	}
	spec, err := s.deps.Billing.Spec(ctx, in.Spec)
	if err != nil {
		return billing.Order{}, err
	}
	p, err := s.Product(ctx, spec.Product)
	if errors.Is(err, ErrNotFound) || err == nil && !p.Published {
		return billing.Order{}, ErrNotOnSale
	}
	if err != nil {
		return billing.Order{}, err
	}
	if in.IdempotencyKey == "" {
		in.IdempotencyKey = randomText() // nobody repeats it
	}
	order, err := s.deps.Billing.Purchase(ctx, in)
	if err != nil {
		return billing.Order{}, err
	}
	// The order is paid: what follows must not make it look as if it were not.
	// If it fails, the next snapshot makes the application.
	subs, err := s.subscriptionsOf(context.WithoutCancel(ctx), in.Account)
	if err == nil {
		err = s.ensureMarketApps(context.WithoutCancel(ctx), subs)
	}
	if err != nil {
		s.log.ErrorContext(ctx, "the application of a purchase is not made yet; the next directory snapshot tries again", "request_id", requestID(ctx), "order", order.ID, "error", err)
	}
	return order, nil
}

// TopUp books money into a buyer's balance.
func (s *Server) TopUp(ctx context.Context, in billing.TopUpInput) (billing.Entry, error) {
	if err := s.buyerExists(ctx, s.db, in.Account); err != nil {
		return billing.Entry{}, err
	}
	if in.IdempotencyKey == "" {
		in.IdempotencyKey = randomText()
	}
	return s.deps.Billing.TopUp(ctx, in)
}

func (s *Server) registerOrders() {
	const tag = "Money and orders"
	handle(s, route{method: http.MethodGet, path: "/accounts/{id}/balance", id: "get-balance", tag: tag, summary: "Show a buyer's balance", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByID) (*body[wireBalance], error) {
			if err := s.buyerFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			b, err := s.deps.Billing.Balance(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return reply(wireBalance{Account: in.ID, Available: b.Available.String(), Updated: instant(b.Updated)}), nil
		})

	handle(s, route{method: http.MethodGet, path: "/accounts/{id}/statement", id: "get-statement", tag: tag, summary: "List what changed a buyer's balance", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Paged
			From time.Time `query:"from" doc:"Not before."`
			To   time.Time `query:"to" doc:"Before."`
		},
		) (*body[list[wireEntry]], error) {
			if err := s.buyerFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			entries, next, err := s.deps.Billing.Statement(ctx, billing.StatementInput{Account: billing.BuyerAccount(in.ID), From: in.From, To: in.To, Page: in.billing()})
			if err != nil {
				return nil, err
			}
			return listed(entries, next, showEntry), nil
		})

	handle(s, route{method: http.MethodPost, path: "/accounts/{id}/top-ups", id: "top-up", tag: tag, summary: "Book money into a buyer's balance", roles: operatorOnly, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Repeatable
			Body struct {
				Amount  string `json:"amount" doc:"Yuan, more than 0." example:"500.00"`
				Receipt string `json:"receipt,omitempty" maxLength:"255" doc:"Where the money came from."`
			}
		},
		) (*body[wireEntry], error) {
			if _, err := s.Account(ctx, in.ID); err != nil {
				return nil, err
			}
			amount, err := money.Parse(in.Body.Amount)
			if err != nil || amount <= 0 {
				return nil, &InvalidError{[]Fault{{"body.amount", "must be an amount in yuan above 0, such as 500.00"}}}
			}
			entry, err := s.TopUp(ctx, billing.TopUpInput{Account: in.ID, Amount: amount, Receipt: in.Body.Receipt, Actor: a.Token, IdempotencyKey: in.Key})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "balance.top_up", slog.String("account_id", in.ID), slog.String("transaction", entry.Transaction), slog.String("amount", amount.String()))
			return reply(showEntry(&entry)), nil
		})

	handle(s, route{method: http.MethodPost, path: "/orders", id: "create-order", tag: tag, summary: "Buy a package with the balance", roles: buyerSide, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Repeatable
			Body struct {
				Account  string `json:"account_id,omitempty" maxLength:"64" doc:"For operators; the buyer's own account otherwise."`
				Spec     string `json:"spec_id" minLength:"1" maxLength:"64"`
				Quantity int64  `json:"quantity,omitempty" minimum:"1" maximum:"1000" doc:"Default 1."`
			}
		},
		) (*body[wireOrder], error) {
			account, err := forAccount(a, "body.account_id", in.Body.Account)
			if err != nil {
				return nil, err
			}
			order, err := s.Purchase(ctx, billing.PurchaseInput{Account: account, Spec: in.Body.Spec, Quantity: max(in.Body.Quantity, 1), Actor: a.Token, IdempotencyKey: in.Key})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "order.create", slog.String("id", order.ID), slog.String("subscription", order.Subscription))
			return reply(showOrder(&order)), nil
		})

	handle(s, route{method: http.MethodGet, path: "/orders", id: "list-orders", tag: tag, summary: "List orders: a buyer's own, a seller's sales", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			Account string             `query:"account_id" maxLength:"64" doc:"Only those of this buyer."`
			Product string             `query:"product_id" maxLength:"64" doc:"Only those of this product."`
			State   billing.OrderState `query:"state" enum:"pending_payment,processing,completed,cancelled,failed" doc:"Only these."`
		},
		) (*body[list[wireOrder]], error) {
			f := billing.OrderFilter{Account: in.Account, Product: in.Product, State: in.State, Page: in.billing()}
			switch a.Role {
			case RoleBuyer:
				account, err := forAccount(a, "", in.Account)
				if err != nil {
					return nil, err
				}
				f.Account = account
			case RoleSeller:
				f.Seller = a.Account
			}
			items, next, err := s.deps.Billing.Orders(ctx, f)
			if err != nil {
				return nil, err
			}
			return listed(items, next, showOrder), nil
		})

	handle(s, route{method: http.MethodGet, path: "/orders/{id}", id: "get-order", tag: tag, summary: "Show an order", roles: anyRole},
		func(ctx context.Context, a Actor, in *ByID) (*body[wireOrder], error) {
			o, err := s.deps.Billing.Order(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			if !a.owns(o.Account) && !a.owns(o.Seller) {
				return nil, billing.ErrOrderNotFound
			}
			return reply(showOrder(&o)), nil
		})
}

// buyerFor makes sure that the account exists, is a buyer's and the actor's.
func (s *Server) buyerFor(ctx context.Context, a Actor, id string) error {
	if !a.owns(id) {
		return ErrNotFound
	}
	account, err := s.Account(ctx, id)
	if err == nil && account.Kind != RoleBuyer {
		return ErrNotFound
	}
	return err
}
