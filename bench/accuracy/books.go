package accuracy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// books are the figures of one subscription at one instant, or their sums.
type books struct {
	expectation
	quota quota
	usage int64
	drift int64 // of one subscription, or their sum
}

// distance is the largest, in units, between what must be charged and any of
// the places where it was counted.
func (b *books) distance() int64 {
	return max(abs(b.counted()-b.expected), abs(b.usage-b.expected), abs(b.journal-b.expected), b.lost+b.excess)
}

// counted is what the quota store counted: the overrun was used as well.
func (b *books) counted() int64 { return b.quota.Used + b.quota.Overrun }

func abs(n int64) int64 { return max(n, -n) }

// settleLimit is how long the figures may take to agree after the last call.
func (w *world) settleLimit() time.Duration {
	if w.quick {
		return 10 * time.Second
	}
	return 20 * time.Second
}

// settle waits until nothing is under way and the figures agree, and fills in
// the result. What does not agree in the end is the trial's drift.
func (w *world) settle(ctx context.Context, r *Result) error {
	began := time.Now()
	defer func() { r.Settled = float64(time.Since(began).Milliseconds()) / 1000 }()
	err := until(ctx, w.settleLimit(), func(context.Context) error {
		if n := w.mock.Stats().Active; n != 0 {
			return fmt.Errorf("%d answers of the mock are still under way", n)
		}
		return nil
	})
	if err != nil {
		w.fault("%v", err)
	}
	for deadline := time.Now().Add(w.settleLimit()); ; {
		b, err := w.books(ctx)
		if err == nil && b.drift == 0 || time.Now().After(deadline) {
			if err != nil {
				return err
			}
			w.report(ctx, r, &b)
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// books reads all figures.
func (w *world) books(ctx context.Context) (books, error) {
	for _, n := range w.gateways {
		if err := n.readJournal(w.oracle, w.unit); err != nil {
			return books{}, err
		}
	}
	if w.cut {
		if err := w.askRows(ctx); err != nil {
			return books{}, err
		}
	}
	subs := w.subscriptions()
	var sum books
	for _, id := range subs {
		unit := w.unit(id)
		b := books{expectation: w.oracle.expect(id, unit, len(subs) == 1)}
		var err error
		if b.quota, err = w.api.quota(ctx, id); err != nil {
			return sum, err
		}
		if b.usage, err = w.api.charged(ctx, id, unit.String()); err != nil {
			return sum, err
		}
		sum.drift += b.distance()
		sum.quota.add(b.quota)
		sum.usage += b.usage
		sum.expectation.add(b.expectation)
	}
	return sum, nil
}

// subscriptions are those the clients called.
func (w *world) subscriptions() []string {
	w.oracle.mu.Lock()
	defer w.oracle.mu.Unlock()
	list := []string{w.product().SubscriptionID}
	for _, c := range w.oracle.clients {
		if !slices.Contains(list, c.subscription) {
			list = append(list, c.subscription)
		}
	}
	return list
}

func (q *quota) add(o quota) {
	q.Granted += o.Granted
	q.Used += o.Used
	q.Leased += o.Leased
	q.Remaining += o.Remaining
	q.Lapsed += o.Lapsed
	q.Overrun += o.Overrun
}

func (e *expectation) add(o expectation) {
	e.least += o.least
	e.most += o.most
	e.expected += o.expected
	e.journal += o.journal
	e.uncertain += o.uncertain
	e.lost += o.lost
	e.excess += o.excess
	e.free += o.free
}

// askRows asks the usage store for the calls that are in no journal that was
// read: where segments are small, the journal has let go of them.
func (w *world) askRows(ctx context.Context) error {
	ids := w.oracle.unrecorded()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	next := make(chan string)
	for range 8 {
		wg.Go(func() {
			for id := range next {
				r, found, err := w.api.row(ctx, id)
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					continue
				}
				if !found || !r.Counted {
					continue
				}
				unit := w.unit(r.Subscription).String()
				units := r.Overrun[unit]
				for _, c := range r.Charges {
					if c.Unit == unit {
						units += c.Amount
					}
				}
				w.oracle.charge(id, charged{subscription: r.Subscription, units: units})
			}
		})
	}
	for _, id := range ids {
		next <- id
	}
	close(next)
	wg.Wait()
	return failed
}

// report fills in the result.
func (w *world) report(ctx context.Context, r *Result, b *books) {
	t := w.oracle.totals()
	r.Calls, r.Client2xx, r.Mock2xx = t.calls, t.ok, w.oracle.mock2xx()
	r.Exhausted, r.Unavailable, r.Broken, r.Unknown, r.Refused = t.exhausted, t.away, t.broken, t.unknown, t.refused
	r.Expected, r.Least, r.Most = b.expected, b.least, b.most
	r.Counted, r.Usage, r.Journal = b.counted(), b.usage, b.journal
	r.Uncertain, r.Lost, r.Excess, r.Free = b.uncertain, b.lost, b.excess, b.free
	r.Granted, r.Overrun = b.quota.Granted, b.quota.Overrun
	r.Drift = b.drift
	if !w.plan.tokens { // tokens of a call that runs may pass what is left: its overrun is a figure of its own
		r.Oversold = max(0, b.counted()-b.quota.Granted, b.journal-b.quota.Granted, t.ok-b.quota.Granted)
	} else {
		r.Oversold = max(0, b.quota.Used-b.quota.Granted)
	}
	if q := b.quota; q.Granted != q.Remaining+q.Leased+q.Used+q.Lapsed || q.Remaining < 0 || q.Leased < 0 {
		w.fault("granted %d is not remaining %d + leased %d + used %d + lapsed %d", q.Granted, q.Remaining, q.Leased, q.Used, q.Lapsed)
	}
	if t.malformed != 0 {
		w.fault("%d answers were not HTTP", t.malformed)
	}
	rec, err := w.api.reconciliation(ctx)
	switch {
	case err != nil:
		w.fault("the program's own reconciliation: %v", err)
	case rec.Drift != 0 && r.Drift == 0:
		w.fault("the program's own reconciliation says drift %d", rec.Drift)
	}
	for _, n := range append(slices.Clone(w.gateways), w.admin) {
		for _, f := range n.faults() {
			if !slices.Contains(w.faults, f) {
				w.fault("%s", f)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Reason = strings.Join(w.faults, "; ")
	r.OK = r.Drift == 0 && r.Oversold == 0 && len(w.faults) == 0
}
