package admin

import (
	"context"
	"net/http"
	"slices"
	"time"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// UsageFilter is the part of an input that narrows calls. Values of one
// parameter, given again and again, are alternatives. It is exported because
// huma looks into exported embedded fields only.
type UsageFilter struct {
	From          time.Time `query:"from" doc:"Not before; default a day before to."`
	To            time.Time `query:"to" doc:"Before; default now."`
	Accounts      []string  `query:"account_id,explode" maxItems:"1000" doc:"Buyers. A buyer's own calls, and a seller's products, are all that each sees."`
	Subscriptions []string  `query:"subscription_id,explode" maxItems:"1000"`
	Products      []string  `query:"product_id,explode" maxItems:"1000"`
	APIs          []string  `query:"api,explode" maxItems:"1000" doc:"Route families, such as chat.completions, or paths of API products."`
	Models        []string  `query:"model,explode" maxItems:"1000"`
	Credentials   []string  `query:"credential_id,explode" maxItems:"1000" doc:"API keys, application keys or AppCodes."`
	Applications  []string  `query:"application_id,explode" maxItems:"1000"`
	Regions       []string  `query:"region,explode" maxItems:"1000"`
	Nodes         []string  `query:"node,explode" maxItems:"1000"`
	Statuses      []int     `query:"status,explode" maxItems:"1000"`
	Classes       []int     `query:"status_class,explode" maxItems:"5" doc:"2 is every status from 200 to 299."`
	Bases         []string  `query:"basis,explode" maxItems:"6" enum:"none,upstream,counted,estimated,floor,recovered"`
	Counted       string    `query:"counted" enum:"true,false" doc:"Only calls that were charged, or only those that were not."`
}

// usageFilter turns an input into what the actor may see of it. Things of
// others do not exist for a buyer or seller.
func (s *Server) usageFilter(ctx context.Context, a Actor, in *UsageFilter) (f metering.Filter, from, to time.Time, err error) {
	if s.deps.Usage == nil {
		return f, from, to, ErrUnavailable
	}
	from, to = in.From.UTC(), in.To.UTC()
	if in.To.IsZero() {
		to = s.now().UTC()
	}
	if in.From.IsZero() {
		from = to.Add(-24 * time.Hour)
	}
	f = metering.Filter{
		Accounts: in.Accounts, Subscriptions: in.Subscriptions, Products: in.Products, APIs: in.APIs, Models: in.Models, Credentials: in.Credentials,
		Applications: in.Applications, Regions: in.Regions, Nodes: in.Nodes, Statuses: in.Statuses, StatusClasses: in.Classes,
	}
	for _, name := range in.Bases {
		b, err := usage.ParseBasis(name)
		if err != nil {
			return f, from, to, &InvalidError{[]Fault{{"query.basis", err.Error()}}}
		}
		f.Bases = append(f.Bases, b)
	}
	if in.Counted != "" {
		yes := in.Counted == "true"
		f.Counted = &yes
	}
	switch a.Role {
	case RoleOperator:
	case RoleBuyer:
		if len(f.Accounts) > 0 && !slices.Equal(f.Accounts, []string{a.Account}) {
			return f, from, to, ErrNotFound
		}
		f.Accounts = []string{a.Account}
	default:
		own, err := s.productsOf(ctx, a.Account)
		if err != nil {
			return f, from, to, err
		}
		for _, p := range f.Products {
			if !slices.Contains(own, p) {
				return f, from, to, ErrNotFound
			}
		}
		if len(f.Products) == 0 {
			f.Products = own
		}
		if len(f.Products) == 0 {
			f.Products = []string{"a seller without products"} // lets nothing through
		}
	}
	return f, from, to, nil
}

// productsOf returns the ids of a seller's products.
func (s *Server) productsOf(ctx context.Context, seller string) ([]string, error) {
	var own []string
	for p := (Page{Limit: 500}); ; {
		products, err := s.Products(ctx, ProductFilter{Seller: seller}, p)
		if err != nil {
			return nil, err
		}
		for i := range products {
			own = append(own, products[i].ID)
		}
		if len(products) < p.Limit {
			return own, nil
		}
		p.Cursor = own[len(own)-1]
	}
}

// Latency tells percentiles of the calls' total times.
type Latency struct {
	P50 int64 `json:"p50_us"`
	P90 int64 `json:"p90_us"`
	P95 int64 `json:"p95_us"`
	P99 int64 `json:"p99_us"`
}

func showLatency(h metering.Histogram) *Latency {
	if h == nil {
		return nil
	}
	us := func(q float64) int64 { return h.Quantile(q).Microseconds() }
	return &Latency{us(0.5), us(0.9), us(0.95), us(0.99)}
}

type wireFigureRow struct {
	Group string     `json:"group" doc:"The value of the group, or the start of the minute, hour or day (RFC 3339)."`
	Start *time.Time `json:"start,omitempty" doc:"When the minute, hour or day begins."`
	UsageTotals
	Latency *Latency `json:"latency,omitempty"`
}

type wireFigures struct {
	From    time.Time        `json:"from" doc:"Start of what is covered: what was asked for, but that figures beyond the retention of finer ones begin at a whole hour or day."`
	To      time.Time        `json:"to"`
	GroupBy metering.GroupBy `json:"group_by"`
	AsOf    *time.Time       `json:"as_of,omitempty" doc:"When the newest call in the figures was settled (METER-14)."`
	Rows    []wireFigureRow  `json:"rows" doc:"Groups without calls have no row."`
	Total   UsageTotals      `json:"total" doc:"Of all groups, also those that top cut off."`
	Latency *Latency         `json:"latency,omitempty" doc:"Percentiles of the calls' total times, each within 1 %."`
}

type wireRecords struct {
	Items []wireRecord `json:"items"`
	Next  string       `json:"next,omitempty" doc:"Pass it as cursor for the following part; absent at the end. It names a place in the order of admission: calls that arrive meanwhile move nothing."`
}

// usageZone reads a time zone parameter.
func usageZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, &InvalidError{[]Fault{{"query.zone", "must be an IANA time zone, such as Asia/Shanghai"}}}
	}
	return zone, nil
}

