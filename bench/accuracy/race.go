package accuracy

import (
	"context"

	"tollgate/bench"
)

// mixed makes 10 000 calls of every kind: credentials, streams, statuses.
func mixed(ctx context.Context, b *bed, r *Result) error {
	// AppCodes are for https only.
	w, err := newWorld(ctx, b, plan{units: plenty, env: []string{"TOLLGATE_GATEWAY_TLS_LISTEN=127.0.0.1:0"}})
	if err != nil {
		return err
	}
	defer w.close()
	w.oracle.exact = true
	list := w.demo.Scenarios()
	audit, err := bench.OpenAudit(ctx, w.demo, list)
	if err != nil {
		return err
	}
	res, err := w.load(ctx, bench.LoadInput{Scenarios: list, Connections: 64, Requests: int64(b.rounds(10_000, 3000)), Seed: b.seed})
	if err != nil {
		return err
	}
	books, err := audit.Close(ctx, list, res)
	if err != nil {
		return err
	}
	if !books.OK {
		w.fault("the audit of bench load --check finds drift %d: %+v", books.Drift, books.Subscriptions)
	}
	r.Rounds = 1
	return w.settle(ctx, r)
}

// race has 64 connections race for a package with twice as many calls.
type race struct{ nodes int } // gateways on one Redis; 0: one node on embedded stores

func (c race) run(ctx context.Context, b *bed, r *Result) error {
	units := int64(b.rounds(5000, 2000))
	w, err := newWorld(ctx, b, plan{units: units, gateways: c.nodes, redis: c.nodes > 0})
	if err != nil {
		return err
	}
	defer w.close()
	w.oracle.exact = true
	res, err := w.load(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 64, Requests: 2 * units})
	if err != nil {
		return err
	}
	if res.OK2xx != units || res.C4xx != units {
		w.fault("of %d calls for %d units %d succeeded and %d were refused as used up: statuses %v, errors %v", 2*units, units, res.OK2xx, res.C4xx, res.Statuses, res.Classes)
	}
	r.Rounds = 1
	return w.settle(ctx, r)
}
