package accuracy

import (
	"context"
	"time"

	"tollgate/bench"
)

// rolling restarts three nodes by SIGTERM, one after the other, while clients
// spread their calls over them, as every client does: they try another node
// where a connection is refused, and repeat a call whose kept-alive connection
// was closed in order before a byte of its answer. Not one call may be lost, or
// refused, or reset. Two of the nodes stop taking connections at once; the third
// first lets its balancer look away.
func rolling(ctx context.Context, b *bed, r *Result) error {
	const delay = 500 * time.Millisecond
	w, err := newWorld(ctx, b, plan{units: plenty, gateways: 3, redis: true, prepare: func(_ *world, n *node) error {
		if n.name == "node-3" {
			n.with("TOLLGATE_DRAIN_DELAY=" + delay.String())
		}
		return nil
	}})
	if err != nil {
		return err
	}
	defer w.close()
	plain := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 16, Rate: 400, RepeatClosed: true})
	streams := w.begin(ctx, bench.LoadInput{
		Scenarios: []bench.Scenario{w.stream("X-Mock-Chunks: 20", "X-Mock-Chunk-Delay: 20ms")}, Connections: 16, Rate: 30, RepeatClosed: true,
	})
	r.Rounds = b.rounds(9, 3)
	for i := range r.Rounds {
		pause(ctx, 300*time.Millisecond)
		n := w.gateways[i%len(w.gateways)]
		if err := w.terminate(n); err != nil {
			return err
		}
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	pause(ctx, 300*time.Millisecond)
	for name, t := range map[string]*traffic{"plain calls": plain, "streams": streams} {
		res, err := t.end()
		if err != nil {
			return err
		}
		if lost := res.Requests - res.OK2xx; lost > 0 || res.Errors > 0 {
			w.fault("%d of %d %s were lost: statuses %v, errors %v", lost, res.Requests, name, res.Statuses, res.Classes)
		}
		if res.StreamsComplete != res.Streams {
			w.fault("%d of %d streams broke off", res.Streams-res.StreamsComplete, res.Streams)
		}
	}
	return w.settle(ctx, r)
}
