package compare

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 100}, 3}} {
		if got := median(tt.of); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.of, got, tt.want)
		}
	}
}

// TestPercentiles: of a thousand calls of 1 to 1000 µs.
func TestPercentiles(t *testing.T) {
	t.Parallel()
	h := newHistogram()
	for i := 1; i <= 1000; i++ {
		record(h, time.Duration(i)*time.Microsecond)
	}
	var s sample
	s.fill(h)
	if s.P50 != 500 || s.P99 != 990 || s.P999 != 999 {
		t.Errorf("p50 %d, p99 %d, p99.9 %d", s.P50, s.P99, s.P999)
	}
	if len(s.Buckets) != len(quantiles) || s.Buckets[0].Micros != 100 {
		t.Errorf("distribution %v", s.Buckets)
	}
	record(h, time.Hour)
	if h.Max() < maxLatency {
		t.Errorf("the longest is %d: what takes longer than a minute counts as one", h.Max())
	}
}

func TestSaturated(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scenario string
		busy     Busy
		late     int64
		want     string
	}{
		{scenarioClosed, Busy{Target: 0.97, Load: 0.3, Upstream: 0.2}, 0, "gateway"},
		{scenarioClosed, Busy{Target: 0.6, Load: 0.5, Upstream: 0.4}, 0, "load"},
		{scenarioClosed, Busy{Target: 0.6, Load: 0.4, Upstream: 0.5}, 0, "upstream"},
		{scenarioClosed, Busy{Target: 0.9, Load: 0.5, Upstream: 0.5}, 0, "gateway"},
		{scenarioClosed, Busy{Target: 0.5, Load: 0.2, Upstream: 0.2}, 0, "gateway"},
		{scenarioOpen, Busy{Target: 0.5, Load: 0.2, Upstream: 0.2}, 0, "none"},
		{scenarioOpen, Busy{Target: 0.5, Load: 0.5, Upstream: 0.45}, 0, "load"},
		{scenarioOpen, Busy{Target: 0.7, Load: 0.2, Upstream: 0.2}, 5, "gateway"},
		{scenarioStream, Busy{Target: 0.4, Load: 0.2, Upstream: 0.3}, 0, "none"},
	} {
		if got := saturated(tt.scenario, tt.busy, tt.late); got != tt.want {
			t.Errorf("%s %+v, %d late: %s, want %s", tt.scenario, tt.busy, tt.late, got, tt.want)
		}
	}
}

// round is a measurement of n calls in a second.
func round(n int64, cpu float64, p99 int64) measurement {
	return measurement{sample: sample{Requests: n, Seconds: 1, P50: p99 / 2, P99: p99, P999: 2 * p99}, cpu: cpu, chunk: cpu / 10, rss: 20}
}

// sampleReport is a comparison as it comes out of three rounds each.
func sampleReport() *Report {
	r := &Report{}
	add := func(target, scenario, auth, store, role string, cpu float64, p99 int64) {
		x := Run{Target: target, Scenario: scenario, Auth: auth, Store: store, Role: role}
		// The middle one counts, whatever a disturbed round says.
		x.merge([]measurement{round(1000, cpu*3, p99*5), round(3000, cpu, p99), round(5000, cpu/2, p99/2)})
		r.Runs = append(r.Runs, x)
	}
	add("fasthttp", "closed", "none", "", "", 20, 100)
	add("nginx", "closed", "none", "", "", 16, 100)
	add("redis-proxy", "closed", "none", "redis", "", 40, 100)
	add("portkey", "closed", "none", "", "", 1200, 100)
	add("tollgate", "closed", "apikey", "redis", "gateway", 24, 100)
	add("tollgate", "closed", "signature", "redis", "gateway", 28, 100)
	add("tollgate", "closed", "appcode", "redis", "gateway", 25, 100)
	add("tollgate", "closed", "apikey", "embedded", "all", 50, 100)
	add("tollgate", "closed", "apikey", "redis", "all", 52, 100)
	add("fasthttp", "open", "none", "", "", 20, 100)
	add("tollgate", "open", "apikey", "redis", "gateway", 24, 180)
	add("fasthttp", "stream", "none", "", "", 500, 100)
	add("tollgate", "stream", "apikey", "redis", "gateway", 600, 100)
	r.ratios()
	return r
}

func TestRatios(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	want := Ratios{
		APIKeyVsFasthttp: 1.2, SignatureVsFasthttp: 1.4, AppCodeVsFasthttp: 1.25, APIKeyVsNginx: 1.5, ChunkVsFasthttp: 1.2, P99Added: 80,
		APIKeyVsRedis: 0.6, AllVsFasthttp: 2.5, EmbeddedVsRedis: 0.962, PortkeyVsAPIKey: 50,
	}
	if diff := cmp.Diff(want, r.Ratios); diff != "" {
		t.Error(diff)
	}
	if x := r.Runs[0]; x.RPS != 3000 || x.CPU != 20 || x.Requests != 9000 || x.Rounds != 3 || x.CPUSpread != [2]float64{10, 60} {
		t.Errorf("merged: %+v", x)
	}
	var none Report
	none.ratios()
	if none.Ratios != (Ratios{}) {
		t.Errorf("ratios of nothing: %+v", none.Ratios)
	}
}

// TestJSON: the object of design section 5, with these names.
func TestJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := sampleReport().writeJSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Machine map[string]any
		Runs    []map[string]any
		Ratios  map[string]any
	}
	d := json.NewDecoder(&out)
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Machine == nil || len(got.Runs) == 0 {
		t.Fatalf("machine %v, %d runs", got.Machine, len(got.Runs))
	}
	for _, name := range strings.Fields("target scenario auth store rps p50_us p99_us p999_us cpu_us_per_request cpu_us_per_chunk rss_mb errors saturated") {
		if _, ok := got.Runs[0][name]; !ok {
			t.Errorf("a run lacks %s", name)
		}
	}
	for _, name := range strings.Fields("cpu_apikey_vs_fasthttp cpu_signature_vs_fasthttp cpu_apikey_vs_nginx chunk_cpu_vs_fasthttp p99_added_us_at_half_load") {
		if v, ok := got.Ratios[name].(float64); !ok || v == 0 {
			t.Errorf("ratio %s is %v", name, got.Ratios[name])
		}
	}
}

func TestReportPage(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	r.Skipped = []Skipped{{"haproxy", "<not installed>"}}
	for i := range r.Runs {
		r.Runs[i].Latency = []bucket{{50, 100}, {99, 1000}, {99.9, 0}}
	}
	path := filepath.Join(t.TempDir(), "report.html")
	if err := r.writeHTML(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{"<svg", "polyline", "portkey", "&lt;not installed&gt;", "tollgate apikey redis gateway"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for _, bad := range []string{"NaN", "Inf", "http://", "https://", "<script"} {
		if strings.Contains(text, bad) {
			t.Errorf("the report holds %q: it must be whole and need nothing else", bad)
		}
	}
}
