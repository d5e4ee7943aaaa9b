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
