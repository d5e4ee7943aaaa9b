package bench

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Outcome is what became of a set of calls.
type Outcome struct {
	Requests int64            `json:"requests"` // calls begun
	OK2xx    int64            `json:"ok_2xx"`   // heads with a status in [200, 300), complete or cut
	C3xx     int64            `json:"status_3xx"`
	C4xx     int64            `json:"status_4xx"`
	C5xx     int64            `json:"status_5xx"`
	Statuses map[string]int64 `json:"statuses"`
	Errors   int64            `json:"errors"` // calls without a complete answer
	Classes  map[string]int64 `json:"errors_by_class,omitempty"`
	// Cut2xx are the errors whose head said 2xx: they are in OK2xx as well.
	Cut2xx int64 `json:"cut_2xx"`
	// Unknown are the errors that came after the request was sent and before any
	// head: whether the call was answered and charged cannot be known here.
	Unknown int64 `json:"unknown"`

	Streams          int64 `json:"streams"`           // 2xx answers to scenarios that stream
	StreamsComplete  int64 `json:"streams_complete"`  // those that came to their last event
	StreamsFailed    int64 `json:"streams_failed"`    // those with an error event
	StreamsUnstarted int64 `json:"streams_unstarted"` // those that were no event stream at all
	Events           int64 `json:"events"`

	Bytes    int64            `json:"bytes"`
	Interims int64            `json:"interims,omitempty"`
	Charged  map[string]int64 `json:"charged,omitempty"` // sums of X-Tollgate-Charged

	RPS     float64 `json:"rps"` // complete answers a second, after the warm-up
	P50us   int64   `json:"p50_us"`
	P90us   int64   `json:"p90_us"`
	P99us   int64   `json:"p99_us"`
	P999us  int64   `json:"p999_us"`
	MaxUs   int64   `json:"max_us"`
	MeanUs  float64 `json:"mean_us"`
	First50 int64   `json:"first_byte_p50_us"`
	First99 int64   `json:"first_byte_p99_us"`
}

// LoadResult is what a load did.
type LoadResult struct {
	Scenario    string  `json:"scenario"` // closed, open or stream
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate,omitempty"`
	ElapsedS    float64 `json:"elapsed_s"`
	Outcome
	// Late are the calls of an open loop that found no free connection at
	// their instant and had to wait more than a millisecond.
	Late int64 `json:"late"`
	// Repeats are the calls that were sent again because the server had closed
	// the kept-alive connection meanwhile: see [LoadInput.RepeatClosed].
	Repeats int64 `json:"repeats,omitempty"`
	// LagP99us is how late the generator itself woke up for its calls.
	LagP99us int64              `json:"lag_p99_us"`
	ByName   map[string]Outcome `json:"by_scenario"`
}

// tally counts the calls of one worker in one scenario.
type tally struct {
	out   Outcome
	warm  int64
	total *hdrhistogram.Histogram // made with the first value
	first *hdrhistogram.Histogram
}

func newTally() *tally {
	return &tally{out: Outcome{Statuses: map[string]int64{}, Classes: map[string]int64{}, Charged: map[string]int64{}}}
}

// statusNames spares a conversion per call.
var statusNames = func() (t [600]string) {
	for i := range t {
		t[i] = strconv.Itoa(i)
	}
	return t
}()

func (t *tally) count(p *prepared, r *reply, err error, begin, end time.Time, warm bool) {
	o := &t.out
	o.Requests++
	o.Bytes += r.bytes
	o.Events += int64(r.events)
	o.Interims += int64(r.interim)
	if r.status != 0 {
		o.Statuses[statusNames[r.status]]++
		switch r.status / 100 {
		case 2:
			o.OK2xx++
			if p.Stream {
				t.stream(r, err)
			}
		case 3:
			o.C3xx++
		case 4:
			o.C4xx++
		case 5:
			o.C5xx++
		}
		if r.charged != "" {
			addCharged(o.Charged, r.charged)
		}
	}
	if err != nil {
		t.fail(err)
		return
	}
	if !warm {
		return
	}
	t.warm++
	if t.total == nil {
		t.total, t.first = hdrhistogram.New(1, maxLatency, 3), hdrhistogram.New(1, maxLatency, 3)
	}
	record(t.total, end.Sub(begin))
	record(t.first, r.firstByte.Sub(begin))
}

