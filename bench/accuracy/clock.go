package accuracy

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tollgate/bench"
)

// clockJump sets the wall clocks of nodes forth and back while calls run and a
// package goes to its end: by seconds, over the end of a lease, over midnight,
// and beside a store past the package's expiry and before its beginning. A node whose clock is
// wrong may refuse calls; it must not sell a unit twice, lose a counted call, or
// keep units from being sold once its clock is right again.
type clockJump struct{ nodes int }

// jumps are what the clocks are moved by.
var jumps = []time.Duration{time.Second, -time.Second, 3 * time.Second, -3 * time.Second, time.Minute, -time.Minute, 26 * time.Hour, -26 * time.Hour, 0}

// far jumps leave the package's time. The clock of the store decides when a
// package is over, so they are for nodes beside a store only.
var far = []time.Duration{400 * 24 * time.Hour, -400 * 24 * time.Hour}

func (c clockJump) run(ctx context.Context, b *bed, r *Result) error {
	files := make(map[*node]string)
	p := plan{units: 1000, gateways: c.nodes, redis: c.nodes > 0, lease: shortLease}
	file := func(n *node) string { return filepath.Join(filepath.Dir(n.dir), n.name+".clock") }
	switch {
	case c.nodes > 0:
		p.prepare = func(w *world, n *node) error {
			if len(files) == c.nodes-1 {
				return nil // one keeps the right time
			}
			files[n] = file(n)
			n.with("TOLLGATE_TEST_CLOCK_FILE=" + files[n])
			return nil
		}
	default:
		dir, err := os.MkdirTemp(b.dir, "clock-")
		if err != nil {
			return err
		}
		at := filepath.Join(dir, "clock")
		p.env = []string{"TOLLGATE_TEST_CLOCK_FILE=" + at}
		files[nil] = at
	}
	w, err := newWorld(ctx, b, p)
	if err != nil {
		return err
	}
	defer w.close()
	set := func(file string, d time.Duration) error { return os.WriteFile(file, []byte(d.String()), 0o600) }
	moves := jumps
	if c.nodes > 0 {
		moves = slices.Concat(jumps, far)
	}
	r.Rounds = b.rounds(4, 1)
	for i := range r.Rounds {
		if err := w.newPackage(ctx, i); err != nil {
			return err
		}
		t := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat(), w.stream("X-Mock-Chunks: 4", "X-Mock-Chunk-Delay: 5ms")}, Connections: 16, Rate: 250})
		for range 12 {
			for _, f := range files {
				if err := set(f, moves[rand.IntN(len(moves))]); err != nil {
					return err
				}
			}
			pause(ctx, 150*time.Millisecond)
		}
		for _, f := range files {
			if err := set(f, 0); err != nil {
				return err
			}
		}
		if err := ended(t); err != nil {
			return err
		}
	}
	return w.soldOut(ctx, r)
}
