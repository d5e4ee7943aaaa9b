package admin

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"tollgate/billing"
	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

type wireQuota struct {
	Unit   string `json:"unit" enum:"call,token,input_token,output_token,image,second,character" doc:"The billing item."`
	Amount int64  `json:"amount" minimum:"0" maximum:"9007199254740991" doc:"Units in the package, in each period where it resets; for on_demand the credit, 0 for the default."`
}

type wireSpec struct {
	ID              string            `json:"id"`
	Series          string            `json:"series_id" doc:"The id of the first version; an edit makes a new one."`
	Version         int64             `json:"version"`
	Product         string            `json:"product_id"`
	Name            string            `json:"name"`
	Mode            directory.Mode    `json:"mode" enum:"per_call,on_demand,on_demand_package,used_up_stop"`
	Quotas          []wireQuota       `json:"quotas"`
	Price           string            `json:"price" doc:"Yuan, for a quantity of one."`
	ValidityMonths  int               `json:"validity_months,omitempty"`
	ValiditySeconds int64             `json:"validity_seconds,omitempty"`
	Reset           lot.Cycle         `json:"reset,omitempty" enum:"hour,day,week,month,year"`
	Zone            string            `json:"zone,omitempty"`
	PurchaseLimit   int64             `json:"purchase_limit,omitempty"`
	Away            lot.AwayPolicy    `json:"store_away,omitempty" enum:"stop,continue"`
	AwaySeconds     int64             `json:"store_away_seconds,omitempty"`
	AwayCredit      int64             `json:"store_away_credit,omitempty"`
	State           billing.SpecState `json:"state" enum:"on_sale,withdrawn,superseded"`
	Created         time.Time         `json:"created"`
}

func showSpec(sp *billing.Spec) wireSpec {
	w := wireSpec{
		ID: sp.ID, Series: sp.Series, Version: sp.Version, Product: sp.Product, Name: sp.Name, Mode: sp.Mode, Quotas: []wireQuota{},
		Price: sp.Price.String(), ValidityMonths: sp.Validity.Months, ValiditySeconds: int64(sp.Validity.Duration / time.Second),
		Reset: sp.Reset, Zone: sp.Zone, PurchaseLimit: sp.PurchaseLimit,
		Away: sp.StoreAway.Policy, AwaySeconds: sp.StoreAway.Seconds, AwayCredit: sp.StoreAway.Credit, State: sp.State, Created: sp.Created,
	}
	for _, q := range sp.Quotas {
		w.Quotas = append(w.Quotas, wireQuota{Unit: q.Unit.String(), Amount: q.Amount})
	}
	return w
}

type specCreate struct {
	Name            string         `json:"name" minLength:"1" maxLength:"200"`
	Mode            directory.Mode `json:"mode" enum:"per_call,on_demand,on_demand_package,used_up_stop" doc:"How it is billed: per_call and used_up_stop are prepaid and stop when used up, on_demand is postpaid, on_demand_package is a prepaid part on top of it."`
	Quotas          []wireQuota    `json:"quotas" minItems:"1" maxItems:"7"`
	Price           string         `json:"price" doc:"Yuan, for a quantity of one, such as 99.00; 0 makes it free." example:"99.00"`
	ValidityMonths  int            `json:"validity_months,omitempty" minimum:"0" maximum:"1200" doc:"How long a package lasts from its purchase; without this and validity_seconds: for ever."`
	ValiditySeconds int64          `json:"validity_seconds,omitempty" minimum:"0" maximum:"3155760000"`
	Reset           lot.Cycle      `json:"reset,omitempty" enum:"hour,day,week,month,year" doc:"Fills the package up again in whole periods from its purchase (PKG-24)."`
	Zone            string         `json:"zone,omitempty" maxLength:"64" doc:"IANA time zone of months and resets; default Asia/Shanghai."`
	PurchaseLimit   int64          `json:"purchase_limit,omitempty" minimum:"0" maximum:"1000000" doc:"How many one account may ever buy; 0: any number."`
	Away            lot.AwayPolicy `json:"store_away,omitempty" enum:"stop,continue" doc:"What becomes of a package whose leases are over while the quota store is away: stop refuses calls with 503 until it is back, continue lets them go on for a time and up to a credit. Default: packages as quota.store_away says, on-demand use continues."`
	AwaySeconds     int64          `json:"store_away_seconds,omitempty" minimum:"0" maximum:"604800" doc:"With continue: for how long after the store's last answer; 0: quota.store_away_for."`
	AwayCredit      int64          `json:"store_away_credit,omitempty" minimum:"0" maximum:"9007199254740991" doc:"With continue: units that all gateways together may use without asking, never more than was left; 0: what was left."`
}

