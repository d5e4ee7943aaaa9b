package accuracy

import (
	"context"
	"strings"
	"time"

	"tollgate/bench"
)

// partition cuts one of two nodes off from Redis in several ways. It serves
// from its lease, then says that it cannot decide, never that the package is
// used up; the other goes on; healed, the books are as if nothing had been.
func partition(ctx context.Context, b *bed, r *Result) error {
	var line *wire
	w, err := newWorld(ctx, b, plan{
		units: 1000, gateways: 2, redis: true, lease: shortLease,
		prepare: func(w *world, n *node) (err error) {
			if n.name != "node-1" {
				return nil
			}
			if line, err = newWire(w.redis.addr); err != nil {
				return err
			}
			w.onClose(line.close)
			n.with("TOLLGATE_QUOTA_STORE=" + line.url())
			return nil
		},
	})
	if err != nil {
		return err
	}
	defer w.close()
	faults := []struct {
		name string
		f    fault
		long time.Duration
	}{
		{"cut both ways", fault{noRequests: true, noReplies: true}, 2 * shortLease},
		{"half of the replies lost with their connections", fault{lossy: 0.5}, shortLease},
		{"replies lost", fault{noReplies: true}, 2 * shortLease},
		{"slow by 300 ms each way", fault{delay: 300 * time.Millisecond}, shortLease},
		{"connections refused", fault{refuse: true}, shortLease},
		{"requests lost", fault{noRequests: true}, 2 * shortLease},
	}
	r.Rounds = b.rounds(len(faults), 2)
	for i, one := range faults[:r.Rounds] {
		if err := w.newPackage(ctx, i); err != nil {
			return err
		}
		if err := w.partitioned(ctx, line, one.name, one.f, one.long); err != nil {
			return err
		}
		if err := w.exhaust(ctx); err != nil {
			return err
		}
	}
	return w.soldOut(ctx, r)
}

func (w *world) partitioned(ctx context.Context, line *wire, name string, f fault, long time.Duration) error {
	cut, whole := w.chat(), w.chat()
	cut.Hosts, whole.Hosts = cut.Hosts[:1], whole.Hosts[1:]
	one := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{cut}, Connections: 8, Rate: 80})
	other := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{whole}, Connections: 8, Rate: 80})
	pause(ctx, 500*time.Millisecond)
	line.set(f)
	pause(ctx, long)
	line.set(fault{})
	healed := time.Now()
	got, err := one.end()
	rest, oerr := other.end()
	if err == nil {
		err = oerr
	}
	if err != nil {
		return err
	}
	for who, res := range map[string]bench.LoadResult{"the node that was cut off": got, "the other node": rest} {
		if n := res.C4xx; n > 0 {
			w.fault("%s: %s refused %d calls as if the package were used up: %v", name, who, n, res.Statuses)
		}
		if res.Errors > 0 {
			w.fault("%s: calls to %s failed: %v", name, who, res.Classes)
		}
	}
	if rest.C5xx > 0 {
		w.fault("%s: the other node refused %d calls: %v", name, rest.C5xx, rest.Statuses)
	}
	// Healed: it must sell again soon.
	for {
		res, err := w.load(ctx, bench.LoadInput{Scenarios: []bench.Scenario{cut}, Connections: 1, Requests: 1})
		if err != nil || res.OK2xx == 1 {
			return err
		}
		if since := time.Since(healed); since > 10*time.Second {
			w.fault("%s: the node does not sell again %s after the wire was healed: %v", name, since.Round(time.Second), strings.TrimSpace(w.gateways[0].proc.out.last()))
			return nil
		}
		if !pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}
