package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"tollgate/billing"
	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
)

type wireSubscription struct {
	ID      string                      `json:"id"`
	Account string                      `json:"account_id"`
	Product string                      `json:"product_id"`
	Mode    directory.Mode              `json:"mode" enum:"per_call,on_demand,on_demand_package,used_up_stop"`
	State   directory.SubscriptionState `json:"state" enum:"active,frozen,closed"`
	Reason  string                      `json:"reason,omitempty" doc:"Why it is frozen or closed."`
	Units   []string                    `json:"units" doc:"The billing items it is charged in."`
	Region  string                      `json:"region"`
	Created time.Time                   `json:"created"`
	Updated time.Time                   `json:"updated"`
	Access  *wireAccess                 `json:"access,omitempty" doc:"How to call it; shown with one subscription at a time."`
}

// wireAccess is how a buyer calls what it bought (API-2, API-10).
type wireAccess struct {
	BaseURL     string      `json:"base_url"`
	AuthKinds   []string    `json:"auth_kinds" enum:"signature,appcode,apikey" doc:"The kinds of credential it takes."`
	Application string      `json:"application_id,omitempty" doc:"MARKETPLACE_APP, whose key pair and AppCodes may call it."`
	AppKey      string      `json:"app_key,omitempty" doc:"Its secret is shown by POST /applications/{id}/secret/reveal."`
	Models      []wireModel `json:"models,omitempty"`
}

// access tells how to call p. Only its buyer is told the AppKey.
func (s *Server) access(ctx context.Context, a Actor, account string, p *Product) (*wireAccess, error) {
	w := &wireAccess{BaseURL: s.baseURL(p), AuthKinds: []string{"apikey"}}
	for _, m := range p.Models {
		w.Models = append(w.Models, wireModel{Name: m.Name})
	}
	if p.Kind == directory.KindLLM {
		return w, nil
	}
	w.AuthKinds = []string{"signature"}
	if p.SimpleAuth {
		w.AuthKinds = append(w.AuthKinds, "appcode")
	}
	if !a.owns(account) {
		return w, nil
	}
	app, err := s.MarketApplication(ctx, account)
	switch {
	case errors.Is(err, ErrNotFound): // the next snapshot makes it
	case err != nil:
		return nil, err
	default:
		w.Application, w.AppKey = app.ID, app.Key.Key
	}
	return w, nil
}

func (s *Server) showSubscription(sub *billing.Subscription) wireSubscription {
	w := wireSubscription{
		ID: sub.ID, Account: sub.Account, Product: sub.Product, Mode: sub.Mode, State: sub.State, Reason: sub.Reason, Units: []string{},
		Region: s.cfg.Region, Created: sub.Created, Updated: sub.Updated,
	}
	for _, u := range sub.Units {
		w.Units = append(w.Units, u.String())
	}
	return w
}

// subscriptionsOf returns every subscription of an account.
func (s *Server) subscriptionsOf(ctx context.Context, account string) ([]directory.Subscription, error) {
	var out []directory.Subscription
	page := billing.Page{Limit: 500}
	for {
		items, next, err := s.deps.Billing.Subscriptions(ctx, billing.SubscriptionFilter{Account: account, Page: page})
		if err != nil {
			return nil, fmt.Errorf("admin: list the subscriptions of %s: %w", account, err)
		}
		for _, sub := range items {
			out = append(out, directory.Subscription{ID: sub.ID, Account: sub.Account, Product: sub.Product, Mode: sub.Mode, State: sub.State, Units: sub.Units, Created: sub.Created})
		}
		if next == "" {
			return out, nil
		}
		page.Cursor = next
	}
}

// subscriptionFor returns a subscription that the actor may see: its own, or to
// a seller one of its products.
func (s *Server) subscriptionFor(ctx context.Context, a Actor, id string) (billing.Subscription, error) {
	sub, err := s.deps.Billing.Subscription(ctx, id)
	if err != nil {
		return billing.Subscription{}, err
	}
	if a.owns(sub.Account) {
		return sub, nil
	}
	if a.Role == RoleSeller {
		p, err := s.Product(ctx, sub.Product)
		if err != nil {
			return billing.Subscription{}, err
		}
		if a.owns(p.Seller) {
			return sub, nil
		}
	}
	return billing.Subscription{}, billing.ErrSubscriptionNotFound
}