// input reads the wire form.
func (c *specCreate) input(p *Product, actor string) (billing.SpecInput, error) {
	var f faults
	price, err := money.Parse(c.Price)
	f.check(err == nil, "body.price", "must be an amount in yuan, such as 99.00")
	in := billing.SpecInput{
		Product: p.ID, Seller: p.Seller, Name: c.Name, Mode: c.Mode, Price: price,
		Validity: billing.Validity{Months: c.ValidityMonths, Duration: time.Duration(c.ValiditySeconds) * time.Second},
		Reset:    c.Reset, Zone: c.Zone, PurchaseLimit: c.PurchaseLimit,
		StoreAway: lot.Away{Policy: c.Away, Seconds: c.AwaySeconds, Credit: c.AwayCredit}, Actor: actor,
	}
	for _, q := range c.Quotas {
		unit, err := usage.ParseUnit(q.Unit)
		f.check(err == nil, "body.quotas", "must name a known unit")
		f.check(p.Kind == directory.KindLLM || unit == usage.Call, "body.quotas", "of an API product count calls")
		in.Quotas = append(in.Quotas, billing.Quota{Unit: unit, Amount: q.Amount})
	}
	return in, f.err()
}

// CreateSpec puts a package of a product on sale.
func (s *Server) CreateSpec(ctx context.Context, in billing.SpecInput) (billing.Spec, error) {
	return s.deps.Billing.CreateSpec(ctx, in)
}

func (s *Server) registerGoods() {
	const tag = "Specs"
	handle(s, route{method: http.MethodPost, path: "/products/{id}/specs", id: "create-spec", tag: tag, summary: "Put a package of a product on sale", roles: sellerSide, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Repeatable
			Body specCreate
		},
		) (*body[wireSpec], error) {
			p, err := s.productFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			input, err := in.Body.input(&p, a.Token)
			if err != nil {
				return nil, err
			}
			spec, err := onceOutside(ctx, s, in.once(a, "create-spec/"+p.ID), input, func(ctx context.Context) (billing.Spec, error) { return s.CreateSpec(ctx, input) })
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "spec.create", slog.String("id", spec.ID), slog.String("product", p.ID))
			return reply(showSpec(&spec)), nil
		})

	handle(s, route{method: http.MethodGet, path: "/products/{id}/specs", id: "list-specs", tag: tag, summary: "List the packages of a product; to a buyer those on sale", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			Paged
		},
		) (*body[list[wireSpec]], error) {
			if _, err := s.productFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			f := billing.SpecFilter{Product: in.ID, Page: in.billing()}
			if a.Role == RoleBuyer {
				f.State = billing.SpecOnSale
			}
			items, next, err := s.deps.Billing.Specs(ctx, f)
			if err != nil {
				return nil, err
			}
			return listed(items, next, showSpec), nil
		})

	handle(s, route{method: http.MethodGet, path: "/specs/{id}", id: "get-spec", tag: tag, summary: "Show a package", roles: anyRole},
		func(ctx context.Context, a Actor, in *ByID) (*body[wireSpec], error) {
			spec, err := s.specFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			return reply(showSpec(&spec)), nil
		})

	for _, action := range []struct {
		name, summary string
		state         billing.SpecState
	}{
		{"withdraw", "Take a package off sale; what was sold stays", billing.SpecWithdrawn},
		{"offer", "Put a withdrawn package on sale again", billing.SpecOnSale},
	} {
		handle(s, route{method: http.MethodPost, path: "/specs/{id}/" + action.name, id: action.name + "-spec", tag: tag, summary: action.summary, roles: sellerSide},
			func(ctx context.Context, a Actor, in *ByID) (*body[wireSpec], error) {
				if _, err := s.specFor(ctx, a, in.ID); err != nil {
					return nil, err
				}
				spec, err := s.deps.Billing.SetSpecState(ctx, in.ID, action.state)
				if err != nil {
					return nil, err
				}
				s.audit(ctx, a, "spec."+action.name, slog.String("id", spec.ID))
				return reply(showSpec(&spec)), nil
			})
	}
}

// specFor returns a package whose product the actor may see.
func (s *Server) specFor(ctx context.Context, a Actor, id string) (billing.Spec, error) {
	spec, err := s.deps.Billing.Spec(ctx, id)
	if err != nil {
		return billing.Spec{}, err
	}
	if _, err := s.productFor(ctx, a, spec.Product); err != nil {
		return billing.Spec{}, err
	}
	return spec, nil
}

// billing is the page as billing takes it.
func (p Paged) billing() billing.Page { return billing.Page{Limit: p.Limit, Cursor: p.Cursor} }

// listed converts a part of one of billing's lists.
func listed[T, W any](items []T, next string, wire func(*T) W) *body[list[W]] {
	out := list[W]{Items: make([]W, 0, len(items)), Next: next}
	for i := range items {
		out.Items = append(out.Items, wire(&items[i]))
	}
	return reply(out)
}

// onceOutside is once for a creation that runs in a transaction of its own. The
// answer is kept after it: a crash in between makes a repetition create again,
// which is harmless for what it is used for. In this process, repetitions run
// one after another.
func onceOutside[T any](ctx context.Context, s *Server, k onceKey, input any, fn func(ctx context.Context) (T, error)) (T, error) {
	if k.Key == "" {
		return fn(ctx)
	}
	s.outside.Lock()
	defer s.outside.Unlock()
	var out T
	digest, err := s.inputDigest(k, input)
	if err != nil {
		return out, err
	}
	found := false
	err = s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		found, err = s.recall(ctx, tx, k, digest, &out)
		return err
	})
	if err != nil || found {
		return out, err
	}
	if out, err = fn(ctx); err != nil {
		return out, err
	}
	return out, s.change(ctx, unseen, func(ctx context.Context, tx *sqldb.Tx) error { return s.remember(ctx, tx, k, digest, out) })
}
