package gateway

import "github.com/prometheus/client_golang/prometheus"

// breakers shows the breaker of every upstream in the directory.
type breakers struct{ g *Gateway }

var breakerState = prometheus.NewDesc("tollgate_breaker_state",
	"State of an upstream's breaker: 0 closed, 1 trying whether the upstream is back, 2 open.",
	[]string{"product", "upstream"}, nil)

// Describe implements prometheus.Collector.
func (b breakers) Describe(ch chan<- *prometheus.Desc) { ch <- breakerState }

// Collect implements prometheus.Collector.
func (b breakers) Collect(ch chan<- prometheus.Metric) {
	t := b.g.table.Load()
	if t == nil {
		return
	}
	for _, p := range t.products {
		for _, u := range p.upstream {
			ch <- prometheus.MustNewConstMetric(breakerState, prometheus.GaugeValue, float64(u.State()), p.ID, u.id)
		}
	}
}
