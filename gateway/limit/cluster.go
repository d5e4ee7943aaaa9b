package limit

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// Demand is how much of a key one node wants.
type Demand struct {
	Key    string  // with its scope
	Weight float64 // calls per exchange, smoothed
}

// Board is where the nodes of a cluster tell each other their demand.
type Board interface {
	// Exchange puts up this node's demands and returns, for each in its order,
	// the sum of all live nodes' with its own, and how many nodes are alive. What
	// a node has not repeated for a few exchanges counts no longer.
	Exchange(ctx context.Context, demands []Demand) (totals []float64, nodes int, err error)
}

// Cluster divides the rules of a table among the nodes that share a board.
//
// Each node has a share of every rule and spends it alone; the shares of all
// nodes add up to at most one. Nine tenths and a half go where the demand was
// in the last exchanges, the rest to everybody, so that a node that is asked
// for the first time does not begin with nothing.
//
// What is approximate: a key that turns up on a node where it was not called
// before has R/N there at once, until the next exchange (Every) tells the node
// what the others use. So after a shift of the whole traffic from one node to
// another the cluster may admit up to R/N calls more, once, never N times R.
// A node's share is at least one call.
//
// While the board is away for longer than Stale, every node falls back to an
// equal share among the nodes last seen alive: the sum still does not exceed R,
// but a lopsided load is held to less than R.
type Cluster struct {
	table *Table
	board Board
	log   *slog.Logger

	// Every is the time between exchanges; Stale how long the last one holds.
	Every, Stale time.Duration
	// MaxKeys bounds how many keys are exchanged, the most called first. The
	// others keep an equal share. Default 10000.
	MaxKeys int

	last     time.Time
	failures atomic.Int64
}

// NewCluster returns the divider of t over board. Call it before t is used.
func NewCluster(t *Table, board Board, every time.Duration, log *slog.Logger) *Cluster {
	if every <= 0 {
		every = time.Second
	}
	t.clustered = true
	return &Cluster{table: t, board: board, log: log, Every: every, Stale: 5 * every, MaxKeys: 10000}
}

// Failures returns how many exchanges failed.
func (c *Cluster) Failures() int64 { return c.failures.Load() }

// Nodes returns how many nodes were alive at the last exchange.
func (c *Cluster) Nodes() int64 { return c.table.nodes.Load() }

const (
	smoothing = .5 // of the newest exchange in a demand
	byDemand  = .95
)

// Exchange does one exchange and moves the shares.
func (c *Cluster) Exchange(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, max(c.Every, time.Second))
	defer cancel()
	active := c.collect()
	demands := make([]Demand, len(active))
	for i, e := range active {
		demands[i] = Demand{Key: scopeNames[e.scope] + ":" + e.key, Weight: e.demand}
	}
	totals, nodes, err := c.board.Exchange(ctx, demands)
	if err != nil {
		if n := c.failures.Add(1); n&(n-1) == 0 { // the 1st, 2nd, 4th, …
			c.log.Warn("limits cannot be balanced between the nodes", "failures", n, "error", err)
		}
		if now.Sub(c.last) >= c.Stale {
			c.even(now)
		}
		return err
	}
	c.last = now
	n := int64(max(nodes, 1))
	if c.table.nodes.Swap(n) != n {
		c.even(now)
	}
	for i, e := range active {
		share := 1 / float64(n)
		if totals[i] > 0 {
			share = byDemand*min(e.demand/totals[i], 1) + (1-byDemand)*share
		}
		e.reshare(now, share)
	}
	return nil
}

// collect returns the keys with a demand, their demand brought up to date.
func (c *Cluster) collect() []*entry {
	var active []*entry
	c.table.each(func(e *entry) {
		e.demand = smoothing*float64(e.asked.Swap(0)) + (1-smoothing)*e.demand
		if e.demand < .01 {
			e.demand = 0
			return
		}
		active = append(active, e)
	})
	if len(active) > c.MaxKeys {
		slices.SortFunc(active, func(a, b *entry) int { return cmp.Compare(b.demand, a.demand) })
		active = active[:c.MaxKeys]
	}
	return active
}

// even gives every key the same share on each node.
func (c *Cluster) even(now time.Time) {
	share := c.table.fallbackShare()
	c.table.each(func(e *entry) { e.reshare(now, share) })
}

// reshare moves the node's share of a key, whatever its rule is.
func (e *entry) reshare(now time.Time, share float64) {
	e.configure(now, e.force.Load().rule, share)
}

// each calls f for every key, without holding the table up.
func (t *Table) each(f func(*entry)) {
	for s := range t.shards {
		for i := range t.shards[s] {
			sh := &t.shards[s][i]
			sh.mu.RLock()
			list := make([]*entry, 0, len(sh.keys))
			for _, e := range sh.keys {
				list = append(list, e)
			}
			sh.mu.RUnlock()
			for _, e := range list {
				f(e)
			}
		}
	}
}
