package accuracy

import (
	"context"
	"path/filepath"
	"time"

	"tollgate/bench"
)

// redisRestart kills Redis and starts it again on the append-only file as it
// was a second before: what was granted and reported since is forgotten.
func redisRestart(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: 6000, gateways: 2, redis: true, lease: shortLease})
	if err != nil {
		return err
	}
	defer w.close()
	t := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 16, Rate: 300})
	r.Rounds = b.rounds(5, 1)
	rnd := b.rand(r.Name)
	copied := filepath.Join(w.dir, "aof")
	for range r.Rounds {
		pause(ctx, 300*time.Millisecond+time.Duration(rnd.Int64N(int64(300*time.Millisecond))))
		if err := w.redis.copyTo(copied); err != nil {
			return err
		}
		pause(ctx, time.Second)
		w.redis.proc.kill()
		if err := w.redis.rollBack(copied); err != nil {
			return err
		}
		if err := w.redis.start(ctx); err != nil {
			return err
		}
		pause(ctx, shortLease/2)
	}
	if err := ended(t); err != nil {
		return err
	}
	return w.soldOut(ctx, r)
}

// redisFlush empties Redis under load. The control plane has to bring its
// grants back, the nodes their use, and the package must end where it would
// have.
func redisFlush(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: 4000, gateways: 2, redis: true, lease: shortLease})
	if err != nil {
		return err
	}
	defer w.close()
	t := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 16, Rate: 300})
	c := w.redis.client()
	defer c.Close()
	r.Rounds = b.rounds(2, 1)
	for range r.Rounds {
		pause(ctx, time.Second)
		if err := c.FlushAll(ctx).Err(); err != nil {
			return err
		}
		pause(ctx, 2*shortLease)
	}
	if err := ended(t); err != nil {
		return err
	}
	return w.soldOut(ctx, r)
}
