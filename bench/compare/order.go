package compare

import (
	"errors"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"tollgate/bench"
)

// order is one measurement, for the generator.
type order struct {
	Scenario    bench.Scenario `json:"scenario"`
	Connections int            `json:"connections"`
	// Rate, when positive, opens the loop: so many calls a second are due at
	// even intervals, and each is timed from the instant it was due, whether or
	// not a connection was free to send it (no coordinated omission).
	Rate     float64       `json:"rate,omitempty"`
	Warmup   time.Duration `json:"warmup"`
	Duration time.Duration `json:"duration"`
	// Body is the length every answer must have; 0: any.
	Body int64 `json:"body,omitempty"`
}

func (o *order) validate() error {
	switch {
	case o.Connections < 1:
		return errors.New("a measurement needs connections")
	case o.Duration <= 0:
		return errors.New("a measurement needs a duration")
	case o.Rate < 0:
		return fmt.Errorf("rate %v is below 0", o.Rate)
	}
	return o.Scenario.Validate()
}

// sample is what one measurement of the generator yielded.
type sample struct {
	Requests int64   `json:"requests"` // complete answers with status 200 and the right length
	Errors   int64   `json:"errors"`
	FirstErr string  `json:"first_error,omitempty"`
	Seconds  float64 `json:"seconds"` // from the first call to the last answer
	P50      int64   `json:"p50_us"`
	P99      int64   `json:"p99_us"`
	P999     int64   `json:"p999_us"`
	// Buckets are how many calls took how long, for the plot.
	Buckets []bucket `json:"buckets,omitempty"`
	// Late are the calls of an open loop that found no connection free when
	// they were due.
	Late int64 `json:"late,omitempty"`
	// Lag99 is how late the generator itself came to a call that was due: it is
	// part of the latencies, and tells how far they are to be trusted.
	Lag99 int64 `json:"lag_p99_us,omitempty"`
}

// bucket is one point of a distribution.
type bucket struct {
	Quantile float64 `json:"q"`
	Micros   int64   `json:"us"`
}

// maxLatency is the longest latency kept apart, in microseconds.
const maxLatency = int64(time.Minute / time.Microsecond)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency, 3) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 1), maxLatency)) // within its bounds it cannot fail
}

// quantiles of the distribution that is plotted.
var quantiles = []float64{10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99}

// fill takes the latencies out of h.
func (s *sample) fill(h *hdrhistogram.Histogram) {
	if h.TotalCount() == 0 {
		return
	}
	s.P50, s.P99, s.P999 = h.ValueAtQuantile(50), h.ValueAtQuantile(99), h.ValueAtQuantile(99.9)
	for _, q := range quantiles {
		s.Buckets = append(s.Buckets, bucket{q, h.ValueAtQuantile(q)})
	}
}
