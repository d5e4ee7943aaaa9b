package compare

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// Scenarios of a comparison.
const (
	scenarioClosed = "closed" // each connection calls again as soon as it is answered
	scenarioOpen   = "open"   // calls are due at a fixed rate, whatever the answers do
	scenarioStream = "stream" // streamed answers, closed loop
)

// Report is what a comparison prints.
type Report struct {
	Machine Machine   `json:"machine"`
	Load    Load      `json:"load"`
	Runs    []Run     `json:"runs"`
	Ratios  Ratios    `json:"ratios"`
	Scale   []Scale   `json:"scale,omitempty"`
	Skipped []Skipped `json:"skipped,omitempty"`
	Notes   []string  `json:"notes,omitempty"`
}

// Load says what every target was given.
type Load struct {
	Connections int     `json:"connections"`
	Streams     int     `json:"streams"` // connections of the stream scenario
	Rate        float64 `json:"rate"`    // calls a second of the open loop
	AnswerBytes int     `json:"answer_bytes"`
	Chunks      int     `json:"chunks_per_stream"`
	ChunkDelay  string  `json:"chunk_delay"`
	Rounds      int     `json:"rounds"`
	Seconds     float64 `json:"seconds_per_measurement"`
	Cores       cores   `json:"cores"`
}

// Run is one target in one scenario: the median of its rounds, figure by figure.
type Run struct {
	Target    string  `json:"target"`
	Scenario  string  `json:"scenario"`
	Auth      string  `json:"auth"`
	Store     string  `json:"store"`
	Role      string  `json:"role,omitempty"` // of the Tollgate process: all or gateway
	RPS       float64 `json:"rps"`
	P50       int64   `json:"p50_us"`
	P99       int64   `json:"p99_us"`
	P999      int64   `json:"p999_us"`
	CPU       float64 `json:"cpu_us_per_request"`
	CPUChunk  float64 `json:"cpu_us_per_chunk"`
	RSS       float64 `json:"rss_mb"`
	Errors    int64   `json:"errors"`
	Saturated string  `json:"saturated"` // gateway, load, upstream; none in an open loop that keeps up

	FirstError string     `json:"first_error,omitempty"`
	Requests   int64      `json:"requests"` // of all rounds
	Rounds     int        `json:"rounds"`
	CPUSpread  [2]float64 `json:"cpu_us_spread"` // cheapest and dearest round
	Busy       Busy       `json:"busy"`
	Lag99      int64      `json:"lag_p99_us,omitempty"`
	Late       int64      `json:"late,omitempty"`
	Latency    []bucket   `json:"latency,omitempty"` // of the median round
}

// Busy is how much of its core each part used, from 0 to 1.
type Busy struct {
	Target   float64 `json:"target"`
	Load     float64 `json:"load"`
	Upstream float64 `json:"upstream"`
	Store    float64 `json:"store,omitempty"`
}

// Ratios compare targets of one run. A ratio whose targets were not both
// measured is 0.
//
// The Tollgate of the first five is a process of role gateway on Redis: data
// plane, quota engine, journal, metrics and shipping of usage records. The
// process of role all holds the admin role and the usage store as well, whose
// writing of a row per call is part of its figure.
type Ratios struct {
	APIKeyVsFasthttp    float64 `json:"cpu_apikey_vs_fasthttp"`
	SignatureVsFasthttp float64 `json:"cpu_signature_vs_fasthttp"`
	APIKeyVsNginx       float64 `json:"cpu_apikey_vs_nginx"`
	ChunkVsFasthttp     float64 `json:"chunk_cpu_vs_fasthttp"`
	P99Added            float64 `json:"p99_added_us_at_half_load"`

	AppCodeVsFasthttp float64 `json:"cpu_appcode_vs_fasthttp"`
	APIKeyVsRedis     float64 `json:"cpu_apikey_vs_redis_proxy"`
	AllVsFasthttp     float64 `json:"cpu_apikey_role_all_vs_fasthttp"`
	EmbeddedVsRedis   float64 `json:"cpu_embedded_vs_redis"` // both of role all
	PortkeyVsAPIKey   float64 `json:"cpu_portkey_vs_apikey"`
}

// Skipped is a target that was left out.
type Skipped struct {
	Target string `json:"target"`
	Reason string `json:"reason"`
}

