package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/internal/directory"
)

// breakers shows the health of every upstream in the directory.
type breakers struct{ g *Gateway }

var (
	perUpstream  = []string{"product", "upstream"}
	breakerState = prometheus.NewDesc("tollgate_breaker_state",
		"State of an upstream's breaker: 0 closed, 1 trying whether the upstream is back, 2 open.", perUpstream, nil)
	upstreamHealthy = prometheus.NewDesc("tollgate_upstream_healthy",
		"Whether an upstream's active health checks succeed; 1 where there are none.", perUpstream, nil)
	upstreamEjected = prometheus.NewDesc("tollgate_upstream_ejected",
		"Whether an upstream rests because it failed too large a share of its calls.", perUpstream, nil)
	upstreamInFlight = prometheus.NewDesc("tollgate_upstream_in_flight",
		"Calls under way to an upstream.", perUpstream, nil)
	upstreamCalls = prometheus.NewDesc("tollgate_upstream_attempts_total",
		"Attempts at an upstream.", perUpstream, nil)
	upstreamFailures = prometheus.NewDesc("tollgate_upstream_failures_total",
		"Attempts at an upstream that failed: by its answer, by time, or without an answer.", perUpstream, nil)
	upstreamRetries = prometheus.NewDesc("tollgate_upstream_retries_total",
		"Calls sent again after they were sent.", []string{"product"}, nil)
	upstreamDenied = prometheus.NewDesc("tollgate_upstream_retries_denied_total",
		"Calls not sent again because the retry budget or the call's time did not allow it.", []string{"product"}, nil)
)

// Describe implements prometheus.Collector.
func (b breakers) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		breakerState, upstreamHealthy, upstreamEjected, upstreamInFlight, upstreamCalls, upstreamFailures, upstreamRetries, upstreamDenied,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (b breakers) Collect(ch chan<- prometheus.Metric) {
	t := b.g.table.Load()
	if t == nil {
		return
	}
	for _, p := range t.products {
		send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, kind, v, append([]string{p.ID}, labels...)...)
		}
		for _, u := range p.upstream {
			s := u.Status()
			send(breakerState, prometheus.GaugeValue, float64(s.State), u.id)
			send(upstreamHealthy, prometheus.GaugeValue, truth(s.Healthy), u.id)
			send(upstreamEjected, prometheus.GaugeValue, truth(s.Ejected), u.id)
			send(upstreamInFlight, prometheus.GaugeValue, float64(s.InFlight), u.id)
			send(upstreamCalls, prometheus.CounterValue, float64(s.Calls), u.id)
			send(upstreamFailures, prometheus.CounterValue, float64(s.Failures), u.id)
		}
		send(upstreamRetries, prometheus.CounterValue, float64(p.retries.made.Load()))
		send(upstreamDenied, prometheus.CounterValue, float64(p.retries.denied.Load()))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// maxStatuses bounds a report on upstreams.
const maxStatuses = 4096

// Upstreams tells what this gateway knows of the upstreams in its directory, in
// no order. One that was not called yet and has nothing wrong is left out.
func (g *Gateway) Upstreams() []directory.UpstreamStatus {
	t := g.table.Load()
	if t == nil {
		return nil
	}
	var out []directory.UpstreamStatus
	for _, p := range t.products {
		for _, u := range p.upstream {
			s := u.Status()
			if s.Calls == 0 && s.Available || len(out) == maxStatuses {
				continue
			}
			out = append(out, directory.UpstreamStatus{
				Product: p.ID, ID: u.id, Breaker: s.State.String(), Available: s.Available, Healthy: s.Healthy,
				Ejected: s.Ejected, Resting: s.Resting, InFlight: s.InFlight, Attempts: s.Calls, Failures: s.Failures,
			})
		}
	}
	return out
}
