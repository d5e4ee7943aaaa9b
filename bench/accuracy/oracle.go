package accuracy

import (
	"sync"

	"tollgate/bench"
	"tollgate/internal/usage"
)

// oracle hears the three witnesses of every call, by its request id. Its
// methods may be called from any goroutine.
type oracle struct {
	mu       sync.Mutex
	clients  map[string]seen    // the client's word
	answered map[string]bool    // the mock's: true for a 2xx
	tokens   map[string]int64   // what the mock's answer reported
	records  map[string]charged // what the journals hold
	outcome  outcome

	// exact says that nothing dies in this trial: every call the mock answered
	// with 2xx must be charged, whatever its client saw of it, but one whose
	// client got the gateway's own error instead.
	exact bool
}

// seen is what a client saw of a call.
type seen struct {
	subscription string
	must         bool // enough for the call to have to be charged
	part         bool // some events of a stream that broke off
	mustNot      bool // a whole answer that was no 2xx
}

// charged is what a journal says of a call.
type charged struct {
	subscription string
	units        int64 // overrun included
	provisional  bool
}

// outcome counts what the clients saw.
type outcome struct {
	calls     int64 // begun
	ok        int64 // heads with 2xx
	exhausted int64 // 429 and 405: the package is used up
	away      int64 // 503
	other     int64 // other answers
	unknown   int64 // sent, and no head came
	broken    int64 // 2xx answers that broke off
	refused   int64 // connections refused, by every host
	malformed int64 // answers that are not HTTP
}

func newOracle() *oracle {
	return &oracle{clients: map[string]seen{}, answered: map[string]bool{}, tokens: map[string]int64{}, records: map[string]charged{}}
}

// reply takes the client's word on a call to a subscription.
func (o *oracle) reply(r bench.Reply, subscription string, stream bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	success := r.Status/100 == 2
	o.outcome.count(&r, success)
	if r.RequestID == "" {
		return
	}
	o.clients[r.RequestID] = seen{
		subscription: subscription,
		// Of a plain answer the head is enough: it leaves after the record is
		// written. Of a stream it takes the last event.
		must:    success && (!stream || r.Complete),
		part:    success && stream && !r.Complete && r.Events > 0,
		mustNot: !success && r.Complete,
	}
}

func (c *outcome) count(r *bench.Reply, success bool) {
	c.calls++
	switch {
	case success:
		c.ok++
		if r.Class != "" {
			c.broken++
		}
	case r.Status == 429 || r.Status == 405:
		c.exhausted++
	case r.Status == 503:
		c.away++
	case r.Status != 0:
		c.other++
	case r.Class == "dial":
		c.refused++
	default:
		c.unknown++
	}
	if r.Class == "malformed" {
		c.malformed++
	}
}

// answer takes the mock's word.
func (o *oracle) answer(a bench.Answer) {
	if a.RequestID == "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answered[a.RequestID] = a.Status/100 == 2
}

// used takes the mock's word on what an answer reported.
func (o *oracle) used(id string, tokens int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tokens[id] = tokens
}

// record takes a journal's word. A record that is read again changes nothing; a
// final one replaces provisional ones, and those each other.
func (o *oracle) record(r *usage.Record, unit usage.Unit) {
	if !r.Has(usage.Counted) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.records[r.ID.String()].provisional { // the call was given up: its provisional records are void
			delete(o.records, r.ID.String())
		}
		return
	}
	o.charge(r.ID.String(), charged{r.Subscription, r.Charged(unit) + r.Overrun[unit], r.Has(usage.Provisional)})
}

func (o *oracle) charge(id string, c charged) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if old, ok := o.records[id]; ok && !old.provisional {
		return
	}
	o.records[id] = c
}

// totals returns what the clients saw so far.
func (o *oracle) totals() outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.outcome
}

// mock2xx returns how many calls the mock answered with 2xx.
func (o *oracle) mock2xx() (n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ok := range o.answered {
		if ok {
			n++
		}
	}
	return n
}

// unrecorded lists the calls the mock answered with 2xx that are in no journal
// that was read.
func (o *oracle) unrecorded() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ids []string
	for id, ok := range o.answered {
		if _, known := o.records[id]; ok && !known {
			ids = append(ids, id)
		}
	}
	return ids
}

// expectation is what the witnesses say must be charged, in units.
type expectation struct {
	least, most int64 // by client and mock alone
	expected    int64 // with the journals' word on the calls nobody else knows about
	journal     int64 // what the journals hold
	uncertain   int64 // calls whose charge only the journals know
	lost        int64 // must be charged, and is in no journal
	excess      int64 // in a journal, and must not be charged, or not that much
	free        int64 // calls whose clients saw a part of a stream, and no journal holds
}

// expect sums the calls of one subscription. only says that all calls of the
// trial went to it, so that one nobody else knows about did too.
func (o *oracle) expect(subscription string, unit usage.Unit, only bool) expectation {
	o.mu.Lock()
	defer o.mu.Unlock()
	cost := func(id string) int64 {
		if unit == usage.Call {
			return 1
		}
		return o.tokens[id]
	}
	var e expectation
	for id, c := range o.clients {
		if c.must && c.subscription == subscription {
			e.least += cost(id)
			e.lost += max(0, cost(id)-o.records[id].units)
		}
	}
	e.expected, e.most = e.least, e.least
	for id, ok := range o.answered {
		c, known := o.clients[id]
		r, recorded := o.records[id]
		ours := only
		switch {
		case known:
			ours = c.subscription == subscription
		case recorded:
			ours = r.subscription == subscription
		}
		if !ok || !ours || c.must || c.mustNot {
			continue
		}
		e.most += cost(id)
		if o.exact {
			e.least += cost(id)
			e.expected += cost(id)
			e.lost += max(0, cost(id)-r.units)
		} else if recorded {
			e.uncertain++
			e.expected += cost(id)
		} else if c.part {
			e.free++
		}
	}
	for id, r := range o.records {
		if r.subscription != subscription {
			continue
		}
		e.journal += r.units
		may := int64(0)
		if o.answered[id] && !o.clients[id].mustNot {
			may = cost(id)
		}
		e.excess += max(0, r.units-may)
	}
	return e
}
