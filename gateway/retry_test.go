package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// scripted is an upstream that gives the n-th request the n-th answer, and the
// last for ever. An empty one closes the connection.
func scripted(t testing.TB, n *atomic.Int64, answers ...string) string {
	return upstreamOf(t, func(p *peer) {
		for {
			if _, _, err := p.request(); err != nil {
				return
			}
			i := min(int(n.Add(1)), len(answers)) - 1
			if answers[i] == "" {
				return
			}
			p.say("%s", answers[i])
		}
	})
}

const (
	good        = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"
	unavailable = "HTTP/1.1 503 Service Unavailable\nContent-Length: 4\n\nbusy"
)

// withTraffic sets the traffic of every product.
func withTraffic(tr directory.Traffic) func(*gateway.Config, *directory.Snapshot) {
	return func(_ *gateway.Config, s *directory.Snapshot) {
		for i := range s.Products {
			s.Products[i].Traffic = tr
		}
	}
}

// TestRetryStatus: an answer in the list is asked again only where the call may
// be repeated, and whatever it took is one record, one charge.
func TestRetryStatus(t *testing.T) {
	t.Parallel()
	quick := directory.TrafficRetry{Statuses: []int{503}, Backoff: 1}
	with := func(edit func(*directory.TrafficRetry)) directory.TrafficRetry {
		r := quick
		edit(&r)
		return r
	}
	key := []string{"Idempotency-Key", "k"}
	big := strings.Repeat("x", 20_000)
	long := strings.Replace(unavailable, "\n\n", "\nRetry-After: 60\n\n", 1)
	now := strings.Replace(unavailable, "\n\n", "\nRetry-After: 0\n\n", 1)
	for _, tt := range []struct {
		name, method, body string
		header             []string
		retry              directory.TrafficRetry
		answers            []string
		status             int
		arrived            int64
	}{
		{"GET", "GET", "", nil, quick, []string{unavailable, good}, 200, 2},
		{"PUT", "PUT", "x", nil, quick, []string{unavailable, unavailable, good}, 200, 3},
		{"three attempts", "GET", "", nil, quick, []string{unavailable}, 503, 3},
		{"one attempt", "GET", "", nil, with(func(r *directory.TrafficRetry) { r.Attempts = 1 }), []string{unavailable, good}, 503, 1},
		{"another status", "GET", "", nil, with(func(r *directory.TrafficRetry) { r.Statuses = []int{429} }), []string{unavailable, good}, 503, 1},
		{"by default", "GET", "", nil, directory.TrafficRetry{}, []string{unavailable, good}, 503, 1},
		{"POST", "POST", "x", nil, quick, []string{unavailable, good}, 503, 1},
		{"POST with a key", "POST", "x", key, with(func(r *directory.TrafficRetry) { r.Post = "with_key" }), []string{unavailable, good}, 200, 2},
		{"POST without a key", "POST", "x", nil, with(func(r *directory.TrafficRetry) { r.Post = "with_key" }), []string{unavailable, good}, 503, 1},
		{"POST always", "POST", "x", nil, with(func(r *directory.TrafficRetry) { r.Post = "always" }), []string{unavailable, good}, 200, 2},
		{"a streamed body is gone", "PUT", big, nil, quick, []string{unavailable, good}, 503, 1},
		{"a long Retry-After", "GET", "", nil, quick, []string{long, good}, 503, 1},
		{"a short Retry-After", "GET", "", nil, quick, []string{now, good}, 200, 2},
		{"a chunked answer is passed over", "GET", "", nil, quick, []string{"HTTP/1.1 503 X\nTransfer-Encoding: chunked\n\n4\nbusy\n0\n\n", good}, 200, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			f := startAt(t, scripted(t, &n, tt.answers...), withTraffic(directory.Traffic{Retry: tt.retry}))
			before := f.left["S-API"]
			r := f.do(tt.method, "/demo/weather", tt.body, append([]string{"X-Apig-AppCode", appCode}, tt.header...)...)
			if r.StatusCode != tt.status || n.Load() != tt.arrived {
				t.Errorf("%d after %d requests, want %d after %d", r.StatusCode, n.Load(), tt.status, tt.arrived)
			}
			f.idle()
			f.mu.Lock()
			defer f.mu.Unlock()
			recs := append(append([]usage.Record(nil), f.records...), f.notes...)
			charged := int64(0)
			if tt.status == 200 {
				charged = 1
			}
			if len(recs) != 1 || recs[0].Attempts != tt.arrived || int64(len(f.records)) != charged || before-f.left["S-API"] != charged {
				t.Errorf("%d charged, %d left over, records %+v", len(f.records), before-f.left["S-API"], recs)
			}
		})
	}
}

