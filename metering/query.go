package metering

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"tollgate/internal/usage"
)

// Filter narrows a query. Values within a field are alternatives; fields are
// combined; an empty field does not narrow.
type Filter struct {
	Accounts      []string
	Subscriptions []string
	Products      []string
	APIs          []string
	Models        []string
	Credentials   []string
	Applications  []string
	Regions       []string
	Nodes         []string
	Statuses      []int // status sent to the client
	StatusClasses []int // 1..5: 2 is every status in [200, 300)
	Bases         []usage.Basis
	Counted       *bool // only calls that were charged, or only those that were not
}

// maxValues bounds the alternatives of one field.
const maxValues = 10_000

// validate returns the faults of f.
func (f *Filter) validate() []error {
	var errs []error
	for _, field := range []struct {
		name   string
		values []string
	}{
		{"accounts", f.Accounts},
		{"subscriptions", f.Subscriptions},
		{"products", f.Products},
		{"apis", f.APIs},
		{"models", f.Models},
		{"credentials", f.Credentials},
		{"applications", f.Applications},
		{"regions", f.Regions},
		{"nodes", f.Nodes},
	} {
		if len(field.values) > maxValues {
			errs = append(errs, fmt.Errorf("%s has %d values: give at most %d", field.name, len(field.values), maxValues))
		}
	}
	if len(f.Statuses) > maxValues {
		errs = append(errs, fmt.Errorf("statuses has %d values: give at most %d", len(f.Statuses), maxValues))
	}
	for _, c := range f.StatusClasses {
		if c < 1 || c > 5 {
			errs = append(errs, fmt.Errorf("status class %d is not 1 to 5", c))
		}
	}
	return errs
}

// GroupBy is what the rows of a Result stand for.
type GroupBy string

// The groupings. Minute, Hour and Day are time series; the others are ordered
// by QueryInput.Order, the most first.
const (
	GroupNone         GroupBy = "none"
	GroupMinute       GroupBy = "minute"
	GroupHour         GroupBy = "hour"
	GroupDay          GroupBy = "day"
	GroupKey          GroupBy = "key" // credential
	GroupAPI          GroupBy = "api"
	GroupModel        GroupBy = "model"
	GroupStatus       GroupBy = "status"
	GroupAccount      GroupBy = "account"
	GroupSubscription GroupBy = "subscription"
	GroupProduct      GroupBy = "product"
	GroupApplication  GroupBy = "application"
	GroupRegion       GroupBy = "region"
	GroupNode         GroupBy = "node"
	GroupBasis        GroupBy = "basis"
)

var groups = []GroupBy{
	GroupNone, GroupMinute, GroupHour, GroupDay, GroupKey, GroupAPI, GroupModel, GroupStatus, GroupAccount,
	GroupSubscription, GroupProduct, GroupApplication, GroupRegion, GroupNode, GroupBasis,
}

// QueryInput asks for sums over the calls admitted in [From, To).
type QueryInput struct {
	From, To time.Time
	GroupBy  GroupBy        // empty: none
	Zone     *time.Location // hours and days begin by its clock; nil: UTC
	Top      int            // keep this many rows, the rest only in Total; 0: all. Not for time series
	Order    Order          // of the rows that are not a time series; empty: calls
	Latency  bool           // fill in Row.Latency and Result.Latency, which costs reading them
	Filter
}

// Order is the figure by which rows are ordered, the greatest first.
type Order string

// The orders.
const (
	OrderCalls   Order = "calls"
	OrderErrors  Order = "errors"
	OrderTokens  Order = "tokens"  // measured tokens, input and output
	OrderCharged Order = "charged" // what lots paid, of whatever unit
	OrderTime    Order = "time"    // sum of the calls' total times
)

var orders = []Order{OrderCalls, OrderErrors, OrderTokens, OrderCharged, OrderTime}

// of returns the figure that o orders by.
func (o Order) of(t *Totals) int64 {
	switch o {
	case OrderErrors:
		return t.Errors
	case OrderTokens:
		return max(t.Units[usage.Token], t.Units[usage.InputToken]+t.Units[usage.OutputToken])
	case OrderCharged:
		var n int64
		for _, c := range t.Charged {
			n += c
		}
		return n
	case OrderTime:
		return int64(t.Time)
	default:
		return t.Calls
	}
}

// maxSeries bounds the rows of a time series.
const maxSeries = 24 * 366

