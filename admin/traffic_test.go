package admin

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/directory"
	"tollgate/internal/feed"
)

// testCA is a certificate of nobody's.
const testCA = `-----BEGIN CERTIFICATE-----
MIIBdzCCAR2gAwIBAgIUEfk0XTjp5a8rJtFQjjR0HT3vWQ0wCgYIKoZIzj0EAwIw
-----END CERTIFICATE-----`

// TestTraffic: what a seller says of a product's traffic comes to the gateways
// as it was said, stays through a change of something else, and is not shown to
// buyers.
func TestTraffic(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		seller := h.sellers[0].token
		traffic := map[string]any{
			"timeouts": map[string]any{"connect_ms": 100, "first_byte_ms": 2000, "idle_ms": 3000, "write_ms": 4000, "total_ms": 5000},
			"retry":    map[string]any{"attempts": 4, "statuses": []any{429, 503}, "post": "with_key", "timeouts": true, "budget_percent": 12.5},
			"breaker":  map[string]any{"failures": 7, "open_ms": 1500, "trials": 2},
			"outlier":  map[string]any{"share_percent": 30, "max_ejected_percent": 40},
			"check":    map[string]any{"path": "/health", "interval_ms": 1000, "statuses": []any{204}},
			"affinity": map[string]any{"by": "header", "header": "X-Chat"},
			"pool":     map[string]any{"max_connections": 9},

			"map_model_back": true,
		}
		made := h.call(seller, http.MethodPost, "/products", map[string]any{
			"kind": "llm", "name": "n", "models": []any{map[string]any{"name": "m"}}, "traffic": traffic,
			"upstreams": []any{map[string]any{
				"url": "https://a.example.com", "models": []any{map[string]any{"name": "m", "upstream": "m-large"}},
				"tls": map[string]any{"server_name": "b.example.com"}, "headers": []any{map[string]any{"name": "Authorization", "value": "Bearer hidden"}},
			}},
		}).want(201)
		id := made.text("id")
		want := directory.Traffic{
			Timeouts:     directory.TrafficTimeouts{Connect: 100, FirstByte: 2000, Idle: 3000, Write: 4000, Total: 5000},
			Retry:        directory.TrafficRetry{Attempts: 4, Statuses: []int{429, 503}, Post: "with_key", Timeouts: true, Budget: 12.5},
			Breaker:      directory.TrafficBreaker{Failures: 7, Open: 1500, Trials: 2},
			Outlier:      directory.TrafficOutlier{Share: 30, MaxEjected: 40},
			Check:        directory.TrafficCheck{Path: "/health", Interval: 1000, Statuses: []int{204}},
			Affinity:     directory.TrafficAffinity{By: "header", Header: "X-Chat"},
			Pool:         directory.TrafficPool{MaxConns: 9},
			MapModelBack: true,
		}
		h.call(seller, http.MethodPost, "/products/"+id+"/publish", nil).want(200)
		check := func() {
			t.Helper()
			p := h.snapshot(0).Products[0]
			if d := cmp.Diff(want, p.Traffic); d != "" {
				t.Error(d)
			}
			u := p.Upstreams[0]
			if d := cmp.Diff(directory.Upstream{
				ID: u.ID, URL: "https://a.example.com", Weight: 1, Headers: []directory.KV{{Name: "Authorization", Value: "Bearer hidden"}},
				Models: []directory.Model{{Name: "m", Upstream: "m-large"}}, TLS: directory.UpstreamTLS{ServerName: "b.example.com"},
			}, u); d != "" {
				t.Error(d)
			}
		}
		check()
		var shown struct {
			Traffic   directory.Traffic `json:"traffic"`
			Upstreams []map[string]any  `json:"upstreams"`
		}
		h.call(seller, http.MethodGet, "/products/"+id, nil).want(200).into(&shown)
		if d := cmp.Diff(want, shown.Traffic); d != "" {
			t.Error(d)
		}
		h.call(seller, http.MethodPatch, "/products/"+id, map[string]any{"name": "other"}, "If-Match", "*").want(200)
		check()
		if a := h.call(h.buyers[0].token, http.MethodGet, "/products/"+id, nil).want(200); strings.Contains(string(a.raw), "traffic") || strings.Contains(string(a.raw), "a.example.com") {
			t.Errorf("a buyer sees %s", a.raw)
		}
		// A kept secret does not follow a change of where it goes.
		up := shown.Upstreams[0]
		up["tls"] = map[string]any{"server_name": "evil.example.com"}
		h.call(seller, http.MethodPatch, "/products/"+id, map[string]any{"upstreams": []any{up}}, "If-Match", "*").want(422, "INVALID")
		check()
		h.call(seller, http.MethodPatch, "/products/"+id, map[string]any{"traffic": map[string]any{}}, "If-Match", "*").want(200)
		want = directory.Traffic{}
		check()
	})
}

