package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/postgres"
	"tollgate/internal/testkit/redis"
	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

func TestMain(m *testing.M) { postgres.Main(m) }

// TestPostgreSQLHoldsTheMarketplace: with catalogue and money in PostgreSQL and
// units in Redis, a killed node finds both again
// and seeds nothing twice.
func TestPostgreSQLHoldsTheMarketplace(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 50, SQLStore: postgres.URL(t), QuotaStore: startRedis(t)})
	for call := range 3 {
		if status := chat(t, n.Demo.LLM, nil); status != http.StatusOK {
			t.Fatalf("call %d: status %d", call, status)
		}
	}
	before := n.Demo
	n.Kill()
	n.Restart()
	if before.LLM.SubscriptionID != n.Demo.LLM.SubscriptionID || before.BuyerToken != n.Demo.BuyerToken {
		t.Errorf("the restart seeded the demo again: subscription %s, was %s", n.Demo.LLM.SubscriptionID, before.LLM.SubscriptionID)
	}
	if status := chat(t, n.Demo.LLM, nil); status != http.StatusOK {
		t.Fatalf("after the restart: status %d", status)
	}
	if q := waitUsed(t, n, n.Demo.LLM.SubscriptionID, 4); q.Granted != 50 {
		t.Errorf("granted %d units, want the 50 of the first start", q.Granted)
	}
}

// TestRedisAwayIsNotUsedUp: while Redis is away a node answers from its lease
// or says that it cannot decide; it never says that the package is used up, and
// serves again by itself when Redis is back.
func TestRedisAwayIsNotUsedUp(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{AppendOnly: "always"})
	n := tollgate.Start(t, tollgate.Options{Units: 10_000, QuotaStore: server.URL()})
	charged := int64(0)
	call := func(ctx context.Context) (int, string) {
		t.Helper()
		resp, body := send(t, http.DefaultClient, chatRequest(t, n.Demo.LLM, chatBody, nil).WithContext(ctx))
		if resp.StatusCode == http.StatusOK {
			charged++
		}
		return resp.StatusCode, string(body)
	}
	if status, body := call(t.Context()); status != http.StatusOK {
		t.Fatalf("with Redis: status %d %s", status, body)
	}
	server.Kill()
	away, served := time.Now(), charged
	for range 50 {
		status, body := call(t.Context())
		if status != http.StatusOK && (status != http.StatusServiceUnavailable || !strings.Contains(body, `.0606"`)) {
			t.Fatalf("without Redis: status %d %s, want 200 from the lease or 503 .0606", status, body)
		}
	}
	t.Logf("without Redis %d of 50 calls were served, in %s", charged-served, time.Since(away))
	server.Restart()
	back := time.Now()
	wait.Until(t, time.Minute, "the node to sell again", func(ctx context.Context) error {
		if status, body := call(ctx); status != http.StatusOK {
			return fmt.Errorf("status %d %s", status, body)
		}
		return nil
	})
	t.Logf("sold again %s after Redis was back", time.Since(back))
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, charged)
}