func (t *tally) stream(r *reply, err error) {
	t.out.Streams++
	switch {
	case !r.sse:
		t.out.StreamsUnstarted++
	case r.failed:
		t.out.StreamsFailed++
	case r.finished && err == nil:
		t.out.StreamsComplete++
	}
}

func (t *tally) fail(err error) {
	t.out.Errors++
	class := failMalformed
	if f := (*failure)(nil); errors.As(err, &f) {
		class = f.class
		switch {
		case f.status == 0 && class == failDial: // nothing was sent
		case f.status == 0:
			t.out.Unknown++
		case f.status/100 == 2:
			t.out.Cut2xx++
		}
	}
	t.out.Classes[class]++
}

// addCharged adds "call=1" or "token=46;basis=upstream" to sums.
func addCharged(sums map[string]int64, value string) {
	for part := range strings.FieldsFuncSeq(value, func(r rune) bool { return r == ';' || r == ',' || r == ' ' }) {
		name, amount, ok := strings.Cut(part, "=")
		if n, err := strconv.ParseInt(amount, 10, 64); ok && err == nil {
			sums[name] += n
		}
	}
}

// merge adds the calls of t to o and its times to the histograms.
func (o *Outcome) merge(t *tally) {
	a := &t.out
	o.Requests += a.Requests
	o.OK2xx += a.OK2xx
	o.C3xx += a.C3xx
	o.C4xx += a.C4xx
	o.C5xx += a.C5xx
	o.Errors += a.Errors
	o.Cut2xx += a.Cut2xx
	o.Unknown += a.Unknown
	o.Streams += a.Streams
	o.StreamsComplete += a.StreamsComplete
	o.StreamsFailed += a.StreamsFailed
	o.StreamsUnstarted += a.StreamsUnstarted
	o.Events += a.Events
	o.Bytes += a.Bytes
	o.Interims += a.Interims
	addAll(&o.Statuses, a.Statuses)
	addAll(&o.Classes, a.Classes)
	addAll(&o.Charged, a.Charged)
}

func addAll(into *map[string]int64, from map[string]int64) {
	if *into == nil {
		*into = make(map[string]int64)
	}
	for k, n := range from {
		(*into)[k] += n
	}
}

// sum collects tallies into one outcome.
type sum struct {
	out          Outcome
	warm         int64
	total, first *hdrhistogram.Histogram
}

func newSum() *sum {
	return &sum{total: hdrhistogram.New(1, maxLatency, 3), first: hdrhistogram.New(1, maxLatency, 3)}
}

func (s *sum) add(t *tally) {
	s.out.merge(t)
	s.warm += t.warm
	if t.total != nil {
		s.total.Merge(t.total)
		s.first.Merge(t.first)
	}
}

func (s *sum) outcome(measured time.Duration) Outcome {
	o := s.out
	if measured > 0 {
		o.RPS = float64(s.warm) / measured.Seconds()
	}
	if s.warm > 0 {
		o.P50us, o.P90us = s.total.ValueAtQuantile(50), s.total.ValueAtQuantile(90)
		o.P99us, o.P999us = s.total.ValueAtQuantile(99), s.total.ValueAtQuantile(99.9)
		o.MaxUs, o.MeanUs = s.total.Max(), s.total.Mean()
		o.First50, o.First99 = s.first.ValueAtQuantile(50), s.first.ValueAtQuantile(99)
	}
	return o
}

func (run *loadRun) result(workers []*worker, elapsed time.Duration) LoadResult {
	res := LoadResult{
		Scenario: "closed", Connections: run.in.Connections, Rate: run.in.Rate,
		ElapsedS: elapsed.Seconds(), ByName: make(map[string]Outcome),
	}
	measured := elapsed - run.in.Warmup
	all, lag := newSum(), hdrhistogram.New(1, maxLatency, 2)
	streams := true
	for i, s := range run.in.Scenarios {
		one := newSum()
		for _, w := range workers {
			one.add(w.tally[i])
			all.add(w.tally[i])
		}
		res.ByName[s.Name] = one.outcome(measured)
		streams = streams && s.Stream
	}
	for _, w := range workers {
		res.Late += w.late
		res.Repeats += w.repeats()
		lag.Merge(w.lag)
	}
	res.Outcome = all.outcome(measured)
	res.LagP99us = lag.ValueAtQuantile(99)
	switch {
	case streams:
		res.Scenario = "stream"
	case run.in.Rate > 0:
		res.Scenario = "open"
	}
	return res
}
