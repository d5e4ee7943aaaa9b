package admin

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"tollgate/billing"
	"tollgate/internal/money"
)

// ForAccount is the part of an input by which an operator names an account.
type ForAccount struct {
	Account string `query:"account_id" maxLength:"64" doc:"For operators; the caller's own account otherwise."`
}

type wireAlert struct {
	Spec     string     `json:"spec_id" doc:"The version bought last; the alert is for all versions."`
	Name     string     `json:"name"`
	Product  string     `json:"product_id"`
	Eligible bool       `json:"eligible" doc:"Packages that reset, and on-demand use, have no alerts (ALERT-1, ALERT-3)."`
	Set      bool       `json:"set" doc:"Somebody, or the first purchase, has set it."`
	Enabled  bool       `json:"enabled"`
	Level    *wireLevel `json:"threshold,omitempty"`
	Updated  *time.Time `json:"updated,omitempty"`
}

func showAlert(a *billing.Alert) wireAlert {
	w := wireAlert{Spec: a.Spec, Name: a.Name, Product: a.Product, Eligible: a.Eligible, Set: a.Set, Enabled: a.Enabled, Updated: instant(a.Updated)}
	if a.Set {
		w.Level = &wireLevel{a.Level.Kind, a.Level.Value}
	}
	return w
}

func (s *Server) registerAlerts() {
	const tag = "Alerts and auto-repurchase"
	handle(s, route{method: http.MethodGet, path: "/alerts", id: "list-alerts", tag: tag, summary: "The alerts of every spec an account bought", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ForAccount) (*body[list[wireAlert]], error) {
			account, err := forAccount(a, "query.account_id", in.Account)
			if err != nil {
				return nil, err
			}
			items, err := s.deps.Billing.Alerts(ctx, account)
			if err != nil {
				return nil, err
			}
			return listed(items, "", showAlert), nil
		})

	handle(s, route{method: http.MethodPut, path: "/alerts", id: "set-alerts", tag: tag, summary: "Set the alerts of one, several or all specs at once", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			Body struct {
				Account string    `json:"account_id,omitempty" maxLength:"64" doc:"For operators; the buyer's own account otherwise."`
				Specs   []string  `json:"spec_ids,omitempty" maxItems:"200" doc:"Absent: all that can have an alert (ALERT-11)."`
				Enabled bool      `json:"enabled"`
				Level   wireLevel `json:"threshold" doc:"1..99 percent, offered are 5, 10, 20, 30, 40 and 50; or units below the total. It takes the place of one of either kind (ALERT-9)."`
			}
		},
		) (*body[list[wireAlert]], error) {
			account, err := forAccount(a, "body.account_id", in.Body.Account)
			if err != nil {
				return nil, err
			}
			items, err := s.deps.Billing.SetAlerts(ctx, billing.AlertChange{
				Account: account, Specs: in.Body.Specs, Enabled: in.Body.Enabled, Level: billing.Level{Kind: in.Body.Level.Kind, Value: in.Body.Level.Value}, Actor: a.Token,
			})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "alerts.set", slog.String("account_id", account), slog.Int("specs", len(items)))
			return listed(items, "", showAlert), nil
		})
}

type wireRepurchase struct {
	Subscription string                  `json:"subscription_id"`
	State        billing.RepurchaseState `json:"state" enum:"on,off,waiting,failing,invalid" doc:"waiting: a try failed and there is a next one; failing: it resumes when its reason is gone; invalid: set it up again."`
	Failure      string                  `json:"failure_code,omitempty" doc:"Why the last try bought nothing (REPO-34)."`
	Next         *time.Time              `json:"next_try,omitempty"`
	Spec         string                  `json:"spec_id"`
	Price        string                  `json:"price" doc:"Yuan, when it was set up; with another price nothing is bought (REPO-35)."`
	Level        wireLevel               `json:"threshold"`
	EveryHours   int64                   `json:"every_hours" doc:"At most one order in so many hours; 0: no limit."`
	DayLimit     int64                   `json:"day_limit" doc:"Packages a day at most."`
	MonthCap     string                  `json:"month_cap,omitempty" doc:"Yuan a month at most."`
	Spent        string                  `json:"spent_this_month" doc:"Yuan, by the Beijing calendar."`
	LastOrder    string                  `json:"last_order_id,omitempty"`
	LastSuccess  *time.Time              `json:"last_success,omitempty"`
	Updated      time.Time               `json:"updated"`
}

func showRepurchase(r *billing.Repurchase) wireRepurchase {
	w := wireRepurchase{
		Subscription: r.Subscription, State: r.State, Failure: r.Failure, Next: instant(r.Next), Spec: r.Spec, Price: r.Price.String(),
		Level: wireLevel{r.Level.Kind, r.Level.Value}, EveryHours: r.EveryHours, DayLimit: r.DayLimit, Spent: r.Spent.String(),
		LastOrder: r.LastOrder, LastSuccess: instant(r.LastSuccess), Updated: r.Updated,
	}
	if r.MonthCap > 0 {
		w.MonthCap = r.MonthCap.String()
	}
	return w
}

type wirePreview struct {
	Spec       string           `json:"spec_id"`
	Price      string           `json:"price"`
	At         map[string]int64 `json:"at" doc:"By billing item: the units at which it buys, with today's packages."`
	BuysNow    int64            `json:"buys_now" doc:"Packages bought at once, since so little is left already."`
	NowAmount  string           `json:"now_amount"`
	WorstDay   string           `json:"worst_day" doc:"The most it spends on a day, in yuan."`
	WorstMonth string           `json:"worst_month"`
	Last30     int64            `json:"last_30_days" doc:"Packages it would have bought in the last 30 days."`
	Last30Cost string           `json:"last_30_days_amount"`
	Zh         string           `json:"zh"`
	En         string           `json:"en"`
}

