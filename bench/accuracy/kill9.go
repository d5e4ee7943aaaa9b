package accuracy

import (
	"context"
	"math/rand/v2"
	"time"

	"tollgate/bench"
)

// kill9 kills the serving process at random instants while calls run, also
// while it is still starting, and starts it again on the same data.
type kill9 struct {
	redis   bool // the gateway is a process of its own, beside the admin role, on Redis
	streams bool
	rotate  bool // small segments: the journal drops its beginning all the time
}

// plenty is a package that no trial uses up.
const plenty = 100_000_000

func (k kill9) run(ctx context.Context, b *bed, r *Result) error {
	p := plan{units: plenty, redis: k.redis}
	if k.redis {
		p.gateways = 1
	}
	if k.rotate {
		p.env = []string{"TOLLGATE_JOURNAL_SEGMENT=64KiB"}
	}
	w, err := newWorld(ctx, b, p)
	if err != nil {
		return err
	}
	defer w.close()
	w.cut = k.rotate
	stopReading := func() error { return nil }
	if k.rotate {
		stopReading = w.reading(ctx, 100*time.Millisecond)
	}
	load := bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 32, Rate: 1200}
	if k.streams {
		load.Scenarios = []bench.Scenario{w.stream("X-Mock-Chunks: 12", "X-Mock-Chunk-Delay: 5ms")}
		load.Connections, load.Rate = 48, 500
	}
	t := w.begin(ctx, load)
	rounds := b.rounds(50, 5)
	if k.rotate || k.streams {
		rounds = b.rounds(30, 3)
	}
	err = k.rounds(ctx, b.rand(r.Name), w, rounds)
	if _, lerr := t.end(); err == nil {
		err = lerr
	}
	if serr := stopReading(); err == nil {
		err = serr
	}
	if err != nil {
		return err
	}
	r.Rounds = rounds
	if err := w.settle(ctx, r); err != nil {
		return err
	}
	if r.Free > 0 {
		r.fail("%d streams of which the client has a part are not charged", r.Free)
	}
	return nil
}

func (k kill9) rounds(ctx context.Context, rnd *rand.Rand, w *world, rounds int) error {
	n := w.gateways[0]
	span := 400 * time.Millisecond
	for i := range rounds {
		if !pause(ctx, time.Duration(rnd.Int64N(int64(span)))) {
			return ctx.Err()
		}
		if err := w.kill(n); err != nil {
			return err
		}
		if i%4 == 3 { // the next one dies before it may be ready
			if err := n.launch(); err != nil {
				return err
			}
			continue
		}
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	return n.await(ctx)
}

// kill9Tail kills one of two gateways in turn while the last units of a package
// are sold. What the dead one had leased returns with its journal, no more and
// no less: the package is sold to its last unit, and not beyond.
func kill9Tail(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: smallPackage, gateways: 2, redis: true})
	if err != nil {
		return err
	}
	defer w.close()
	r.Rounds = b.rounds(20, 2)
	rnd := b.rand(r.Name)
	for i := range r.Rounds {
		if err := w.newPackage(ctx, i); err != nil {
			return err
		}
		t := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 8, Rate: 1000})
		pause(ctx, time.Duration(rnd.Int64N(int64(smallPackage*time.Millisecond)*5/4)))
		n := w.gateways[i%2]
		if err := w.kill(n); err != nil {
			return err
		}
		pause(ctx, time.Duration(rnd.IntN(200))*time.Millisecond)
		if err := n.start(ctx); err != nil {
			return err
		}
		if err := ended(t); err != nil {
			return err
		}
		if err := w.exhaust(ctx); err != nil {
			return err
		}
	}
	return w.soldOut(ctx, r)
}
