package metering

import (
	"cmp"
	"slices"
	"time"

	"tollgate/internal/usage"
)

// Sum is what stores add up: totals, and latencies where they are wanted.
type Sum struct {
	Totals
	Latency Histogram // nil: not wanted
}

// Add adds o to s.
func (s *Sum) Add(o *Sum) {
	s.Totals.Add(&o.Totals)
	if o.Latency == nil {
		return
	}
	if s.Latency == nil {
		s.Latency = Histogram{}
	}
	s.Latency.Add(o.Latency)
}

// AddRecord adds one call.
func (s *Sum) AddRecord(r *usage.Record) { s.record(r, 1) }

// TakeRecord takes one call away that was added before.
func (s *Sum) TakeRecord(r *usage.Record) { s.record(r, -1) }

func (s *Sum) record(r *usage.Record, sign int64) {
	s.Calls += sign
	if r.Has(usage.Counted) {
		s.Counted += sign
	}
	if r.Status >= 400 {
		s.Errors += sign
	}
	for i := range s.Units {
		s.Units[i] += sign * r.Units[i]
		s.Overrun[i] += sign * r.Overrun[i]
	}
	for i := range r.Charges {
		s.Charged[r.Charges[i].Unit] += sign * r.Charges[i].Amount
	}
	s.Cached += sign * r.Cached
	s.Reasoning += sign * r.Reasoning
	s.BytesIn += sign * r.BytesIn
	s.BytesOut += sign * r.BytesOut
	s.Time += time.Duration(sign) * r.Total
	if s.Latency == nil {
		s.Latency = Histogram{}
	}
	s.Latency.Add(Histogram{LatencyBucket(r.Total): sign})
}

// Collector adds up the parts of an answer that a store reads segment by
// segment.
type Collector struct {
	in    *QueryInput
	zone  *time.Location
	rows  map[string]*Row
	slots map[int64]*Row // time series, by what Add was given
	total Sum
}

// NewCollector returns a collector for one query.
func NewCollector(in *QueryInput) *Collector {
	c := &Collector{in: in, zone: in.Zone, rows: map[string]*Row{}, slots: map[int64]*Row{}}
	if c.zone == nil {
		c.zone = time.UTC
	}
	if in.Latency {
		c.total.Latency = Histogram{}
	}
	return c
}

// Add adds the calls of a group key, or of a time series those admitted at or
// shortly after the instant at, in Unix ms. It keeps nothing of s.
func (c *Collector) Add(key string, at int64, s *Sum) {
	one := *s
	if !c.in.Latency {
		one.Latency = nil
	}
	c.total.Add(&one)
	var r *Row
	switch {
	case c.in.series():
		r = c.slot(at)
	case c.in.GroupBy == GroupNone || c.in.GroupBy == "":
		return
	default:
		if r = c.rows[key]; r == nil {
			r = &Row{Key: key}
			c.rows[key] = r
		}
	}
	sum := Sum{r.Totals, r.Latency}
	sum.Add(&one)
	r.Totals, r.Latency = sum.Totals, sum.Latency
}

func (c *Collector) slot(at int64) *Row {
	if r := c.slots[at]; r != nil {
		return r
	}
	start := startOf(time.UnixMilli(at).In(c.zone), c.in.GroupBy)
	key := start.Format(time.RFC3339)
	r := c.rows[key]
	if r == nil {
		r = &Row{Key: key, Start: start}
		c.rows[key] = r
	}
	c.slots[at] = r
	return r
}

// startOf returns when the minute, hour or day that holds t begins, by the
// clock of t's zone. An hour that the clock repeats stays two.
func startOf(t time.Time, by GroupBy) time.Time {
	switch by {
	case GroupDay:
		y, m, d := t.Date()
		return time.Date(y, m, d, 0, 0, 0, 0, t.Location())
	case GroupHour:
		t = t.Add(-time.Duration(t.Minute()) * time.Minute)
	}
	return t.Add(-time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
}

// Result returns the answer but for AsOf. Groups whose calls were all taken
// away again have no row.
func (c *Collector) Result() Result {
	res := Result{Total: c.total.Totals, Latency: c.total.Latency}
	for _, r := range c.rows {
		if r.Calls != 0 {
			res.Rows = append(res.Rows, *r)
		}
	}
	slices.SortFunc(res.Rows, func(a, b Row) int {
		if c.in.series() {
			return a.Start.Compare(b.Start)
		}
		return cmp.Or(cmp.Compare(c.in.Order.of(&b.Totals), c.in.Order.of(&a.Totals)), cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Key, b.Key))
	})
	if c.in.Top > 0 && len(res.Rows) > c.in.Top {
		res.Rows = res.Rows[:c.in.Top]
	}
	return res
}
