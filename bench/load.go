package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// LoadInput describes a load. At least one of Requests, Duration and Stop ends
// it.
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
	// Stop, when closed, ends the load in order: calls under way are finished,
	// no others are begun. It counts as an end.
	Stop <-chan struct{}
	// OnReply, when set, is told what became of each call, from the goroutine
	// that made it. It must not wait: the next call waits for it.
	OnReply func(Reply)
	Seed    uint64 // order of the scenarios; the same seed, the same order
	// RepeatClosed repeats a call, once, whose kept-alive connection the server
	// closed before a byte of the answer, as HTTP clients and SDKs do. A reset
	// is not repeated: it may have taken an answer with it.
	RepeatClosed bool
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
	if in.Requests == 0 && in.Duration == 0 && in.Stop == nil {
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
		w.turn = i // so that the workers do not call the hosts in step
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

// Reply is what became of one call, for [LoadInput.OnReply].
type Reply struct {
	Scenario  string
	RequestID string // X-Request-Id of the answer; empty: no head came, or none in it
	Status    int    // 0: no head came
	Charged   string // X-Tollgate-Charged
	Complete  bool   // the answer came to its end; a stream to its last event
	Events    int    // data events that came
	Failed    bool   // the stream carried an error event
	// Class of failure of a call that got no complete answer: dial, timeout,
	// closed, reset, cut, malformed, canceled or left.
	Class string
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
	conns [][]*client // by scenario, one for each of its hosts; scenarios of one target share theirs
	turn  int         // which host is next
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
		var conns []*client
		for _, addr := range p.addrs() {
			target := p.url.Scheme + "://" + addr
			if targets[target] == nil {
				c := &client{ctx: ctx, addr: addr, timeout: run.in.Timeout, keepID: run.in.OnReply != nil, again: run.in.RepeatClosed}
				if p.url.Scheme == "https" {
					c.tls = &tls.Config{ServerName: p.url.Hostname(), InsecureSkipVerify: !run.in.VerifyTLS, MinVersion: tls.VersionTLS12}
				}
				targets[target] = c
			}
			conns = append(conns, targets[target])
		}
		w.calls, w.conns = append(w.calls, p), append(w.conns, conns)
		w.tally = append(w.tally, newTally())
	}
	return w, nil
}

// loop takes calls until there are none left.
func (w *worker) loop() {
	defer func() {
		for _, conns := range w.conns {
			for _, c := range conns {
				c.close()
			}
		}
	}()
	in := &w.run.in
	for w.ctx.Err() == nil {
		select {
		case <-in.Stop:
			return
		default:
		}
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
	case <-w.run.in.Stop:
		return due, false
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
	p, t := w.calls[i], w.tally[i]
	request, err := p.render(begin, n)
	if err != nil {
		t.fail(&failure{class: failMalformed, err: err})
		return
	}
	r, err := w.send(i, request)
	end := time.Now()
	warm := end.Sub(w.run.start) >= w.run.in.Warmup
	t.count(p, &r, err, begin, end, warm)
	if w.run.in.OnReply != nil {
		w.run.in.OnReply(r.tell(p, err))
	}
	if err != nil && w.run.in.Rate <= 0 && classOf(err) == failDial {
		wait(dialPause, w.ctx.Done())
	}
}

// dialPause keeps a closed loop from spinning on a server that is away.
const dialPause = 5 * time.Millisecond

// send sends a call of scenario i to its next host. A host that refuses the
// connection has seen nothing of the call, so the one after it gets it; no
// other failure is tried again.
func (w *worker) send(i int, request []byte) (r reply, err error) {
	p, conns := w.calls[i], w.conns[i]
	for range conns {
		c := conns[w.turn%len(conns)]
		w.turn++
		c.leave, c.pieces = p.LeaveAfter, p.Pieces
		r, err = c.do(request, p.Method == "HEAD")
		if err == nil || classOf(err) != failDial || !errors.Is(err, syscall.ECONNREFUSED) {
			return r, err
		}
	}
	return r, err
}

// tell describes a call to [LoadInput.OnReply].
func (r *reply) tell(p *prepared, err error) Reply {
	return Reply{
		Scenario: p.Name, RequestID: r.id, Status: r.status, Charged: r.charged, Events: r.events, Failed: r.failed,
		Complete: err == nil && (!p.Stream || r.status/100 != 2 || r.finished), Class: classOf(err),
	}
}

// classOf returns the class of failure of a call's error, empty for none.
func classOf(err error) string {
	if err == nil {
		return ""
	}
	if f := (*failure)(nil); errors.As(err, &f) {
		return f.class
	}
	return failMalformed
}

// repeats counts the calls that were sent again.
func (w *worker) repeats() int64 {
	n := int64(0)
	seen := make(map[*client]bool)
	for _, conns := range w.conns {
		for _, c := range conns {
			if !seen[c] {
				seen[c] = true
				n += c.repeats
			}
		}
	}
	return n
}

// interrupt ends the call under way.
func (w *worker) interrupt() {
	for _, conns := range w.conns {
		for _, c := range conns {
			c.interrupt()
		}
	}
}

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 1), maxLatency)) // within its bounds it cannot fail
}
