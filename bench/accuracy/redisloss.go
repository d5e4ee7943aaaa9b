package accuracy

import (
	"context"
	"path/filepath"
	"time"

	"tollgate/bench"
)

// smallPackage is the size of packages that are nearly used up when something
// breaks: a unit sold twice shows at the end of a package only.
const smallPackage = 400

// newPackage makes sure that round i has a whole package to sell: the demo's
// first, one more bought for each further round.
func (w *world) newPackage(ctx context.Context, i int) error {
	if i == 0 {
		return nil
	}
	return w.api.buy(ctx, w.product().SubscriptionID, 1)
}

// sell makes n calls, or as many as a second allows: a call that no lease
// covers may wait that long for its refusal. The books count what was sold.
func (w *world) sell(ctx context.Context, n int64) error {
	return w.sellAt(ctx, w.hosts(), n, time.Second)
}

// sellAt does the same at some of the gateways.
func (w *world) sellAt(ctx context.Context, hosts []string, n int64, long time.Duration) error {
	s := w.chat()
	s.Hosts = hosts
	_, err := w.load(ctx, bench.LoadInput{Scenarios: []bench.Scenario{s}, Connections: 16, Requests: n, Duration: long})
	return err
}

// amnesia makes the store forget what it did last, with the second gateway
// stopped meanwhile: it holds units of which the store knows nothing any more,
// and cannot tell. The first one asks for everything, for so long; then the
// second goes on, and sells what it has while its lease lasts.
func (w *world) amnesia(ctx context.Context, long time.Duration, forget func() error) error {
	hosts := w.hosts()
	silent := w.gateways[1].proc
	if err := freeze(silent); err != nil {
		return err
	}
	err := forget()
	if err == nil {
		err = w.sellAt(ctx, hosts[:1], 10*smallPackage, long)
	}
	if terr := thaw(silent); err == nil {
		err = terr
	}
	if err != nil {
		return err
	}
	return w.sellAt(ctx, hosts[1:], smallPackage, 400*time.Millisecond)
}

// redisRestart kills Redis when a package is nearly used up and starts it again
// on the append-only file as it was before most of it was sold: grants and use
// are forgotten, and one of the nodes that know is silent.
func redisRestart(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: smallPackage, gateways: 2, redis: true, lease: shortLease})
	if err != nil {
		return err
	}
	defer w.close()
	r.Rounds = b.rounds(8, 2)
	rnd := b.rand(r.Name)
	copied := filepath.Join(w.dir, "aof")
	for i := range r.Rounds {
		if err := w.newPackage(ctx, i); err != nil {
			return err
		}
		if err := w.sell(ctx, rnd.Int64N(smallPackage/2)); err != nil {
			return err
		}
		if err := w.redis.copyTo(copied); err != nil {
			return err
		}
		if err := w.sell(ctx, smallPackage/2-20+rnd.Int64N(20)); err != nil {
			return err
		}
		if rnd.IntN(2) == 0 { // time for the nodes to report what they sold, and to take new leases
			pause(ctx, 1200*time.Millisecond)
		}
		err := w.amnesia(ctx, 400*time.Millisecond, func() error {
			w.redis.proc.kill()
			if err := w.redis.rollBack(copied); err != nil {
				return err
			}
			return w.redis.start(ctx)
		})
		if err != nil {
			return err
		}
		if err := w.exhaust(ctx); err != nil {
			return err
		}
	}
	return w.soldOut(ctx, r)
}

// redisLostPurchase kills Redis after a package was bought and paid, and starts
// it again as it was before: the buyer must get the package all the same.
func redisLostPurchase(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: 100, gateways: 2, redis: true, lease: shortLease})
	if err != nil {
		return err
	}
	defer w.close()
	r.Rounds = b.rounds(3, 1)
	copied := filepath.Join(w.dir, "aof")
	for i := range r.Rounds {
		if err := w.sell(ctx, 100); err != nil {
			return err
		}
		if err := w.redis.copyTo(copied); err != nil {
			return err
		}
		if err := w.newPackage(ctx, i+1); err != nil {
			return err
		}
		w.redis.proc.kill()
		if err := w.redis.rollBack(copied); err != nil {
			return err
		}
		if err := w.redis.start(ctx); err != nil {
			return err
		}
		if err := w.served(ctx, w.restoreLimit()); err != nil {
			w.fault("a package was bought and paid, Redis lost its last second, and %v", err)
			break
		}
	}
	return w.rebuilt(ctx, r, int64(100*(r.Rounds+1)))
}

// restoreLimit is how long the control plane may take to bring back what Redis
// lost: one lease time of learning and its own rounds.
func (w *world) restoreLimit() time.Duration {
	if w.quick {
		return 10 * time.Second
	}
	return 15 * time.Second
}

// rebuilt settles and holds that all packages are there, and are sold to their
// end.
func (w *world) rebuilt(ctx context.Context, r *Result, granted int64) error {
	if len(w.faults) > 0 { // there is nothing to sell; the figures say how it stands
		return w.settle(ctx, r)
	}
	if err := w.soldOut(ctx, r); err != nil {
		return err
	}
	if r.Granted != granted {
		r.fail("%d units are granted, %d were bought", r.Granted, granted)
	}
	return nil
}

// redisFlush empties Redis under load. The control plane has to bring its
// grants back, the nodes their use, and the package must end where it would
// have.
func redisFlush(ctx context.Context, b *bed, r *Result) error {
	const units = 4000
	w, err := newWorld(ctx, b, plan{units: units, gateways: 2, redis: true, lease: shortLease})
	if err != nil {
		return err
	}
	defer w.close()
	c := w.redis.client()
	defer c.Close()
	r.Rounds = b.rounds(2, 1)
	for range r.Rounds {
		t := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 16, Rate: 300})
		pause(ctx, time.Second)
		if err := c.FlushAll(ctx).Err(); err != nil {
			return err
		}
		pause(ctx, 2*shortLease) // every lease has ended
		if err := ended(t); err != nil {
			return err
		}
		if err := w.served(ctx, w.restoreLimit()); err != nil {
			w.fault("Redis was emptied, and %v", err)
			break
		}
	}
	return w.rebuilt(ctx, r, units)
}