// repurchaseAnswer is either what is set up or, of a dry run, what would be.
type repurchaseAnswer struct {
	Repurchase *wireRepurchase `json:"repurchase,omitempty"`
	Preview    *wirePreview    `json:"preview,omitempty" doc:"Of a dry run, which changes nothing."`
}

func showPreview(p *billing.Preview) *wirePreview {
	w := &wirePreview{
		Spec: p.Spec.ID, Price: p.Spec.Price.String(), At: map[string]int64{}, BuysNow: p.BuysNow, NowAmount: p.NowAmount.String(),
		WorstDay: p.WorstDay.String(), WorstMonth: p.WorstMonth.String(), Last30: p.Last30, Last30Cost: p.Last30Cost.String(), Zh: p.Zh, En: p.En,
	}
	for u, n := range p.At {
		w.At[u.String()] = n
	}
	return w
}

type wireTry struct {
	ID       string     `json:"id"`
	Crossing string     `json:"crossing_id" doc:"What it acted on."`
	Code     string     `json:"failure_code,omitempty"`
	Order    string     `json:"order_id,omitempty"`
	Quantity int64      `json:"quantity"`
	Amount   string     `json:"amount"`
	Noticed  bool       `json:"noticed" doc:"The buyer was told of this failure; of each reason once in 24 hours."`
	Next     *time.Time `json:"next_try,omitempty"`
	At       time.Time  `json:"at"`
}

func showTry(t *billing.RepurchaseTry) wireTry {
	return wireTry{ID: t.ID, Crossing: t.Crossing, Code: t.Code, Order: t.Order, Quantity: t.Quantity, Amount: t.Amount.String(), Noticed: t.Noticed, Next: instant(t.Next), At: t.At}
}

func (s *Server) registerRepurchases() {
	const tag = "Alerts and auto-repurchase"
	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}/repurchase", id: "get-repurchase", tag: tag, summary: "A subscription's auto-repurchase", roles: buyerSide},
		func(ctx context.Context, a Actor, in *ByID) (*body[wireRepurchase], error) {
			if _, err := s.subscriptionFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			r, err := s.deps.Billing.Repurchase(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return reply(showRepurchase(&r)), nil
		})

	handle(s, route{method: http.MethodPost, path: "/subscriptions/{id}/repurchase", id: "set-repurchase", tag: tag, summary: "Switch auto-repurchase on, or say with dry_run what that would do", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			DryRun bool `query:"dry_run" doc:"Change nothing: check, and answer what would happen."`
			Body   struct {
				Spec       string    `json:"spec_id,omitempty" maxLength:"64" doc:"Absent: what was bought last (REPO-5)."`
				Level      wireLevel `json:"threshold" doc:"5, 10, 20, 30, 40 or 50 percent, or any number of units (REPO-6)."`
				EveryHours int64     `json:"every_hours,omitempty" enum:"0,1,3,6,12,24" doc:"At most one order in so many hours; 0, the default: no limit (REPO-7)."`
				DayLimit   int64     `json:"day_limit,omitempty" minimum:"1" maximum:"100" doc:"Packages a day at most; default 10 (REPO-23)."`
				MonthCap   string    `json:"month_cap,omitempty" doc:"Yuan a month at most; absent: no cap." example:"500.00"`
				Agreement  string    `json:"agreement" maxLength:"32" doc:"The version of the auto-repurchase agreement that is accepted (REPO-9); GET /agency-policies tells the current one."`
			}
		},
		) (*body[repurchaseAnswer], error) {
			if _, err := s.subscriptionFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			b := in.Body
			change := billing.RepurchaseInput{
				Subscription: in.ID, Spec: b.Spec, Level: billing.Level{Kind: b.Level.Kind, Value: b.Level.Value}, EveryHours: b.EveryHours, DayLimit: b.DayLimit,
				Agreement: b.Agreement, Actor: a.Token,
			}
			if b.MonthCap != "" {
				limit, err := money.Parse(b.MonthCap)
				if err != nil || limit <= 0 {
					return nil, &InvalidError{[]Fault{{"body.month_cap", "must be an amount in yuan above 0, such as 500.00"}}}
				}
				change.MonthCap = limit
			}
			if in.DryRun {
				p, err := s.deps.Billing.PreviewRepurchase(ctx, change)
				if err != nil {
					return nil, err
				}
				return reply(repurchaseAnswer{Preview: showPreview(&p)}), nil
			}
			r, err := s.deps.Billing.SetRepurchase(ctx, change)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "repurchase.set", slog.String("subscription", in.ID))
			w := showRepurchase(&r)
			return reply(repurchaseAnswer{Repurchase: &w}), nil
		})

	handle(s, route{method: http.MethodDelete, path: "/subscriptions/{id}/repurchase", id: "disable-repurchase", tag: tag, summary: "Switch auto-repurchase off", roles: buyerSide, status: 200},
		func(ctx context.Context, a Actor, in *ByID) (*body[wireRepurchase], error) {
			if _, err := s.subscriptionFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			r, err := s.deps.Billing.DisableRepurchase(ctx, in.ID, a.Token)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "repurchase.off", slog.String("subscription", in.ID))
			return reply(showRepurchase(&r)), nil
		})

	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}/repurchase/tries", id: "list-repurchase-tries", tag: tag, summary: "What auto-repurchase did, and why it did not", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Paged
		},
		) (*body[list[wireTry]], error) {
			if _, err := s.subscriptionFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			items, next, err := s.deps.Billing.RepurchaseTries(ctx, in.ID, in.billing())
			if err != nil {
				return nil, err
			}
			return listed(items, next, showTry), nil
		})
}
