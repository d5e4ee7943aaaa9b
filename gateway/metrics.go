package gateway

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/internal/usage"
)

// buckets of the latency histograms, in seconds: from the gateway's own
// microseconds to the minutes of a long generation.
var (
	latencyBuckets  = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300}
	overheadBuckets = []float64{.000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25}
	tokenBuckets    = []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304}
)

// metrics are the gateway's own figures (design section 5). Children are bound
// when a product is compiled or on the first call of their kind, so that a call
// only adds.
type metrics struct {
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	overhead   *prometheus.HistogramVec
	upstream   *prometheus.HistogramVec
	firstByte  *prometheus.HistogramVec
	charged    *prometheus.CounterVec
	rejections *prometheus.CounterVec
	panics     prometheus.Counter
	drains     prometheus.Gauge
	inFlight   prometheus.Gauge
	directory  prometheus.Gauge
	faults     prometheus.Gauge
	failures   prometheus.Counter

	replays             prometheus.Counter
	idempotencyFailures prometheus.Counter

	aiDuration *prometheus.HistogramVec
	aiFirst    *prometheus.HistogramVec
	aiTokens   *prometheus.HistogramVec

	rejected [numReasons]prometheus.Counter
	units    [usage.NumUnits][6]prometheus.Counter

	none     *productMetrics // requests that reached no product
	mu       sync.Mutex
	products map[string]*productMetrics
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{products: make(map[string]*productMetrics)}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string) prometheus.Gauge {
		v := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(v)
		return v
	}
	m.requests = counter("tollgate_requests_total", "Requests answered, by product, route family, status and kind of credential.", "product", "api", "status", "auth")
	m.duration = histogram("tollgate_request_duration_seconds", "Time from the first byte of a request to the last of its answer.", latencyBuckets, "product", "api")
	m.overhead = histogram("tollgate_overhead_seconds", "Time of a request spent in the gateway itself, not in waiting for the upstream.", overheadBuckets, "product", "api")
	m.upstream = histogram("tollgate_upstream_duration_seconds", "Time from sending a request upstream to the last byte of the upstream's answer.", latencyBuckets, "product", "api")
	m.firstByte = histogram("tollgate_time_to_first_byte_seconds", "Time from the first byte of a request to the first byte of its answer.", latencyBuckets, "product", "api")
	m.charged = counter("tollgate_units_charged_total", "Units charged to packages, by billing item and basis.", "unit", "basis")
	m.rejections = counter("tollgate_rejections_total", "Requests the gateway answered itself, by reason.", "reason")
	p := prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_panics_total", Help: "Panics in request handlers; each answered 500 and was logged."})
	f := prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_settlement_failures_total", Help: "Calls that could not be recorded and were therefore not answered."})
	m.replays = prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_replayed_answers_total", Help: "Calls answered from what was kept for their idempotency key, uncharged."})
	m.idempotencyFailures = prometheus.NewCounter(prometheus.CounterOpts{Name: "tollgate_idempotency_failures_total", Help: "Times the store of kept answers did not answer; the calls ran unprotected."})
	reg.MustRegister(p, f, m.replays, m.idempotencyFailures)
	m.panics, m.failures = p, f
	m.drains = gauge("tollgate_drains_in_flight", "Upstream answers read on after their client left.")
	m.inFlight = gauge("tollgate_requests_in_flight", "Requests being served.")
	m.directory = gauge("tollgate_directory_version", "Version of the directory snapshot in force.")
	m.faults = gauge("tollgate_directory_faults", "Rows of the directory snapshot in force that could not be used.")
	m.aiDuration = histogram("gen_ai_server_request_duration_seconds", "Generative AI server request duration, after the OpenTelemetry conventions.", latencyBuckets, "gen_ai_operation_name", "product")
	m.aiFirst = histogram("gen_ai_server_time_to_first_token_seconds", "Time to the first event of a streamed answer, after the OpenTelemetry conventions.", latencyBuckets, "gen_ai_operation_name", "product")
	m.aiTokens = histogram("gen_ai_client_token_usage", "Tokens used by one call, after the OpenTelemetry conventions.", tokenBuckets, "gen_ai_operation_name", "product", "gen_ai_token_type")
	for r := ReasonNone + 1; r < numReasons; r++ {
		m.rejected[r] = m.rejections.WithLabelValues(r.String())
	}
	for u := range usage.NumUnits {
		for b := usage.BasisNone; b <= usage.BasisRecovered; b++ {
			m.units[u][b] = m.charged.WithLabelValues(u.String(), b.String())
		}
	}
	m.none = m.product("none", "")
	return m
}

