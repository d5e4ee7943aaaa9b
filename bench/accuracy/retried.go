package accuracy

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"tollgate/bench"
)

// retried lets the upstreams fail first attempts, which the gateway makes
// again. However many it took, every 2xx a client got is charged once, and a
// call that failed to the end is not.
func retried(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: plenty})
	if err != nil {
		return err
	}
	defer w.close()
	w.oracle.exact = true
	if err := w.retries(ctx); err != nil {
		return err
	}
	var list []bench.Scenario
	add := func(name string, weight int, s bench.Scenario) {
		s.Name, s.Weight = name, weight
		list = append(list, s)
	}
	add("good", 4, w.chat())
	add("good stream", 2, w.stream())
	add("503 once", 3, w.chat("X-Mock-Flaky: {request},1,503"))
	add("503 once, stream", 2, w.stream("X-Mock-Flaky: {request},1,503"))
	add("429 twice", 2, w.chat("X-Mock-Flaky: {request},2,429"))
	add("502 once, cut later", 1, w.stream("X-Mock-Flaky: {request},1,502", "X-Mock-Break: 6"))
	add("503 to the end", 1, w.chat("X-Mock-Flaky: {request},100,503"))
	add("500 is not retried", 1, w.chat("X-Mock-Status: 500"))
	r.Rounds = 1
	calls := int64(b.rounds(8000, 1200))
	if _, err := w.load(ctx, bench.LoadInput{Scenarios: list, Connections: 24, Requests: calls, Seed: b.seed}); err != nil {
		return err
	}
	// Without retries this trial would show nothing.
	if asked := w.mock.Stats().Total; asked < calls*5/4 {
		w.fault("the mock was asked %d times for %d calls: the gateway does not try again", asked, calls)
	}
	return w.settle(ctx, r)
}

// retries gives the trial's product a second upstream and the leave to retry.
func (w *world) retries(ctx context.Context) error {
	var sub struct {
		Product string `json:"product_id"`
	}
	if err := w.api.do(ctx, http.MethodGet, "/subscriptions/"+w.product().SubscriptionID, nil, &sub); err != nil {
		return err
	}
	up := func(base string) map[string]any { return map[string]any{"url": w.mockURL + base + "/v1"} }
	err := w.api.do(ctx, http.MethodPatch, "/products/"+sub.Product, map[string]any{
		"upstreams": []any{up(""), up("/second")},
		"traffic": map[string]any{
			"retry":   map[string]any{"attempts": 4, "statuses": []int{429, 502, 503}, "post": "always", "backoff_ms": 1, "max_backoff_ms": 5, "budget_percent": 100, "budget_min_per_second": 10000},
			"outlier": map[string]any{"off": true}, "breaker": map[string]any{"off": true},
		},
	}, &struct{}{})
	if err != nil {
		return fmt.Errorf("let the product retry: %w", err)
	}
	// KEY-7: in force within five seconds; a failed first attempt shows it.
	s := w.chat("X-Mock-Flaky: {request},1,503")
	s.Name = "probe"
	for range 50 {
		before := w.oracle.totals().ok
		_, err := w.load(ctx, bench.LoadInput{Scenarios: []bench.Scenario{s}, Requests: 1})
		if err != nil {
			return err
		}
		if w.oracle.totals().ok > before {
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	w.fault("the product's retries were not in force after five seconds")
	return nil
}
