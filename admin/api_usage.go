package admin

import (
	"context"
	"errors"
	"net/http"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// amounts is units by name, without those that are zero.
type amounts map[string]int64

func showUnits(u *usage.Units) amounts {
	out := amounts{}
	for i, n := range u {
		if n != 0 {
			out[usage.Unit(i).String()] = n
		}
	}
	return out
}

// UsageTotals are sums over calls.
type UsageTotals struct {
	Requests        int64   `json:"requests" doc:"Calls that were recorded, refused and failed ones included where they are."`
	Counted         int64   `json:"counted" doc:"Of them, charged."`
	Errors          int64   `json:"errors" doc:"Of them, answered with a status of 400 or more."`
	Units           amounts `json:"units" doc:"What was measured, by billing item."`
	Charged         amounts `json:"charged" doc:"What packages paid for, by billing item."`
	Overrun         amounts `json:"overrun" doc:"Used beyond any package."`
	CachedTokens    int64   `json:"cached_tokens" doc:"A part of input_token."`
	ReasoningTokens int64   `json:"reasoning_tokens" doc:"A part of output_token."`
	BytesIn         int64   `json:"bytes_in"`
	BytesOut        int64   `json:"bytes_out"`
}

type wireUsageRow struct {
	Group string     `json:"group" doc:"The id of the key, the API, model or status, or the start of the hour or day (RFC 3339)."`
	Start *time.Time `json:"start,omitempty" doc:"When the hour or day begins."`
	UsageTotals
}

type wireUsage struct {
	Subscription string           `json:"subscription_id"`
	From         time.Time        `json:"from"`
	To           time.Time        `json:"to"`
	GroupBy      metering.GroupBy `json:"group_by" enum:"minute,hour,day,key,api,model,status,application,region,basis"`
	AsOf         *time.Time       `json:"as_of,omitempty" doc:"When the newest call in the figures was settled; they lag a little (METER-14)."`
	Rows         []wireUsageRow   `json:"rows" doc:"Groups without calls have no row."`
	Total        UsageTotals      `json:"total"`
}

func showTotals(t *metering.Totals) UsageTotals {
	return UsageTotals{
		Requests: t.Calls, Counted: t.Counted, Errors: t.Errors, Units: showUnits(&t.Units), Charged: showUnits(&t.Charged), Overrun: showUnits(&t.Overrun),
		CachedTokens: t.Cached, ReasoningTokens: t.Reasoning, BytesIn: t.BytesIn, BytesOut: t.BytesOut,
	}
}

type wireCharge struct {
	Lot    string    `json:"lot_id"`
	Unit   string    `json:"unit"`
	Amount int64     `json:"amount"`
	Period time.Time `json:"period_from" doc:"The start of the lot's period that the units came from."`
}

type wireRecord struct {
	RequestID       string       `json:"request_id" doc:"The X-Request-Id of the call."`
	Time            time.Time    `json:"time" doc:"When it was admitted."`
	Finished        time.Time    `json:"finished"`
	Account         string       `json:"account_id"`
	Subscription    string       `json:"subscription_id"`
	Product         string       `json:"product_id"`
	API             string       `json:"api"`
	Model           string       `json:"model,omitempty"`
	Auth            string       `json:"auth" enum:"none,signature,appcode,apikey"`
	Credential      string       `json:"credential_id" doc:"The API key, application key or AppCode."`
	Application     string       `json:"application_id,omitempty"`
	Region          string       `json:"region"`
	Node            string       `json:"node" doc:"The gateway that served it."`
	Status          int          `json:"status"`
	Reason          string       `json:"reason,omitempty"`
	Counted         bool         `json:"counted" doc:"Whether it was charged."`
	Rule            string       `json:"rule,omitempty" doc:"The rule it was judged by: METER-1, METER-2 or METER-3."`
	Basis           string       `json:"basis" enum:"none,upstream,counted,estimated,floor,recovered" doc:"Where the amounts come from."`
	Streamed        bool         `json:"streamed"`
	Incomplete      bool         `json:"incomplete" doc:"The answer broke off after it had begun."`
	ClientGone      bool         `json:"client_gone" doc:"The client left before the end."`
	Debug           bool         `json:"debug"`
	Units           amounts      `json:"units"`
	Overrun         amounts      `json:"overrun"`
	CachedTokens    int64        `json:"cached_tokens"`
	ReasoningTokens int64        `json:"reasoning_tokens"`
	Charges         []wireCharge `json:"charges" doc:"What each lot paid."`
	TotalUs         int64        `json:"total_us" doc:"Microseconds from the first byte of the request to the last of the answer."`
	UpstreamUs      int64        `json:"upstream_us"`
	FirstByteUs     int64        `json:"first_byte_us"`
	BytesIn         int64        `json:"bytes_in"`
	BytesOut        int64        `json:"bytes_out"`
	Attempts        int64        `json:"attempts,omitempty" doc:"How often upstreams were asked; the call is charged once whatever it is."`
}

func showRecord(r *usage.Record) wireRecord {
	w := wireRecord{
		RequestID: r.ID.String(), Time: r.Time, Finished: r.Finished, Account: r.Account, Subscription: r.Subscription, Product: r.Product,
		API: r.API, Model: r.Model, Auth: r.Auth.String(), Credential: r.Credential, Application: r.Application, Region: r.Region, Node: r.Node,
		Status: r.Status, Reason: r.Reason, Counted: r.Has(usage.Counted), Rule: r.Rule.String(), Basis: r.Basis.String(),
		Streamed: r.Has(usage.Streamed), Incomplete: r.Has(usage.Incomplete), ClientGone: r.Has(usage.ClientGone), Debug: r.Has(usage.Debug),
		Units: showUnits(&r.Units), Overrun: showUnits(&r.Overrun), CachedTokens: r.Cached, ReasoningTokens: r.Reasoning, Charges: []wireCharge{},
		TotalUs: r.Total.Microseconds(), UpstreamUs: r.Upstream.Microseconds(), FirstByteUs: r.FirstByte.Microseconds(), BytesIn: r.BytesIn, BytesOut: r.BytesOut, Attempts: r.Attempts,
	}
	for _, c := range r.Charges {
		w.Charges = append(w.Charges, wireCharge{Lot: c.Lot, Unit: c.Unit.String(), Amount: c.Amount, Period: time.UnixMilli(c.Bucket).UTC()})
	}
	return w
}

func (s *Server) registerUsage() {
	const tag = "Usage"
	handle(s, route{method: http.MethodGet, path: "/subscriptions/{id}/usage", id: "get-usage", tag: tag, summary: "What a subscription used", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			From    time.Time        `query:"from" doc:"Not before; default a day before to."`
			To      time.Time        `query:"to" doc:"Before; default now."`
			GroupBy metering.GroupBy `query:"group_by" enum:"minute,hour,day,key,api,model,status,application,region,basis" default:"hour"`
			Zone    string           `query:"zone" maxLength:"64" doc:"IANA time zone by whose clock days begin, such as Asia/Shanghai; default UTC."`
		},
		) (*body[wireUsage], error) {
			sub, err := s.subscriptionFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			zone, err := time.LoadLocation(in.Zone)
			if err != nil || in.Zone == "Local" {
				return nil, &InvalidError{[]Fault{{"query.zone", "must be an IANA time zone, such as Asia/Shanghai"}}}
			}
			q := metering.QueryInput{From: in.From.UTC(), To: in.To.UTC(), GroupBy: in.GroupBy, Zone: zone, Filter: metering.Filter{Subscriptions: []string{sub.ID}}}
			if in.To.IsZero() {
				q.To = s.now().UTC()
			}
			if in.From.IsZero() {
				q.From = q.To.Add(-24 * time.Hour)
			}
			if s.deps.Usage == nil {
				return nil, ErrUnavailable
			}
			res, err := s.deps.Usage.Query(ctx, q)
			if err != nil {
				return nil, err
			}
			out := wireUsage{Subscription: sub.ID, From: q.From, To: q.To, GroupBy: q.GroupBy, AsOf: instant(res.AsOf), Rows: []wireUsageRow{}, Total: showTotals(&res.Total)}
			for i := range res.Rows {
				r := &res.Rows[i]
				out.Rows = append(out.Rows, wireUsageRow{Group: r.Key, Start: instant(r.Start), UsageTotals: showTotals(&r.Totals)})
			}
			return reply(out), nil
		})

	s.registerUsageQueries()
	s.registerReceipts(tag)
	s.registerRating(tag)

	handle(s, route{method: http.MethodGet, path: "/usage/requests/{request_id}", id: "get-request", tag: tag, summary: "The record of one call", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			ID string `path:"request_id" maxLength:"64" doc:"The X-Request-Id of the call."`
		},
		) (*body[wireRecord], error) {
			id, err := ids.ParseRequest(in.ID)
			if err != nil {
				return nil, ErrNotFound
			}
			if s.deps.Usage == nil {
				return nil, ErrUnavailable
			}
			rec, err := s.deps.Usage.ByRequest(ctx, id)
			if err != nil {
				return nil, err
			}
			if !a.owns(rec.Account) {
				p, err := s.Product(ctx, rec.Product)
				if err != nil && !errors.Is(err, ErrNotFound) {
					return nil, err
				}
				if err != nil || a.Role != RoleSeller || !a.owns(p.Seller) {
					return nil, metering.ErrNotFound
				}
			}
			return reply(showRecord(&rec)), nil
		})

	handle(s, route{method: http.MethodGet, path: "/reconciliation", id: "get-reconciliation", tag: tag, summary: "Compare journal, quota store and usage store", roles: operatorOnly},
		func(ctx context.Context, a Actor, _ *none) (*body[Reconciliation], error) {
			if s.deps.Reconciler == nil {
				return nil, ErrUnavailable
			}
			r, err := s.deps.Reconciler.Reconcile(ctx)
			if err != nil {
				return nil, err
			}
			r.Subscriptions = orEmpty(r.Subscriptions)
			return reply(r), nil
		})

	handle(s, route{method: http.MethodGet, path: "/reconciliation/{id}", id: "explain-reconciliation", tag: tag, summary: "Name the calls and lots behind the drift of one subscription", roles: operatorOnly},
		func(ctx context.Context, a Actor, in *ByID) (*body[Explanation], error) {
			if _, err := s.subscriptionFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			if s.deps.Reconciler == nil {
				return nil, ErrUnavailable
			}
			x, err := s.deps.Reconciler.Explain(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			x.Journals, x.Missing, x.Unknown, x.Different, x.Lots = orEmpty(x.Journals), orEmpty(x.Missing), orEmpty(x.Unknown), orEmpty(x.Different), orEmpty(x.Lots)
			return reply(x), nil
		})

	s.registerQuotaStore(tag)
}
