package redisboard

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/gateway/limit"
)

//go:embed exchange.lua
var source string

var script = goredis.NewScript(source)

// Board is a limit.Board.
type Board struct {
	client goredis.UniversalClient
	prefix string
	node   string
	stale  time.Duration
}

// New returns the board of node over client, which it does not close. What a
// node said counts for stale.
func New(client goredis.UniversalClient, prefix, node string, stale time.Duration) *Board {
	return &Board{client: client, prefix: prefix + "limit:", node: node, stale: stale}
}

// Exchange implements limit.Board with one pipeline.
func (b *Board) Exchange(ctx context.Context, demands []limit.Demand) ([]float64, int, error) {
	cmds, err := b.run(ctx, demands)
	if goredis.HasErrorPrefix(err, "NOSCRIPT") {
		if err := b.load(ctx); err != nil {
			return nil, 0, fmt.Errorf("limit: load the exchange's script: %w", err)
		}
		cmds, err = b.run(ctx, demands)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("limit: exchange demands: %w", err)
	}
	numbers := make([]float64, len(cmds))
	for i, c := range cmds {
		text, err := c.Text()
		if err != nil {
			return nil, 0, fmt.Errorf("limit: exchange demands: %w", err)
		}
		if numbers[i], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, 0, fmt.Errorf("limit: exchange demands: %w", err)
		}
	}
	return numbers[1:], int(numbers[0]), nil
}

// run puts up the node itself, in the first command, and its demands.
func (b *Board) run(ctx context.Context, demands []limit.Demand) ([]*goredis.Cmd, error) {
	cmds := make([]*goredis.Cmd, 0, len(demands)+1)
	_, err := b.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		put := func(key string, weight float64) {
			cmds = append(cmds, p.EvalSha(ctx, script.Hash(), []string{b.prefix + key}, b.node, strconv.FormatFloat(weight, 'g', -1, 64), b.stale.Milliseconds()))
		}
		put("nodes", 1)
		for _, d := range demands {
			put("{"+d.Key+"}", d.Weight)
		}
		return nil
	})
	return cmds, err
}

// load loads the script on every server that may run it.
func (b *Board) load(ctx context.Context) error {
	if c, ok := b.client.(*goredis.ClusterClient); ok {
		return c.ForEachMaster(ctx, func(ctx context.Context, m *goredis.Client) error { return script.Load(ctx, m).Err() })
	}
	return script.Load(ctx, b.client).Err()
}
