package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// LoadInput describes a load. At least one of Requests and Duration ends it.
type LoadInput struct {
	Scenarios   []Scenario
	Connections int           // by default 1
	Requests    int64         // stop after so many calls; 0: no limit
	Duration    time.Duration // stop starting calls after so long; 0: no limit
	// Rate, when positive, makes the loop open: so many calls a second leave
	// at fixed instants, whatever the answers do. A call that has to wait for
	// a free connection is timed from its instant, so that a stall of the
	// server shows in every call it delayed (no coordinated omission). There
	// have to be connections enough: [LoadResult.Late] counts the calls that
	// found none free.
	Rate float64
	// Warmup leaves the calls of its time out of rate and latencies. They are
	// counted all the same: they cost units.
	Warmup  time.Duration
	Timeout time.Duration // of one call, by default 60 s
	Seed    uint64        // order of the scenarios; the same seed, the same order
	// VerifyTLS checks certificates. By default it does not: the demo's is
	// self-signed.
	VerifyTLS bool
}

// Validate reports every fault of in.
func (in *LoadInput) Validate() error {
	var faults []error
	if len(in.Scenarios) == 0 {
		faults = append(faults, errors.New("no scenario"))
	}
	names := make(map[string]bool)
	weights := 0
	for i := range in.Scenarios {
		s := &in.Scenarios[i]
		faults = append(faults, s.Validate())
		if names[s.Name] {
			faults = append(faults, fmt.Errorf("two scenarios are called %q", s.Name))
		}
		names[s.Name] = true
		weights += s.Weight
	}
	if weights > 1_000_000 {
		faults = append(faults, errors.New("the weights add up to more than 1000000"))
	}
	if in.Requests < 0 || in.Duration < 0 || in.Rate < 0 || in.Connections < 0 || in.Warmup < 0 || in.Timeout < 0 {
		faults = append(faults, errors.New("requests, duration, rate, connections, warm-up and timeout must not be negative"))
	}
	if in.Requests == 0 && in.Duration == 0 {
		faults = append(faults, errors.New("the load has no end: give a number of requests or a duration"))
	}
	return errors.Join(faults...)
}

// maxLatency is the longest time the histograms can hold; what takes longer
// counts as that.
const maxLatency = int64(10 * time.Minute / time.Microsecond)

// Load runs a load to its end, or until ctx ends, and returns what happened.
// Failed calls are counted, not returned as errors; an error means that the
// load could not run.
func Load(ctx context.Context, in LoadInput) (LoadResult, error) {
	if err := in.Validate(); err != nil {
		return LoadResult{}, err
	}
	if in.Connections == 0 {
		in.Connections = 1
	}
	if in.Timeout == 0 {
		in.Timeout = time.Minute
	}
	run := &loadRun{in: in, order: scenarioOrder(in)}
	workers := make([]*worker, in.Connections)
	for i := range workers {
		w, err := run.worker(ctx)
		if err != nil {
			return LoadResult{}, err
		}
		workers[i] = w
	}

	// The end of ctx must also wake calls that wait for an answer.
	stop := context.AfterFunc(ctx, func() {
		for _, w := range workers {
			w.interrupt()
		}
	})
	defer stop()

	run.start = time.Now()
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(w.loop)
	}
	wg.Wait()
	return run.result(workers, time.Since(run.start)), nil
}

// scenarioOrder returns the scenario of every call, to be repeated: each as
// often as its weight, shuffled.
func scenarioOrder(in LoadInput) []int {
	var order []int
	for i, s := range in.Scenarios {
		for range max(s.Weight, 1) {
			order = append(order, i)
		}
	}
	r := rand.New(rand.NewPCG(in.Seed, 0x746f6c6c67617465))
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	return order
}

// loadRun is what the workers share.
type loadRun struct {
	in    LoadInput
	order []int
	start time.Time
	next  atomic.Int64
}

// worker drives one connection per target.
type worker struct {
	run   *loadRun
	ctx   context.Context
	calls []*prepared
	conns []*client // by scenario; scenarios of one target share theirs
	late  int64
	lag   *hdrhistogram.Histogram
	tally []*tally
}

func (run *loadRun) worker(ctx context.Context) (*worker, error) {
	w := &worker{run: run, ctx: ctx, lag: hdrhistogram.New(1, maxLatency, 2)}
	targets := make(map[string]*client)
	for _, s := range run.in.Scenarios {
		p, err := s.prepare()
		if err != nil {
			return nil, err
		}
		target := p.url.Scheme + "://" + p.addr
		if targets[target] == nil {
			c := &client{ctx: ctx, addr: p.addr, timeout: run.in.Timeout}
			if p.url.Scheme == "https" {
				c.tls = &tls.Config{ServerName: p.url.Hostname(), InsecureSkipVerify: !run.in.VerifyTLS, MinVersion: tls.VersionTLS12}
			}
			targets[target] = c
		}
		w.calls, w.conns = append(w.calls, p), append(w.conns, targets[target])
		w.tally = append(w.tally, newTally())
	}
	return w, nil
}

// loop takes calls until there are none left.
func (w *worker) loop() {
	defer func() {
		for _, c := range w.conns {
			c.close()
		}
	}()
	in := &w.run.in
	for w.ctx.Err() == nil {
		n := w.run.next.Add(1) - 1
		if in.Requests > 0 && n >= in.Requests {
			return
		}
		due := w.run.start
		if in.Rate > 0 {
			due = due.Add(time.Duration(float64(n) / in.Rate * float64(time.Second)))
		} else {
			due = time.Now()
		}
		if in.Duration > 0 && due.Sub(w.run.start) >= in.Duration {
			return
		}
		begin, ok := w.wait(due)
		if !ok {
			return
		}
		w.call(n, begin)
	}
}

// wait sleeps until due and returns the instant from which the call is timed.
// A worker that was busy at that instant is late, and times from it. One that
// slept and was woken late by the scheduler times from when it woke: that
// delay is the generator's own, and reported apart as lag.
func (w *worker) wait(due time.Time) (begin time.Time, ok bool) {
	now := time.Now()
	if w.run.in.Rate <= 0 {
		return now, true
	}
	d := due.Sub(now)
	if d <= 0 {
		if d < -time.Millisecond {
			w.late++
		}
		return due, true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
		return due, false
	}
	now = time.Now()
	record(w.lag, now.Sub(due))
	return now, true
}

// call makes call number n.
func (w *worker) call(n int64, begin time.Time) {
	i := w.run.order[n%int64(len(w.run.order))]
	p, c, t := w.calls[i], w.conns[i], w.tally[i]
	request, err := p.render(begin, n)
	if err != nil {
		t.fail(&failure{class: failMalformed, err: err})
		return
	}
	r, err := c.do(request, p.Method == "HEAD")
	end := time.Now()
	warm := end.Sub(w.run.start) >= w.run.in.Warmup
	t.count(p, &r, err, begin, end, warm)
}

// interrupt ends the call under way.
func (w *worker) interrupt() {
	for _, c := range w.conns {
		c.interrupt()
	}
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 1), maxLatency)) // within its bounds it cannot fail
}