// productMetrics are the children of one product.
type productMetrics struct {
	m    *metrics
	id   string
	apis []apiMetrics
}

// apiMetrics are the children of one product and api label.
type apiMetrics struct {
	name      string
	once      sync.Once
	duration  prometheus.Observer
	overhead  prometheus.Observer
	upstream  prometheus.Observer
	firstByte prometheus.Observer
	aiTotal   prometheus.Observer
	aiFirst   prometheus.Observer
	aiInput   prometheus.Observer
	aiOutput  prometheus.Observer
	// requests by kind of credential, then by status - 100; both levels are made
	// on first use.
	requests [numAuths]atomic.Pointer[statusCounters]
}

const numAuths = int(usage.AuthAPIKey) + 1

type statusCounters [500]atomic.Pointer[prometheus.Counter]

// product returns the children of a product; api is the published path of an
// API product, which has no other api label, and empty for LLM products, which
// have one for each family. They outlive directory swaps.
func (m *metrics) product(id, api string) *productMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := id + "\x00" + api
	p := m.products[key]
	if p == nil {
		p = &productMetrics{m: m, id: id}
		if api != "" {
			p.apis = []apiMetrics{{name: api}}
		} else {
			p.apis = make([]apiMetrics, numFamilies)
			for f := range p.apis {
				p.apis[f].name = familyNames[f]
			}
		}
		m.products[key] = p
	}
	return p
}

func (p *productMetrics) api(f family) *apiMetrics {
	a := &p.apis[f]
	a.once.Do(func() {
		a.duration = p.m.duration.WithLabelValues(p.id, a.name)
		a.overhead = p.m.overhead.WithLabelValues(p.id, a.name)
		a.upstream = p.m.upstream.WithLabelValues(p.id, a.name)
		a.firstByte = p.m.firstByte.WithLabelValues(p.id, a.name)
		op := genAIOperation(a.name)
		a.aiTotal = p.m.aiDuration.WithLabelValues(op, p.id)
		a.aiFirst = p.m.aiFirst.WithLabelValues(op, p.id)
		a.aiInput = p.m.aiTokens.WithLabelValues(op, p.id, "input")
		a.aiOutput = p.m.aiTokens.WithLabelValues(op, p.id, "output")
	})
	return a
}

// genAIOperation is the gen_ai.operation.name of a family.
func genAIOperation(family string) string {
	switch family {
	case "chat.completions", "responses":
		return "chat"
	case "completions":
		return "text_completion"
	case "embeddings":
		return "embeddings"
	}
	return family
}

// countRequest adds one answered request.
func (p *productMetrics) countRequest(f family, auth usage.Auth, status int) {
	a := p.api(f)
	counters := a.requests[auth].Load()
	if counters == nil {
		a.requests[auth].CompareAndSwap(nil, new(statusCounters))
		counters = a.requests[auth].Load()
	}
	i := status - 100
	if i < 0 || i >= len(counters) {
		i = 0
	}
	c := counters[i].Load()
	if c == nil {
		n := p.m.requests.WithLabelValues(p.id, a.name, strconv.Itoa(i+100), auth.String())
		c = &n
		counters[i].Store(c)
	}
	(*c).Inc()
}

func seconds(d time.Duration) float64 {
	if d < 0 {
		return 0
	}
	return d.Seconds()
}
