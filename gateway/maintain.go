package gateway

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// sweepEvery is how often keys that are idle are forgotten.
const sweepEvery = 30 * time.Second

// Balance does one exchange of demand with the other nodes, so that a node knows
// of them before it serves. Without others it does nothing.
func (g *Gateway) Balance(ctx context.Context) {
	if g.cluster != nil {
		_ = g.cluster.Exchange(ctx, g.now()) // it has logged and counted its failure
	}
}

// Maintain balances the limits between the nodes and forgets idle keys, until
// ctx ends.
func (g *Gateway) Maintain(ctx context.Context) {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	var exchange <-chan time.Time
	if g.cluster != nil {
		t := time.NewTicker(g.cluster.Every)
		defer t.Stop()
		exchange = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			g.limits.Sweep(g.now())
		case <-exchange:
			g.Balance(ctx)
		}
	}
}

// registerLimits shows what is kept for limiting, and what was lost of the
// access log.
func registerLimits(reg prometheus.Registerer, g *Gateway) {
	gauge := func(name, help string, f func() int64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
	counter := func(name, help string, f func() int64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
	gauge("tollgate_limit_keys", "Keys whose calls are counted for limits.", g.limits.Keys)
	counter("tollgate_limit_keys_forgotten_total", "Keys forgotten for want of room although they were in use.", g.limits.Forgotten)
	if g.cluster != nil {
		gauge("tollgate_limit_nodes", "Gateways that share the limits, as of the last exchange.", g.cluster.Nodes)
		counter("tollgate_limit_exchange_failures_total", "Exchanges of demand between gateways that failed.", g.cluster.Failures)
	}
	if g.access != nil {
		counter("tollgate_access_log_dropped_total", "Access log lines dropped because the disk could not keep up.", g.access.Dropped)
		counter("tollgate_access_log_failed_total", "Access log lines the disk refused.", g.access.Failed)
	}
}
