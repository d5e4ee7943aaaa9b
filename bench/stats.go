package bench

import (
	"encoding/json"
	"strconv"
	"sync"
)

// Stats is what a mock upstream answered since it started or was reset. An
// answer is counted once, under the status it began with, just before its head
// is written; so an answer that is then cut off counts, and one that is cut off
// before its head does not.
type Stats struct {
	Total    int64                       `json:"total"`
	Total2xx int64                       `json:"total_2xx"`
	Total3xx int64                       `json:"total_3xx"`
	Total4xx int64                       `json:"total_4xx"`
	Total5xx int64                       `json:"total_5xx"`
	Paths    map[string]map[string]int64 `json:"paths"` // path → status → answers

	Streams  int64 `json:"streams"`  // 2xx answers that were event streams
	Finished int64 `json:"finished"` // event streams written to their end
	Broken   int64 `json:"broken"`   // answers cut off on request after their head
	Dropped  int64 `json:"dropped"`  // connections cut off on request before any answer
	Active   int64 `json:"active"`   // requests being answered now
	Peak     int64 `json:"peak"`     // the most that were answered at one time
	Invalid  int64 `json:"invalid"`  // answers 400 because of an impossible request; also in Total4xx
	Usage    Usage `json:"usage"`    // what the 2xx answers reported, or would have
	NoUsage  int64 `json:"no_usage"` // 2xx answers of an LLM endpoint that reported no usage
	Interims int64 `json:"interims"` // 1xx answers
}

// Usage sums reported tokens.
type Usage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	TotalTokens      int64 `json:"total_tokens"`
}

// maxPaths bounds the paths counted apart; more of them count as otherPath.
const (
	maxPaths  = 10_000
	otherPath = "(other)"
)

type statKey struct {
	path   string
	status int
}

// counters is the live form of Stats. One mutex is enough: it is held for one
// map look-up per answer.
type counters struct {
	mu      sync.Mutex
	answers map[statKey]*int64
	paths   map[string]struct{}
	sums    Stats // all but Paths
	flaky   map[string]int
}

func (c *counters) init() {
	c.answers = make(map[statKey]*int64)
	c.paths = make(map[string]struct{})
	c.flaky = make(map[string]int)
	c.sums = Stats{Active: c.sums.Active, Peak: c.sums.Active}
}

// answered counts one answer.
func (c *counters) answered(path []byte, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.answers[statKey{string(path), status}] // does not allocate
	if n == nil {
		p := string(path)
		if _, known := c.paths[p]; !known && len(c.paths) >= maxPaths {
			p = otherPath
		}
		c.paths[p] = struct{}{}
		if n = c.answers[statKey{p, status}]; n == nil {
			n = new(int64)
			c.answers[statKey{p, status}] = n
		}
	}
	*n++
	c.sums.Total++
	switch status / 100 {
	case 2:
		c.sums.Total2xx++
	case 3:
		c.sums.Total3xx++
	case 4:
		c.sums.Total4xx++
	case 5:
		c.sums.Total5xx++
	}
}

// add changes the other sums under the lock.
func (c *counters) add(f func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.sums)
}

func (c *counters) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sums.Active++
	c.sums.Peak = max(c.sums.Peak, c.sums.Active)
}

func (c *counters) end() { c.add(func(s *Stats) { s.Active-- }) }

// usage adds what a 2xx answer of an LLM endpoint reports.
func (c *counters) usage(u usageFigures, reported bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !reported {
		c.sums.NoUsage++
		return
	}
	c.sums.Usage.PromptTokens += u.prompt
	c.sums.Usage.CompletionTokens += u.completion
	c.sums.Usage.TotalTokens += u.total()
}

// stillFlaky counts one request under key and reports whether it is among the
// first times.
func (c *counters) stillFlaky(key string, times int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flaky[key]++
	return c.flaky[key] <= times
}

func (c *counters) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sums
	s.Paths = make(map[string]map[string]int64, len(c.paths))
	for k, n := range c.answers {
		if s.Paths[k.path] == nil {
			s.Paths[k.path] = make(map[string]int64)
		}
		s.Paths[k.path][strconv.Itoa(k.status)] = *n
	}
	return s
}

func (c *counters) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.init()
}

// Of returns how many answers a path got with a status.
func (s Stats) Of(path string, status int) int64 { return s.Paths[path][strconv.Itoa(status)] }

func (s Stats) marshal() []byte {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // integers and strings always encode
	}
	return append(b, '\n')
}