func (s *Server) registerUsageQueries() {
	const tag = "Usage"
	handle(s, route{method: http.MethodGet, path: "/usage", id: "query-usage", tag: tag, summary: "Sums, time series, top groups and percentiles over calls", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			UsageFilter
			GroupBy     metering.GroupBy `query:"group_by" enum:"none,minute,hour,day,key,api,model,status,account,subscription,product,application,region,node,basis" default:"none"`
			Zone        string           `query:"zone" maxLength:"64" doc:"IANA time zone by whose clock hours and days begin, such as Asia/Shanghai; default UTC."`
			Top         int              `query:"top" minimum:"0" maximum:"10000" doc:"Keep this many groups, the greatest; 0: all. Not for time series."`
			Order       metering.Order   `query:"order" enum:"calls,errors,tokens,charged,time" default:"calls" doc:"The figure by which groups are the greatest."`
			Percentiles bool             `query:"percentiles" doc:"Add percentiles of latency."`
		},
		) (*body[wireFigures], error) {
			zone, err := usageZone(in.Zone)
			if err != nil {
				return nil, err
			}
			f, from, to, err := s.usageFilter(ctx, a, &in.UsageFilter)
			if err != nil {
				return nil, err
			}
			res, err := s.deps.Usage.Query(ctx, metering.QueryInput{
				From: from, To: to, GroupBy: in.GroupBy, Zone: zone, Top: in.Top, Order: in.Order, Latency: in.Percentiles, Filter: f,
			})
			if err != nil {
				return nil, err
			}
			out := wireFigures{From: res.From, To: res.To, GroupBy: in.GroupBy, AsOf: instant(res.AsOf), Rows: []wireFigureRow{}, Total: showTotals(&res.Total), Latency: showLatency(res.Latency)}
			for i := range res.Rows {
				r := &res.Rows[i]
				out.Rows = append(out.Rows, wireFigureRow{Group: r.Key, Start: instant(r.Start), UsageTotals: showTotals(&r.Totals), Latency: showLatency(r.Latency)})
			}
			return reply(out), nil
		})

	handle(s, route{method: http.MethodGet, path: "/usage/requests", id: "list-requests", tag: tag, summary: "Single calls, newest first", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			UsageFilter
			Paged
		},
		) (*body[wireRecords], error) {
			f, from, to, err := s.usageFilter(ctx, a, &in.UsageFilter)
			if err != nil {
				return nil, err
			}
			page, err := s.deps.Usage.List(ctx, metering.ListInput{From: from, To: to, After: in.Cursor, Limit: in.Limit, Filter: f})
			if err != nil {
				return nil, err
			}
			out := wireRecords{Items: make([]wireRecord, 0, len(page.Records)), Next: page.Next}
			for i := range page.Records {
				out.Items = append(out.Items, showRecord(&page.Records[i]))
			}
			return reply(out), nil
		})
	s.registerUsageExport()
}
