package accuracy

import (
	"context"
	"slices"
	"time"

	"tollgate/bench"
)

// shortLease is the lease time of trials that outlast it.
const shortLease = 2 * time.Second

// sigstop stops one node past the end of its lease, while calls wait in it and
// the others go on and sell what they can, and lets it continue. It must not
// sell from the lease that ended; once it has reported, the rest is sold.
func sigstop(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: 1200, gateways: 3, redis: true, lease: shortLease})
	if err != nil {
		return err
	}
	defer w.close()
	r.Rounds = b.rounds(6, 1)
	for i := range r.Rounds {
		if err := w.newPackage(ctx, i); err != nil {
			return err
		}
		n := w.gateways[i%len(w.gateways)]
		others := w.chat()
		others.Hosts = slices.DeleteFunc(slices.Clone(others.Hosts), func(h string) bool { return h == n.gateway })
		frozen := w.chat()
		frozen.Hosts = []string{n.gateway}
		one := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{frozen}, Connections: 8, Rate: 100})
		rest := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{others}, Connections: 8, Rate: 200})
		pause(ctx, 700*time.Millisecond)
		if err := freeze(n.proc); err != nil {
			return err
		}
		pause(ctx, 2*shortLease)
		if err := thaw(n.proc); err != nil {
			return err
		}
		pause(ctx, 200*time.Millisecond)
		if err := ended(one, rest); err != nil {
			return err
		}
		if err := w.exhaust(ctx); err != nil {
			return err
		}
	}
	return w.soldOut(ctx, r)
}

// ended ends traffic and returns what kept it from running.
func ended(list ...*traffic) error {
	var failed error
	for _, t := range list {
		if _, err := t.end(); err != nil {
			failed = err
		}
	}
	return failed
}
