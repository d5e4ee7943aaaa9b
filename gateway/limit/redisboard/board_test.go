package redisboard_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/gateway/limit"
	"tollgate/gateway/limit/redisboard"
	"tollgate/internal/testkit/redis"
	"tollgate/internal/testkit/wait"
)

// TestExchange puts demands up from three nodes, on one server and on a cluster
// of three; a node that is silent counts no longer.
func TestExchange(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func() goredis.UniversalClient{
		"server":  func() goredis.UniversalClient { return redis.Start(t, redis.Options{}).Client() },
		"cluster": func() goredis.UniversalClient { return redis.StartCluster(t, redis.Options{}).Client() },
	} {
		client := start()
		ctx := t.Context()
		boards := make([]*redisboard.Board, 3)
		for i := range boards {
			boards[i] = redisboard.New(client, "test:", fmt.Sprint("node", i), 300*time.Millisecond)
		}
		demands := func(a, b float64) []limit.Demand {
			return []limit.Demand{{Key: "credential:a", Weight: a}, {Key: "product:b", Weight: b}}
		}
		for i := range boards {
			totals, nodes, err := boards[i].Exchange(ctx, demands(float64(i+1), .5))
			if err != nil {
				t.Fatal(name, err)
			}
			if want := []float64{1, 3, 6}[i]; totals[0] != want || totals[1] != .5*float64(i+1) || nodes != i+1 {
				t.Errorf("%s node %d: %v of %d nodes", name, i, totals, nodes)
			}
		}
		totals, nodes, err := boards[0].Exchange(ctx, demands(10, 0)) // again, not once more
		if err != nil || totals[0] != 15 || totals[1] != 1 || nodes != 3 {
			t.Errorf("%s: %v of %d nodes, %v", name, totals, nodes, err)
		}
		wait.Until(t, 10*time.Second, "the silent nodes to be forgotten", func(ctx context.Context) error {
			totals, nodes, err := boards[0].Exchange(ctx, demands(10, 0))
			if err != nil || totals[0] != 10 || nodes != 1 {
				return fmt.Errorf("%v of %d nodes, %w", totals, nodes, err)
			}
			return nil
		})
		// A server that lost its scripts is given them again.
		if err := client.ScriptFlush(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		if c, ok := client.(*goredis.ClusterClient); ok {
			if err := c.ForEachMaster(ctx, func(ctx context.Context, m *goredis.Client) error { return m.ScriptFlush(ctx).Err() }); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := boards[1].Exchange(ctx, demands(1, 1)); err != nil {
			t.Errorf("%s: after the scripts were lost: %v", name, err)
		}
	}
}