// TestStoreAwayPolicies: with Redis gone a package that stops is refused with
// 503 once its lease is over, one that was sold to go on does so up to its
// credit and is refused then, no call waits, and with Redis back everything is
// charged exactly.
func TestStoreAwayPolicies(t *testing.T) {
	t.Parallel()
	const ttl, credit = 2 * time.Second, 20
	server := redis.Start(t, redis.Options{AppendOnly: "always"})
	n := tollgate.Start(t, tollgate.Options{Units: 10_000, QuotaStore: server.URL(), Env: []string{"TOLLGATE_QUOTA_LEASE_TTL=" + ttl.String()}})
	ctx := t.Context()
	ask := func(token, method, path string, in, out any) error {
		_, err := admin(ctx, n, token, method, "/api/v1"+path, in, out)
		return err
	}
	// A free package of the same product, used before the one of the demo.
	var sub struct {
		Product string `json:"product_id"`
	}
	if err := ask(n.Demo.BuyerToken, http.MethodGet, "/subscriptions/"+n.Demo.LLM.SubscriptionID, nil, &sub); err != nil {
		t.Fatal(err)
	}
	offer := map[string]any{
		"name": "goes on", "mode": "per_call", "price": "0", "quotas": []map[string]any{{"unit": "call", "amount": 500}},
		"store_away_seconds": 120, "store_away_credit": credit,
	}
	if err := ask(n.Demo.SellerToken, http.MethodPost, "/products/"+sub.Product+"/specs", offer, nil); err == nil || !strings.Contains(err.Error(), "give that policy too") {
		t.Fatalf("seconds and credit without the policy: %v", err)
	}
	offer["store_away"] = "continue"
	var spec struct {
		ID     string `json:"id"`
		Away   string `json:"store_away"`
		Credit int64  `json:"store_away_credit"`
	}
	if err := ask(n.Demo.SellerToken, http.MethodPost, "/products/"+sub.Product+"/specs", offer, &spec); err != nil || spec.Away != "continue" || spec.Credit != credit {
		t.Fatalf("the spec %+v, %v", spec, err)
	}
	if err := ask(n.Demo.BuyerToken, http.MethodPost, "/orders", map[string]any{"spec_id": spec.ID}, nil); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, settleLimit, "the package that goes on to be shown", func(context.Context) error {
		var q struct {
			Lots []struct {
				Away   string `json:"store_away"`
				Credit int64  `json:"store_away_credit"`
			} `json:"lots"`
		}
		if err := ask(n.Demo.BuyerToken, http.MethodGet, "/subscriptions/"+n.Demo.LLM.SubscriptionID+"/quota", nil, &q); err != nil {
			return err
		}
		if len(q.Lots) != 2 || q.Lots[0].Away != "continue" || q.Lots[0].Credit != credit || q.Lots[1].Away != "stop" {
			return fmt.Errorf("lots %+v", q.Lots)
		}
		return nil
	})

	goesOn, tokens, slowest := int64(0), int64(0), time.Duration(0)
	call := func(p tollgate.LLM, count *int64, units int64) int {
		t.Helper()
		began := time.Now()
		resp, body := send(t, http.DefaultClient, chatRequest(t, p, chatBody, steer{"X-Mock-Tokens": "3,4"}))
		slowest = max(slowest, time.Since(began))
		switch {
		case resp.StatusCode == http.StatusOK:
			*count += units
		case resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), `.0606"`):
			t.Fatalf("status %d %s, want 200 or 503 .0606", resp.StatusCode, body)
		}
		return resp.StatusCode
	}
	for range 3 {
		if a, b := call(n.Demo.LLM, &goesOn, 1), call(n.Demo.LLMTokens, &tokens, 7); a != 200 || b != 200 {
			t.Fatalf("with Redis: status %d and %d", a, b)
		}
	}
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, goesOn)
	server.Kill()
	slowest = 0
	// Every lease is over when the one that stops is refused and the time of a
	// lease has passed.
	away := time.Now()
	wait.Until(t, settleLimit, "the package that stops to be refused", func(context.Context) error {
		if status := call(n.Demo.LLMTokens, &tokens, 7); status != http.StatusServiceUnavailable || time.Since(away) < ttl {
			return fmt.Errorf("status %d after %s", status, time.Since(away))
		}
		return nil
	})
	before := goesOn
	for range 2 * credit {
		call(n.Demo.LLM, &goesOn, 1)
		if status := call(n.Demo.LLMTokens, &tokens, 7); status != http.StatusServiceUnavailable {
			t.Fatalf("the package that stops: status %d after its lease", status)
		}
	}
	if goesOn-before != credit {
		t.Errorf("%d calls of the package that goes on were served after its lease, want its credit of %d", goesOn-before, credit)
	}
	if slowest > 900*time.Millisecond { // none waits as long as the engine would let it
		t.Errorf("a call took %s with Redis away", slowest)
	}
	server.Restart()
	wait.Until(t, time.Minute, "both to be served again", func(context.Context) error {
		if a, b := call(n.Demo.LLM, &goesOn, 1), call(n.Demo.LLMTokens, &tokens, 7); a != 200 || b != 200 {
			return fmt.Errorf("status %d and %d", a, b)
		}
		return nil
	})
	for sub, want := range map[string]int64{n.Demo.LLM.SubscriptionID: goesOn, n.Demo.LLMTokens.SubscriptionID: tokens} {
		if q := waitUsed(t, n, sub, want); q.Overrun != 0 {
			t.Errorf("subscription %s: %+v", sub, q)
		}
	}
	wait.Until(t, settleLimit, "the books to balance", func(context.Context) error {
		var rec struct{ Drift int64 }
		if err := ask(n.Demo.OperatorToken, http.MethodGet, "/reconciliation", nil, &rec); err != nil || rec.Drift != 0 {
			return fmt.Errorf("drift %d, %v", rec.Drift, err)
		}
		return nil
	})
	t.Logf("slowest call with Redis away: %s", slowest)
}
