package compare

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"
)

// plan is how long and how often is measured.
type plan struct {
	quick        bool // leave out what says little
	rounds       int
	warmup       time.Duration
	duration     time.Duration
	connections  int
	streams      int
	rate         float64       // of the open loop; 0: half of what Tollgate's closed loop reaches
	budget       time.Duration // no further round is begun past it; 0: no limit
	streamRounds int
}

// runner measures targets in rounds.
type runner struct {
	bed      *bed
	plan     plan
	targets  []*target
	progress io.Writer
	began    time.Time
	got      map[key][]measurement
}

// key is one target in one scenario.
type key struct {
	t        *target
	scenario string
}

// all measures every scenario and returns the runs.
func (r *runner) all(ctx context.Context) (runs []Run, rate float64, err error) {
	r.got = make(map[key][]measurement)
	if err := r.rounds(ctx, scenarioClosed, r.plan.rounds, 0, 0.55); err != nil {
		return nil, 0, err
	}
	rate = r.plan.rate
	if rate == 0 {
		rate = r.halfLoad()
	}
	if err := r.rounds(ctx, scenarioOpen, r.plan.rounds, rate, 0.78); err != nil {
		return nil, 0, err
	}
	if err := r.rounds(ctx, scenarioStream, r.plan.streamRounds, 0, 1); err != nil {
		return nil, 0, err
	}
	for _, scenario := range []string{scenarioClosed, scenarioOpen, scenarioStream} {
		for _, t := range r.targets {
			list := r.got[key{t, scenario}]
			if len(list) == 0 {
				continue
			}
			x := Run{Target: t.name, Scenario: scenario, Auth: t.auth, Store: t.store, Role: t.role}
			x.merge(list)
			runs = append(runs, x)
		}
	}
	return runs, rate, nil
}

// halfLoad is half of what a gateway with API keys was able to do in the closed
// loop, or of the slowest target where no Tollgate is measured.
func (r *runner) halfLoad() float64 {
	least := math.Inf(1)
	for k, list := range r.got {
		var rates []float64
		for i := range list {
			rates = append(rates, float64(list[i].Requests)/list[i].Seconds)
		}
		rps := median(rates)
		if k.t.name == nameTollgate && k.t.auth == "apikey" && k.t.role == "gateway" {
			return math.Floor(rps / 2)
		}
		if k.t.name != namePortkey {
			least = min(least, rps)
		}
	}
	return max(1, math.Floor(least/2))
}

// rounds measures each target in turn, again and again: what disturbs the
// machine for a while disturbs all of them. share is the part of the budget
// after which no further round is begun; the first always is.
func (r *runner) rounds(ctx context.Context, scenario string, n int, rate, share float64) error {
	for i := range n {
		if r.plan.budget > 0 && i > 0 && time.Since(r.began) > time.Duration(share*float64(r.plan.budget)) {
			return nil
		}
		for _, t := range r.targets {
			if !t.in(scenario) || r.plan.quick && t.dull(scenario) || scenario == scenarioOpen && !r.keepsUp(t, rate) {
				continue
			}
			o := r.order(t, scenario, rate)
			m, err := r.bed.measure(ctx, t, o)
			if err != nil {
				return err
			}
			r.got[key{t, scenario}] = append(r.got[key{t, scenario}], m)
			fmt.Fprintf(r.progress, "%-6s %-34s round %d: %6.0f/s  p50 %5d µs  p99 %6d µs  %6.2f µs CPU a call\n",
				scenario, t, i+1, float64(m.Requests)/m.Seconds, m.P50, m.P99, m.cpu)
		}
	}
	return nil
}

// dull reports whether a quick comparison leaves the target out of a scenario:
// what role all shows beside role gateway it shows with one kind of credential,
// and its stores are no part of a stream.
func (t *target) dull(scenario string) bool {
	switch scenario {
	case scenarioClosed:
		return t.role == "all" && t.auth != "apikey"
	case scenarioOpen:
		return t.role == "all" || t.name == nameHAProxy
	}
	return t.role == "all" && t.store == "redis"
}

// keepsUp reports whether the closed loop showed that t can do rate calls a
// second: past that an open loop measures nothing but its queue.
func (r *runner) keepsUp(t *target, rate float64) bool {
	var rates []float64
	for _, m := range r.got[key{t, scenarioClosed}] {
		rates = append(rates, float64(m.Requests)/m.Seconds)
	}
	return median(rates) > rate
}

func (r *runner) order(t *target, scenario string, rate float64) order {
	stream := scenario == scenarioStream
	o := order{Scenario: t.call(stream), Connections: r.plan.connections, Warmup: r.plan.warmup, Duration: r.plan.duration}
	if t.exact {
		o.Body = int64(len(r.bed.shape.answer()))
	}
	switch scenario {
	case scenarioOpen:
		o.Rate = rate
		// Enough that none is missing when an answer takes 50 ms.
		o.Connections = max(o.Connections, int(rate/20))
	case scenarioStream:
		o.Connections = r.plan.streams
		o.Warmup = min(o.Warmup, r.bed.shape.Delay*time.Duration(r.bed.shape.Chunks)/2)
		if t.exact {
			o.Body = int64(len(r.bed.shape.streamed()))
		}
	}
	return o
}
