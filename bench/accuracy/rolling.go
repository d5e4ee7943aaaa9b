package accuracy

import (
	"context"
	"time"

	"tollgate/bench"
)

// rolling restarts three nodes by SIGTERM, one after the other, while clients
// spread their calls over them and try another node only where a connection is
// refused. Not one call may be lost.
func rolling(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: plenty, gateways: 3, redis: true})
	if err != nil {
		return err
	}
	defer w.close()
	plain := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 16, Rate: 400})
	streams := w.begin(ctx, bench.LoadInput{
		Scenarios: []bench.Scenario{w.stream("X-Mock-Chunks: 20", "X-Mock-Chunk-Delay: 20ms")}, Connections: 16, Rate: 30,
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
			w.fault("%d of %d %s were lost: statuses %v, errors %v", lost+res.Cut2xx, res.Requests, name, res.Statuses, res.Classes)
		}
		if res.StreamsComplete != res.Streams {
			w.fault("%d of %d streams broke off", res.Streams-res.StreamsComplete, res.Streams)
		}
	}
	return w.settle(ctx, r)
}
