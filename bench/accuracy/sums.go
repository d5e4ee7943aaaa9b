package accuracy

import (
	"context"
	"fmt"
	"time"

	"tollgate/internal/usage"
)

// sums compares totals, where no witness but the journal knows what single
// calls cost: all records of the trial's product, the quota store and the usage
// rows must agree, with each other and with what the trial expects.
//
// check looks at one final record and adds what is wrong to r.Lost or r.Excess.
// expected returns what must be charged by the witnesses, given what the
// journals hold.
func (w *world) sums(ctx context.Context, r *Result, check func(rec *usage.Record), expected func(journal int64) int64) error {
	began := time.Now()
	sub, unit := w.product().SubscriptionID, w.unit(w.product().SubscriptionID)
	err := until(ctx, w.settleLimit(), func(ctx context.Context) error {
		if n := w.mock.Stats().Active; n != 0 {
			return fmt.Errorf("%d answers of the mock are still under way", n)
		}
		r.Journal, r.Lost, r.Excess = 0, 0, 0
		for _, n := range w.gateways {
			err := n.eachRecord(func(rec *usage.Record) {
				if !rec.Has(usage.Counted) || rec.Has(usage.Provisional) || rec.Subscription != sub {
					return
				}
				r.Journal += rec.Charged(unit) + rec.Overrun[unit]
				check(rec)
			})
			if err != nil {
				return err
			}
		}
		q, err := w.api.quota(ctx, sub)
		if err != nil {
			return err
		}
		if r.Usage, err = w.api.charged(ctx, sub, unit.String()); err != nil {
			return err
		}
		rec, err := w.api.reconciliation(ctx)
		if err != nil {
			return err
		}
		r.Granted, r.Overrun, r.Counted = q.Granted, q.Overrun, q.Used+q.Overrun
		r.Expected = expected(r.Journal)
		r.Drift = max(abs(r.Counted-r.Expected), abs(r.Usage-r.Expected), abs(r.Journal-r.Expected), abs(rec.Drift), r.Lost+r.Excess)
		r.Oversold = max(0, q.Used-q.Granted)
		if r.Drift != 0 {
			return fmt.Errorf("expected %d, used %d, usage rows %d, journals %d, reconciliation %d, lost %d, excess %d",
				r.Expected, r.Counted, r.Usage, r.Journal, rec.Drift, r.Lost, r.Excess)
		}
		return nil
	})
	r.Settled = float64(time.Since(began).Milliseconds()) / 1000
	if err != nil {
		w.fault("%v", err)
	}
	r.Least, r.Most = r.Expected, r.Expected
	for _, n := range w.gateways {
		for _, f := range n.faults() {
			w.fault("%s", f)
		}
	}
	for _, f := range w.faults {
		r.fail("%s", f)
	}
	r.OK = r.Drift == 0 && r.Oversold == 0 && len(w.faults) == 0
	return nil
}