// Names of targets.
const (
	nameDirect   = "direct"
	nameFasthttp = "fasthttp"
	nameNginx    = "nginx"
	nameHAProxy  = "haproxy"
	nameRedis    = "redis-proxy"
	namePortkey  = "portkey"
	nameTollgate = "tollgate"
)

// find returns the run of a target.
func (r *Report) find(target, scenario, auth, store, role string) *Run {
	for i := range r.Runs {
		if x := &r.Runs[i]; x.Target == target && x.Scenario == scenario && x.Auth == auth && x.Store == store && x.Role == role {
			return x
		}
	}
	return nil
}

// ratios fills in the ratios.
func (r *Report) ratios() {
	other := func(name, scenario string) *Run { return r.find(name, scenario, "none", "", "") }
	own := func(scenario, auth, store, role string) *Run {
		return r.find(nameTollgate, scenario, auth, store, role)
	}
	cpu := func(a, b *Run) float64 {
		if a == nil || b == nil || b.CPU == 0 {
			return 0
		}
		return round3(a.CPU / b.CPU)
	}
	base := other(nameFasthttp, scenarioClosed)
	key := own(scenarioClosed, "apikey", "redis", "gateway")
	all := own(scenarioClosed, "apikey", "embedded", "all")
	x := &r.Ratios
	x.APIKeyVsFasthttp = cpu(key, base)
	x.SignatureVsFasthttp = cpu(own(scenarioClosed, "signature", "redis", "gateway"), base)
	x.AppCodeVsFasthttp = cpu(own(scenarioClosed, "appcode", "redis", "gateway"), base)
	x.APIKeyVsNginx = cpu(key, other(nameNginx, scenarioClosed))
	x.APIKeyVsRedis = cpu(key, r.find(nameRedis, scenarioClosed, "none", "redis", ""))
	x.AllVsFasthttp = cpu(all, base)
	x.EmbeddedVsRedis = cpu(all, own(scenarioClosed, "apikey", "redis", "all"))
	x.PortkeyVsAPIKey = cpu(other(namePortkey, scenarioClosed), key)
	if a, b := own(scenarioStream, "apikey", "redis", "gateway"), other(nameFasthttp, scenarioStream); a != nil && b != nil && b.CPUChunk > 0 {
		x.ChunkVsFasthttp = round3(a.CPUChunk / b.CPUChunk)
	}
	if a, b := own(scenarioOpen, "apikey", "redis", "gateway"), other(nameFasthttp, scenarioOpen); a != nil && b != nil {
		x.P99Added = float64(a.P99 - b.P99)
	}
}

func round3(f float64) float64 { return math.Round(f*1000) / 1000 }

// measurement is one round of a run.
type measurement struct {
	sample
	cpu   float64 // microseconds per request of the target
	chunk float64
	rss   float64
	busy  Busy
}

// merge makes a run's figures out of its rounds.
func (r *Run) merge(rounds []measurement) {
	of := func(f func(*measurement) float64) float64 {
		var v []float64
		for i := range rounds {
			v = append(v, f(&rounds[i]))
		}
		return median(v)
	}
	whole := func(f func(*measurement) int64) int64 {
		return int64(math.Round(of(func(m *measurement) float64 { return float64(f(m)) })))
	}
	r.Rounds = len(rounds)
	r.RPS = math.Round(of(func(m *measurement) float64 { return float64(m.Requests) / m.Seconds }))
	r.P50 = whole(func(m *measurement) int64 { return m.P50 })
	r.P99 = whole(func(m *measurement) int64 { return m.P99 })
	r.P999 = whole(func(m *measurement) int64 { return m.P999 })
	r.CPU = round3(of(func(m *measurement) float64 { return m.cpu }))
	r.CPUChunk = round3(of(func(m *measurement) float64 { return m.chunk }))
	r.RSS = round3(of(func(m *measurement) float64 { return m.rss }))
	r.Lag99 = whole(func(m *measurement) int64 { return m.Lag99 })
	r.Busy = Busy{
		Target:   round3(of(func(m *measurement) float64 { return m.busy.Target })),
		Load:     round3(of(func(m *measurement) float64 { return m.busy.Load })),
		Upstream: round3(of(func(m *measurement) float64 { return m.busy.Upstream })),
		Store:    round3(of(func(m *measurement) float64 { return m.busy.Store })),
	}
	r.Saturated = saturated(r.Scenario, r.Busy, r.Late)
	near := 0
	for i := range rounds {
		m := &rounds[i]
		r.Requests += m.Requests
		r.Errors += m.Errors
		r.Late += m.Late
		if r.FirstError == "" {
			r.FirstError = m.FirstErr
		}
		if i == 0 || m.cpu < r.CPUSpread[0] {
			r.CPUSpread[0] = round3(m.cpu)
		}
		r.CPUSpread[1] = max(r.CPUSpread[1], round3(m.cpu))
		if math.Abs(float64(m.P50-r.P50)) < math.Abs(float64(rounds[near].P50-r.P50)) {
			near = i
		}
	}
	if len(rounds) > 0 {
		r.Latency = rounds[near].Buckets
	}
}