// UnitTotals are the figures of one billing item, summed over lots (PKG-9).
type UnitTotals struct {
	Unit      string `json:"unit" doc:"The billing item the figures are of."`
	Granted   int64  `json:"granted" doc:"granted = remaining + leased + used + lapsed, for each lot and in total."`
	Used      int64  `json:"used"`
	Leased    int64  `json:"leased" doc:"With a gateway, not used yet; what is not used comes back."`
	Remaining int64  `json:"remaining"`
	Lapsed    int64  `json:"lapsed" doc:"Expired, reset away or withdrawn."`
	Overrun   int64  `json:"overrun" doc:"Used beyond any package; never negative."`
}

type wireLot struct {
	ID        string     `json:"id"`
	State     string     `json:"state" enum:"pending,active,exhausted,expired,void"`
	ZeroPrice bool       `json:"zero_price"`
	Overflow  bool       `json:"overflow" doc:"On-demand use beyond the packages."`
	Amount    int64      `json:"amount" doc:"Units in each period."`
	Away      string     `json:"store_away" enum:"stop,continue" doc:"What becomes of it once its leases are over while the quota store is away."`
	AwayFor   int64      `json:"store_away_seconds,omitempty" doc:"For how long it goes on then; absent: as the gateways are set."`
	AwayUnits int64      `json:"store_away_credit,omitempty" doc:"Units that all gateways together may use of it then; absent: what was left."`
	Reset     lot.Cycle  `json:"reset,omitempty" enum:"hour,day,week,month,year"`
	Effective time.Time  `json:"effective"`
	Expires   *time.Time `json:"expires,omitempty"`
	From      time.Time  `json:"period_from"`
	To        *time.Time `json:"period_to,omitempty" doc:"When it is filled up again or expires."`
	Unit      string     `json:"unit"`
	Granted   int64      `json:"granted"`
	Used      int64      `json:"used"`
	Leased    int64      `json:"leased"`
	Remaining int64      `json:"remaining"`
	Lapsed    int64      `json:"lapsed"`
}

// wireRunway is a forecast.
type wireRunway struct {
	Least int64  `json:"least_seconds"`
	Most  int64  `json:"most_seconds"`
	Text  string `json:"text" example:"2 d – 9 d"`
}

type wireQuotaBalance struct {
	Subscription string `json:"subscription_id"`
	UnitTotals
	Runway *wireRunway  `json:"runway,omitempty" doc:"How long what remains lasts at the pace of the last 24 hours and 7 days; absent when nothing was used."`
	AsOf   time.Time    `json:"as_of" doc:"How fresh the figures are (PKG-30)."`
	Units  []UnitTotals `json:"units" doc:"The figures of each billing item, where there are several."`
	Lots   []wireLot    `json:"lots" doc:"In the order in which they are used, all billing items."`
}

// showAway returns the policy that holds for a lot.
func showAway(g *lot.Grant) string {
	if g.Continues() {
		return string(lot.AwayContinue)
	}
	return string(lot.AwayStop)
}

// showQuota sums the lots of b by unit (PKG-9). The top figures are of unit.
func showQuota(b *lot.Balance, units []usage.Unit, unit usage.Unit) wireQuotaBalance {
	var sums [usage.NumUnits]UnitTotals
	out := wireQuotaBalance{Subscription: b.Subscription, AsOf: b.AsOf, Units: []UnitTotals{}, Lots: []wireLot{}}
	for i := range b.Lots {
		l := &b.Lots[i]
		t := &sums[l.Unit]
		t.Granted += l.Granted
		t.Used += l.Used
		t.Leased += l.Leased
		t.Remaining += l.Remaining
		t.Lapsed += l.Lapsed
		out.Lots = append(out.Lots, wireLot{
			ID: l.ID, State: l.State, ZeroPrice: l.ZeroPrice, Overflow: l.Overflow, Amount: l.Amount, Reset: l.Reset,
			Away: showAway(&l.Grant), AwayFor: l.Away.Seconds, AwayUnits: l.Away.Credit,
			Effective: l.Effective, Expires: instant(l.Expires), From: l.PeriodFrom, To: instant(l.PeriodTo), Unit: l.Unit.String(),
			Granted: l.Granted, Used: l.Used, Leased: l.Leased, Remaining: l.Remaining, Lapsed: l.Lapsed,
		})
	}
	for _, u := range units {
		sums[u].Unit, sums[u].Overrun = u.String(), b.Overrun[u]
		out.Units = append(out.Units, sums[u])
	}
	out.UnitTotals = sums[unit]
	return out
}