// TestRetryElsewhere: a call that failed goes to an upstream that has not seen
// it, at once where the first asks for a long pause, which it is given.
func TestRetryElsewhere(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, first string
		method      string
		retry       directory.TrafficRetry
		status      int
	}{
		{"closes", "", "GET", directory.TrafficRetry{}, 200},
		{"closes on a POST", "", "POST", directory.TrafficRetry{}, 502},
		{"closes on a POST that may be repeated", "", "POST", directory.TrafficRetry{Post: "always"}, 200},
		{"garbage", "\x00\x01 nonsense\n\n", "GET", directory.TrafficRetry{}, 200},
		{"wants an hour", "HTTP/1.1 429 X\nRetry-After: 3600\nContent-Length: 0\n\n", "GET", directory.TrafficRetry{Statuses: []int{429}}, 200},
		{"interim, then closes", "HTTP/1.1 103 Early Hints\nLink: </a>\n\n", "GET", directory.TrafficRetry{}, 504},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var a, b atomic.Int64
			first := scripted(t, &a, tt.first)
			second := scripted(t, &b, good)
			f := startAt(t, first, func(_ *gateway.Config, s *directory.Snapshot) {
				s.Products[2].Traffic = directory.Traffic{Retry: tt.retry, Timeouts: directory.TrafficTimeouts{FirstByte: 300}}
				// Weight and breaker see to it that the first is asked first.
				s.Products[2].Upstreams = []directory.Upstream{{ID: "a", URL: first, Weight: 65536}, {ID: "b", URL: second}}
			})
			r := f.do(tt.method, "/demo/weather", "", "X-Apig-AppCode", appCode)
			if a.Load() == 0 {
				return // one in 65 537: the second was asked first
			}
			want := int64(0)
			if tt.status == 200 {
				want = 1
			}
			if r.StatusCode != tt.status || a.Load() != 1 || b.Load() != want {
				t.Errorf("%d, %d and %d requests", r.StatusCode, a.Load(), b.Load())
			}
			if strings.HasPrefix(tt.name, "wants") {
				for _, u := range f.gateway.Upstreams() {
					if u.ID == "a" && (!u.Resting || u.Available) {
						t.Errorf("%+v", u)
					}
				}
			}
		})
	}
}

// TestRetryBudget: an outage is not multiplied: retries stay within the share
// that is allowed, and the rest of the calls get what the upstream says.
func TestRetryBudget(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	f := startAt(t, scripted(t, &n, unavailable), withTraffic(directory.Traffic{
		Retry: directory.TrafficRetry{Statuses: []int{503}, Attempts: 10, Backoff: 1, MaxBackoff: 1, Budget: 10, BudgetMin: 1},
	}))
	const calls = 500
	began := time.Now()
	for range calls {
		if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 503 {
			t.Fatal(r.StatusCode)
		}
	}
	most := calls + calls/10 + int64(time.Since(began).Seconds()) + 3
	if got := n.Load(); got > most || got < calls+calls/20 {
		t.Errorf("%d requests for %d calls, want at most %d", got, calls, most)
	}
}

// TestTotalTimeout: a call ends with its time, however its upstream spends it,
// and its hold is resolved.
func TestTotalTimeout(t *testing.T) {
	t.Parallel()
	drip := func(head, piece string) string {
		return upstreamOf(t, func(p *peer) {
			if _, _, err := p.request(); err != nil {
				return
			}
			p.say("%s", head)
			for {
				if _, err := p.Write([]byte(piece)); err != nil {
					return
				}
				idle(t, 10*time.Millisecond)
			}
		})
	}
	limits := func(tm directory.TrafficTimeouts) func(*gateway.Config, *directory.Snapshot) {
		return withTraffic(directory.Traffic{Timeouts: tm})
	}
	// A header without an end.
	f := startAt(t, drip("HTTP/1.1 200 OK\n", "X-A: b\r\n"), limits(directory.TrafficTimeouts{Total: 250}))
	if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 504 || r.code(t) != "APIGW.0203" {
		t.Errorf("endless header: %d %s", r.StatusCode, r.body)
	}
	// Interim answers without an end.
	f = startAt(t, drip("", "HTTP/1.1 103 Early Hints\r\n\r\n"), limits(directory.TrafficTimeouts{Total: 250}))
	if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 504 {
		t.Errorf("endless interim answers: %d %s", r.StatusCode, r.body)
	}
	// A stream without an end, whose gaps are short.
	f = startAt(t, drip("HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n", ": keep-alive\n\n"), limits(directory.TrafficTimeouts{Total: 400, Idle: 300}))
	began := time.Now()
	text, err := f.broken(helloStream)
	if d := time.Since(began); err == nil || !strings.Contains(text, `data: {"error":{`) || d > patience/2 || d < 300*time.Millisecond {
		t.Errorf("endless stream: %v %v %q", d, err, text)
	}
	if rec := f.record(0); !rec.Has(usage.Counted | usage.Incomplete) {
		t.Errorf("%+v", rec)
	}
	// Retries stop with the time.
	var n atomic.Int64
	f = startAt(t, scripted(t, &n, unavailable), withTraffic(directory.Traffic{
		Timeouts: directory.TrafficTimeouts{Total: 200}, Retry: directory.TrafficRetry{Statuses: []int{503}, Attempts: 10, Backoff: 60_000, MaxBackoff: 60_000},
	}))
	began = time.Now()
	if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 503 || time.Since(began) > patience/2 {
		t.Errorf("%d after %v", r.StatusCode, time.Since(began))
	}
}