// median returns the middle of v, the mean of the two middle ones of an even
// number, 0 of none. It sorts v.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// fullCore is the share of a core from which it counts as saturated. The
// machine's own work and other programs keep the rest.
const fullCore = 0.85

// saturated names what held the load back: the part whose core was full, and
// where both were, the target. When neither was, as beside other programs, it is
// the one with less left; an open loop that kept up was held back by nothing.
func saturated(scenario string, b Busy, late int64) string {
	load := b.Load + b.Upstream + b.Store
	switch {
	case b.Target >= fullCore:
		return "gateway"
	case load < fullCore && scenario != scenarioClosed && late == 0:
		return "none"
	case b.Target >= load:
		return "gateway"
	case b.Upstream > b.Load:
		return "upstream"
	}
	return "load"
}

// writeJSON prints the contract's object.
func (r *Report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// writeTable prints the report for people.
func (r *Report) writeTable(w io.Writer) error {
	if len(r.Runs) == 0 {
		return r.writeSizes(w)
	}
	fmt.Fprintf(w, "%s, %d cores: target on core %d, generator and upstream on core %d; %d connections, answers of %d bytes, %d rounds of %.1f s, medians\n\n",
		r.Machine.CPU, r.Machine.Cores, r.Load.Cores.Target, r.Load.Cores.Load, r.Load.Connections, r.Load.AnswerBytes, r.Load.Rounds, r.Load.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range []string{scenarioClosed, scenarioOpen, scenarioStream} {
		switch s {
		case scenarioOpen:
			fmt.Fprintf(t, "\nopen loop, %.0f calls/s\n", r.Load.Rate)
		case scenarioStream:
			fmt.Fprintf(t, "\nstreams of %d chunks, %d at a time\n", r.Load.Chunks, r.Load.Streams)
		default:
			fmt.Fprintln(t, "closed loop")
		}
		fmt.Fprintln(t, "target\tauth\tstore\trole\tcalls/s\tp50 µs\tp99 µs\tp99.9 µs\tCPU µs/call\tµs/chunk\tRSS MB\terrors\tsaturated")
		for _, x := range r.Runs {
			if x.Scenario != s {
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.0f\t%d\t%d\t%d\t%.1f\t%.2f\t%.0f\t%d\t%s\n", x.Target, x.Auth, dash(x.Store), dash(x.Role),
				x.RPS, x.P50, x.P99, x.P999, x.CPU, x.CPUChunk, x.RSS, x.Errors, x.Saturated)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	x := r.Ratios
	fmt.Fprintln(w, "\nratios, of processor time unless said otherwise (0: not measured)")
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range []struct {
		name  string
		value float64
	}{
		{"API key, everything on, to the bare fasthttp proxy", x.APIKeyVsFasthttp},
		{"signature to the bare fasthttp proxy", x.SignatureVsFasthttp},
		{"AppCode to the bare fasthttp proxy", x.AppCodeVsFasthttp},
		{"API key to nginx", x.APIKeyVsNginx},
		{"API key to a proxy with one Redis round trip", x.APIKeyVsRedis},
		{"streams, per chunk, to the bare fasthttp proxy", x.ChunkVsFasthttp},
		{"p99 added to the bare proxy's at half load, µs", x.P99Added},
		{"embedded store to Redis, both role all", x.EmbeddedVsRedis},
		{"role all (usage store and admin role in the process) to fasthttp", x.AllVsFasthttp},
		{"Portkey to Tollgate", x.PortkeyVsAPIKey},
	} {
		fmt.Fprintf(t, "  %s\t%.3g\n", v.name, v.value)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(w, "left out: %s: %s\n", s.Target, s.Reason)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