func (s *Server) registerSubscriptions() {
	const tag = "Subscriptions"
	handle(s, route{method: http.MethodGet, path: "/subscriptions", id: "list-subscriptions", tag: tag, summary: "List subscriptions", roles: buyerSide},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			Account string                      `query:"account_id" maxLength:"64" doc:"Only those of this buyer."`
			Product string                      `query:"product_id" maxLength:"64" doc:"Only those of this product."`
			State   directory.SubscriptionState `query:"state" enum:"active,frozen,closed" doc:"Only these."`
		},
		) (*body[list[wireSubscription]], error) {
			account, err := listAccount(a, in.Account)
			if err != nil {
				return nil, err
			}
			items, next, err := s.deps.Billing.Subscriptions(ctx, billing.SubscriptionFilter{Account: account, Product: in.Product, State: in.State, Page: in.billing()})
			if err != nil {
				return nil, err
			}
			return listed(items, next, s.showSubscription), nil
		})

	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}", id: "get-subscription", tag: tag, summary: "Show a subscription", roles: anyRole},
		func(ctx context.Context, a Actor, in *ByID) (*body[wireSubscription], error) {
			sub, err := s.subscriptionFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			w := s.showSubscription(&sub)
			p, err := s.Product(ctx, sub.Product)
			if err != nil {
				return nil, err
			}
			if w.Access, err = s.access(ctx, a, sub.Account, &p); err != nil {
				return nil, err
			}
			return reply(w), nil
		})

	for _, action := range []struct {
		name, summary string
		do            func(context.Context, billing.SubscriptionChange) (billing.Subscription, error)
	}{
		{"freeze", "Stop serving a subscription, for arrears or abuse", s.deps.Billing.Freeze},
		{"unfreeze", "Serve a frozen subscription again", s.deps.Billing.Unfreeze},
		{"close", "End a subscription and withdraw its packages", s.deps.Billing.Close},
	} {
		handle(s, route{method: http.MethodPost, path: "/subscriptions/{id}/" + action.name, id: action.name + "-subscription", tag: tag, summary: action.summary, roles: operatorOnly},
			func(ctx context.Context, a Actor, in *struct {
				ByID
				Body struct {
					Reason string `json:"reason" minLength:"1" maxLength:"255" doc:"The buyer reads it."`
				}
			},
			) (*body[wireSubscription], error) {
				sub, err := action.do(ctx, billing.SubscriptionChange{ID: in.ID, Reason: in.Body.Reason, Actor: a.Token})
				if err != nil {
					return nil, err
				}
				s.audit(ctx, a, "subscription."+action.name, slog.String("id", sub.ID))
				return reply(s.showSubscription(&sub)), nil
			})
	}

	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}/quota", id: "get-quota", tag: tag, summary: "What is left of a subscription's units", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Unit string `query:"unit" enum:"call,token,input_token,output_token,image,second,character" doc:"Which billing item the top figures are of; default the first of the subscription's."`
		},
		) (*body[wireQuotaBalance], error) {
			sub, err := s.subscriptionFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			if s.deps.Quota == nil {
				return nil, ErrUnavailable
			}
			unit := sub.Units[0]
			if in.Unit != "" {
				if unit, err = usage.ParseUnit(in.Unit); err != nil {
					return nil, &InvalidError{[]Fault{{"query.unit", "must be a known unit"}}}
				}
			}
			b, err := s.deps.Quota.Read(ctx, sub.ID)
			if err != nil {
				return nil, err
			}
			b.Subscription = sub.ID
			units := sub.Units
			if in.Unit != "" {
				units = append(units[:len(units):len(units)], unit)
			}
			q := showQuota(&b, units, unit)
			q.Units = q.Units[:len(sub.Units)]
			q.Runway = s.runway(ctx, sub.ID, &b, unit)
			return reply(q), nil
		})
	s.registerThresholds()
}

// runway forecasts how long the packages of b last; nil where nobody can tell,
// which is no reason not to show the balance.
func (s *Server) runway(ctx context.Context, subscription string, b *lot.Balance, unit usage.Unit) *wireRunway {
	var left int64
	for i := range b.Lots {
		if l := &b.Lots[i]; l.Unit == unit && !l.Overflow && l.State != "pending" {
			left += l.Remaining + l.Leased
		}
	}
	r, ok, err := s.deps.Billing.Runway(ctx, subscription, unit, left)
	if err != nil {
		s.log.WarnContext(ctx, "a balance is shown without a forecast", "request_id", requestID(ctx), "subscription", subscription, "error", err)
	}
	if err != nil || !ok {
		return nil
	}
	return &wireRunway{Least: int64(r.Least / time.Second), Most: int64(r.Most / time.Second), Text: r.String()}
}
