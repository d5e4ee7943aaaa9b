package accuracy

import (
	"context"
	"fmt"
	"time"

	"tollgate/bench"
)

// lastUnit has 1 000 calls at once race over 8 nodes for a package of one unit,
// and then for others bought meanwhile: each unit is sold once, by whichever
// node, and none is stranded on a node while others refuse.
func lastUnit(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: 1, gateways: 8, redis: true})
	if err != nil {
		return err
	}
	defer w.close()
	sub := w.product().SubscriptionID
	storms := []int64{1, 2, 8, 3, 20, 5, 13, 7}
	r.Rounds = b.rounds(len(storms), 2)
	for i, packages := range storms[:r.Rounds] {
		units := packages // each holds one
		if i > 0 {
			if err := w.api.buy(ctx, sub, int(packages)); err != nil {
				return err
			}
			if err := w.served(ctx, 5*time.Second); err != nil {
				w.fault("%d units were bought, and %v", packages, err)
			} else {
				units--
			}
		}
		res, err := w.load(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 1000, Requests: 1000})
		if err != nil {
			return err
		}
		if res.OK2xx != units {
			w.fault("1 000 calls for %d units: %d succeeded; statuses %v, errors %v", units, res.OK2xx, res.Statuses, res.Classes)
			if err := w.exhaust(ctx); err != nil {
				return err
			}
		}
	}
	return w.settle(ctx, r)
}

// served calls until one call succeeds.
func (w *world) served(ctx context.Context, limit time.Duration) error {
	began := time.Now()
	for {
		res, err := w.load(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 1, Requests: 1})
		if err != nil {
			return err
		}
		if res.OK2xx == 1 {
			return nil
		}
		if time.Since(began) > limit {
			return fmt.Errorf("service is not back after %s: statuses %v, errors %v", limit, res.Statuses, res.Classes)
		}
		if !pause(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// dryLimit is how long selling the rest of a package may take.
const dryLimit = 30 * time.Second

// exhaust calls until every node says that the package is used up. Whatever was
// broken before, all of it can be sold then, and no more: the books show.
func (w *world) exhaust(ctx context.Context) error {
	deadline := time.Now().Add(dryLimit)
	for dry := 0; dry < 3; {
		res, err := w.load(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 16, Requests: 160, Duration: time.Second})
		if err != nil {
			return err
		}
		if res.C4xx == res.Requests {
			dry++
			pause(ctx, 100*time.Millisecond) // longer than a refusal is remembered
			continue
		}
		dry = 0
		if time.Now().After(deadline) {
			w.fault("the package cannot be sold to its end in %s: statuses %v, errors %v", dryLimit, res.Statuses, res.Classes)
			return nil
		}
		if res.OK2xx == 0 && !pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// soldOut settles and holds that everything granted was sold.
func (w *world) soldOut(ctx context.Context, r *Result) error {
	if err := w.exhaust(ctx); err != nil {
		return err
	}
	if err := w.settle(ctx, r); err != nil {
		return err
	}
	if left := r.Granted - r.Counted; left > 0 {
		r.fail("%d of %d units could not be sold", left, r.Granted)
	}
	return nil
}