// TestPerProductTimeouts: each product has its own, and a TLS handshake that
// does not come counts as connecting.
func TestPerProductTimeouts(t *testing.T) {
	t.Parallel()
	silent := upstreamOf(t, func(p *peer) { _, _ = p.br.Peek(1 << 12) })
	f := startAt(t, silent, func(_ *gateway.Config, s *directory.Snapshot) {
		s.Products[2].Traffic.Timeouts = directory.TrafficTimeouts{FirstByte: 50}
		s.Products[3].Upstreams[0].URL = strings.Replace(silent, "http:", "https:", 1)
		s.Products[3].Traffic.Timeouts = directory.TrafficTimeouts{Connect: 50}
		s.Products[3].SimpleAuth = true
	})
	for _, path := range []string{"/demo/weather", "/signed"} {
		began := time.Now()
		if r := f.do("GET", path, "", "X-Apig-AppCode", appCode); r.StatusCode != 504 || r.code(t) != "APIGW.0203" || time.Since(began) > patience/2 {
			t.Errorf("%s: %d %s after %v", path, r.StatusCode, r.body, time.Since(began))
		}
	}
}

// TestBusyUpstream: calls beyond the connections allowed go elsewhere, or are
// told to come again.
func TestBusyUpstream(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	arrived := make(chan struct{}, 10)
	f := startAt(t, upstreamOf(t, func(p *peer) {
		for {
			if _, _, err := p.request(); err != nil {
				return
			}
			arrived <- struct{}{}
			<-release
			p.say(good)
		}
	}), withTraffic(directory.Traffic{Pool: directory.TrafficPool{MaxConns: 2}}))
	done := make(chan int, 2)
	for range 2 {
		go func() {
			req, _ := http.NewRequest("GET", f.url+"/demo/weather", nil)
			req.Header.Set("X-Apig-AppCode", appCode)
			resp, err := f.client.Do(req)
			if err != nil {
				done <- 0
				return
			}
			_ = resp.Body.Close()
			done <- resp.StatusCode
		}()
	}
	await(t, arrived, "the first call")
	await(t, arrived, "the second call")
	if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 503 || r.Header.Get("Retry-After") == "" || r.code(t) != "APIGW.0606" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	close(release)
	for range 2 {
		if code := await(t, done, "an answer"); code != 200 {
			t.Error(code)
		}
	}
	if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 200 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
}

// TestChecks: an upstream that fails its checks gets no calls, and gets them
// again when they succeed; checks carry the upstream's headers.
func TestChecks(t *testing.T) {
	t.Parallel()
	var sick atomic.Bool
	var calls [2]atomic.Int64
	sick.Store(true)
	url := func(i int) string {
		return upstreamOf(t, func(p *peer) {
			for {
				req, _, err := p.request()
				if err != nil {
					return
				}
				switch {
				case req.URL.Path != "/base/health":
					calls[i].Add(1)
					p.say(good)
				case req.Header.Get("X-Key") != "secret" || req.Method != "GET":
					p.say("HTTP/1.1 403 Forbidden\nContent-Length: 0\n\n")
				case i == 0 && sick.Load():
					p.say(unavailable)
				default:
					p.say(good)
				}
			}
		})
	}
	a, b := url(0), url(1)
	f := startAt(t, a, func(_ *gateway.Config, s *directory.Snapshot) {
		header := []directory.KV{{Name: "X-Key", Value: "secret"}}
		s.Products[2].Upstreams = []directory.Upstream{{ID: "a", URL: a + "/base", Headers: header}, {ID: "b", URL: b + "/base", Headers: header}}
		s.Products[2].Traffic.Check = directory.TrafficCheck{Path: "/health", Interval: 100, Timeout: 1000, Healthy: 1, Unhealthy: 1}
	})
	until := func(available bool) {
		t.Helper()
		f.eventually("the checks", func() error {
			for _, u := range f.gateway.Upstreams() {
				if u.ID == "a" && (u.Available != available || u.Healthy != available) {
					return fmt.Errorf("%+v", u)
				}
			}
			if !available && len(f.gateway.Upstreams()) == 0 {
				return fmt.Errorf("nothing is wrong yet")
			}
			return nil
		})
	}
	until(false)
	before := calls[0].Load()
	for range 50 {
		if r := f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode); r.StatusCode != 200 {
			t.Fatal(r.StatusCode)
		}
	}
	if n := calls[0].Load() - before; n != 0 {
		t.Errorf("an upstream that fails its checks got %d calls", n)
	}
	sick.Store(false)
	until(true)
	for range 50 {
		f.do("GET", "/demo/weather", "", "X-Apig-AppCode", appCode)
	}
	if calls[0].Load() == 0 {
		t.Error("it does not come back")
	}
}