// Validate returns every fault of in, joined, each wrapped in ErrInput.
func (in *QueryInput) Validate() error {
	errs := rangeFaults(in.From, in.To)
	series := in.series()
	known := in.GroupBy == ""
	for _, g := range groups {
		known = known || g == in.GroupBy
	}
	if !known {
		errs = append(errs, fmt.Errorf("cannot group by %q: use one of %v", in.GroupBy, groups))
	}
	if in.Order != "" && !slices.Contains(orders, in.Order) {
		errs = append(errs, fmt.Errorf("cannot order by %q: use one of %v", in.Order, orders))
	}
	step := map[GroupBy]time.Duration{GroupMinute: time.Minute, GroupHour: time.Hour, GroupDay: 24 * time.Hour}[in.GroupBy]
	if series && in.To.After(in.From) && in.To.Sub(in.From)/step > maxSeries {
		errs = append(errs, fmt.Errorf("from %s to %s is more than %d %ss: ask for a shorter time or longer steps",
			in.From.Format(time.RFC3339), in.To.Format(time.RFC3339), maxSeries, in.GroupBy))
	}
	if in.Top < 0 || in.Top > 0 && series {
		errs = append(errs, fmt.Errorf("top %d: give 0 or more, and 0 for a time series", in.Top))
	}
	return wrapInput(append(errs, in.validate()...))
}

func rangeFaults(from, to time.Time) []error {
	var errs []error
	if from.IsZero() {
		errs = append(errs, errors.New("from is not set"))
	}
	if to.IsZero() {
		errs = append(errs, errors.New("to is not set"))
	}
	if !from.IsZero() && !to.IsZero() && !to.After(from) {
		errs = append(errs, fmt.Errorf("to %s is not after from %s", to.Format(time.RFC3339), from.Format(time.RFC3339)))
	}
	return errs
}

func wrapInput(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInput, errors.Join(errs...))
}

// Totals are sums over calls.
type Totals struct {
	Calls     int64       // records, refused and failed calls included where they are recorded
	Counted   int64       // of them, charged
	Errors    int64       // of them, answered with a status of 400 or more
	Units     usage.Units // what they used, measured
	Charged   usage.Units // what lots paid for
	Overrun   usage.Units // used beyond what any lot could give
	Cached    int64       // cached prompt tokens
	Reasoning int64       // reasoning tokens
	BytesIn   int64
	BytesOut  int64
	Time      time.Duration // sum of the calls' total times; over Calls, their mean
}

// series reports whether the rows are a time series.
func (in *QueryInput) series() bool {
	return in.GroupBy == GroupMinute || in.GroupBy == GroupHour || in.GroupBy == GroupDay
}

// Add adds o to t.
func (t *Totals) Add(o *Totals) {
	t.Calls += o.Calls
	t.Counted += o.Counted
	t.Errors += o.Errors
	for i := range t.Units {
		t.Units[i] += o.Units[i]
		t.Charged[i] += o.Charged[i]
		t.Overrun[i] += o.Overrun[i]
	}
	t.Cached += o.Cached
	t.Reasoning += o.Reasoning
	t.BytesIn += o.BytesIn
	t.BytesOut += o.BytesOut
	t.Time += o.Time
}

// Row is one group of a Result.
type Row struct {
	Key   string    // value of the group; for a time series its start, RFC 3339
	Start time.Time // of a time series: when the hour or day begins
	Totals
	Latency Histogram // of the calls' total times; nil unless asked for
}

// Result answers a query. Groups without calls have no row.
type Result struct {
	Rows    []Row // nil for GroupNone
	Total   Totals
	Latency Histogram // of all calls; nil unless asked for
	// From and To are what the figures cover: what was asked for, but that
	// beyond the retention of the finer figures they are whole hours or days.
	From, To time.Time
	// AsOf is when the newest call in the store was settled: what came later is
	// not in the figures yet (METER-14, PKG-30). Zero when the store is empty.
	AsOf time.Time
}

// ListInput asks for single records, newest first.
type ListInput struct {
	From, To time.Time
	After    string // cursor of the page before; empty: the first page
	Limit    int    // records of a page, 1..MaxPage; 0: 100
	Filter
}

// The number of records of one page: the greatest, and that of a page whose
// input says none.
const (
	MaxPage     = 1000
	DefaultPage = 100
)

// Millis returns the time asked for in whole Unix ms, from included, to not.
func (in *ListInput) Millis() (from, to int64) { return ceilMilli(in.From), ceilMilli(in.To) }

// Validate returns every fault of in, joined, each wrapped in ErrInput.
func (in *ListInput) Validate() error {
	errs := rangeFaults(in.From, in.To)
	if in.Limit < 0 || in.Limit > MaxPage {
		errs = append(errs, fmt.Errorf("limit %d is not 1 to %d", in.Limit, MaxPage))
	}
	if in.After != "" {
		if _, _, err := ParseCursor(in.After); err != nil {
			errs = append(errs, err)
		}
	}
	return wrapInput(append(errs, in.validate()...))
}

// Page is one page of records.
type Page struct {
	Records []usage.Record
	// Next is the cursor of the page after this one; empty at the end. It names
	// a place in the order of admission, so records that arrive meanwhile move
	// nothing: no record of the range comes twice, and none that was stored
	// when the first page was read is left out.
	Next string
}