// TestTrafficIsChecked: each fault is found and named with its remedy.
func TestTrafficIsChecked(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	f := func(location, remedy string, extra map[string]any) {
		t.Helper()
		body := map[string]any{"kind": "api", "name": "n", "path": "/ok"}
		for k, v := range extra {
			body[k] = v
		}
		p := h.call(h.sellers[0].token, http.MethodPost, "/products", body).want(422, "INVALID").problem()
		for _, e := range p.Errors {
			if e.Location == location && strings.Contains(e.Message, remedy) {
				return
			}
		}
		t.Errorf("errors %v, want one at %s with %q", p.Errors, location, remedy)
	}
	traffic := func(group, field string, v any) map[string]any {
		return map[string]any{"traffic": map[string]any{group: map[string]any{field: v}}}
	}
	upstream := func(url, field string, v any) map[string]any {
		return map[string]any{"upstreams": []any{map[string]any{"url": url, field: v}}}
	}
	f("body.traffic.retry.statuses[0]", "400 to 599", traffic("retry", "statuses", []any{200}))
	f("body.traffic.retry.statuses[1]", "each once", traffic("retry", "statuses", []any{503, 503}))
	f("body.traffic.retry.attempts", "10", traffic("retry", "attempts", 11))
	f("body.traffic.retry.post", "never", traffic("retry", "post", "maybe"))
	f("body.traffic.timeouts.connect_ms", "60000", traffic("timeouts", "connect_ms", 60001))
	f("body.traffic.check.interval_ms", "from 100", traffic("check", "interval_ms", 50))
	f("body.traffic.check.path", "such as /health", traffic("check", "path", "health"))
	f("body.traffic.check.path", "such as /health", traffic("check", "path", "/a\r\nX: y"))
	f("body.traffic.affinity.header", "header name", traffic("affinity", "header", "X Y"))
	f("body.traffic.affinity.max_load_percent", "from 101", traffic("affinity", "max_load_percent", 100))
	f("body.traffic.map_model_back", "LLM products only", map[string]any{"traffic": map[string]any{"map_model_back": true}})
	f("body.upstreams[0].tls", "https", upstream("http://a.example.com", "tls", map[string]any{"server_name": "b"}))
	f("body.upstreams[0].tls.ca_pem", "PEM", upstream("https://a.example.com", "tls", map[string]any{"ca_pem": testCA}))
	f("body.upstreams[0].tls.skip_verify", "operators only", upstream("https://a.example.com", "tls", map[string]any{"skip_verify": true}))
	f("body.upstreams[0].models[0].name", "one of the product's", upstream("https://a.example.com", "models", []any{map[string]any{"name": "m", "upstream": "x"}}))
}

// TestUpstreamStatus: what gateways report is shown to the operator whole and
// to a seller of its own products, until it is old.
func TestUpstreamStatus(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{FeedSecret: feedSecret})
	mine, theirs := h.apiProduct(0, "/a"), h.apiProduct(1, "/b")
	up := func(product string) directory.UpstreamStatus {
		return directory.UpstreamStatus{Product: product, ID: "U", Breaker: "open", Attempts: 7, Failures: 5}
	}
	h.ReportUpstreams(directory.NodeStatus{Node: "one", Upstreams: []directory.UpstreamStatus{up(mine.product.ID), up(theirs.product.ID)}})
	ts := feedServer(h)
	sink, err := feed.NewUsageSink(feed.Config{AdminURL: ts.URL, Secret: feedSecret, Now: h.now})
	h.ok(err)
	h.ok(sink.Report(t.Context(), directory.NodeStatus{Node: "two", Upstreams: []directory.UpstreamStatus{up(mine.product.ID)}}))
	bad, err := feed.NewUsageSink(feed.Config{AdminURL: ts.URL, Secret: "another secret of the right length!", Now: h.now})
	h.ok(err)
	if err := bad.Report(context.Background(), directory.NodeStatus{Node: "three"}); err == nil {
		t.Error("a report with another secret was taken")
	}
	count := func(token, query string, want int) {
		t.Helper()
		var got struct {
			Items []struct {
				Node    string `json:"node"`
				Product string `json:"product_id"`
				Breaker string `json:"breaker"`
			} `json:"items"`
		}
		h.call(token, http.MethodGet, "/upstreams"+query, nil).want(200).into(&got)
		if len(got.Items) != want {
			t.Errorf("%d states, want %d: %+v", len(got.Items), want, got.Items)
		}
		for _, i := range got.Items {
			if i.Breaker != "open" || i.Node == "" {
				t.Errorf("%+v", i)
			}
		}
	}
	count(h.operator, "", 3)
	count(h.operator, "?product_id="+theirs.product.ID, 1)
	count(h.sellers[0].token, "", 2)
	count(h.sellers[1].token, "", 1)
	h.call(h.buyers[0].token, http.MethodGet, "/upstreams", nil).want(403)
	h.clock.Advance(statusAge + time.Second)
	count(h.operator, "", 0)
}
