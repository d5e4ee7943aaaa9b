package quotatest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/quota"
)

func cluster(t *testing.T, s quota.Store, n int) []*node {
	var nodes []*node
	for i := range n {
		nodes = append(nodes, engine(t, s, fmt.Sprintf("n%d", i), nil))
	}
	return nodes
}

func testNodes(t *testing.T, b Backend) {
	t.Run("the last unit: 8 nodes, 1000 parallel calls", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 1, time.Now()))
		nodes := cluster(t, s, 8)
		if got := race(t, sub, 125, 1, nodes...); got != 1 {
			t.Errorf("%d calls succeeded, want 1", got)
		}
		if diff := gocmp.Diff(figures{Granted: 1, Used: 1}, of(balance(t, s, sub, nodes...), "L1")); diff != "" {
			t.Error(diff)
		}
	})

	for _, size := range []int{2, 4, 8} {
		t.Run(fmt.Sprintf("N units over %d nodes", size), func(t *testing.T) {
			s, sub := b.Open(t, nil), subscription(t)
			apply(t, s, grant(sub, "L1", usage.Call, 500, time.Now()))
			nodes := cluster(t, s, size)
			if got := race(t, sub, 8, 2000/8/size, nodes...); got != 500 {
				t.Errorf("%d calls succeeded, want 500", got)
			}
			if diff := gocmp.Diff(figures{Granted: 500, Used: 500}, of(balance(t, s, sub, nodes...), "L1")); diff != "" {
				t.Error(diff)
			}
		})
	}

	t.Run("no unit is stranded on a node nobody calls (I10)", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 200, time.Now()))
		idle, busy := engine(t, s, "idle", nil), engine(t, s, "busy", nil)
		if err := idle.call(t.Context(), sub, time.Now()); err != nil { // takes a lease and leaves it
			t.Fatal(err)
		}
		slow := 0
		for i := range 199 { // one at a time: a refusal would be a stranded unit
			began := time.Now()
			if err := busy.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatalf("call %d of 199: %v", i+1, err)
			}
			if time.Since(began) > 50*time.Millisecond {
				slow++
			}
		}
		if slow > 20 { // a busy machine may delay a few
			t.Errorf("%d of 199 calls waited longer than 50ms for idle units", slow)
		}
		if err := busy.call(t.Context(), sub, time.Now()); !errors.Is(err, quota.ErrExhausted) {
			t.Fatalf("error %v, want ErrExhausted", err)
		}
	})

	t.Run("calls hop between nodes and fail at random", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 300, time.Now()))
		nodes := cluster(t, s, 4)
		var ok atomic.Int64
		var wg sync.WaitGroup
		for w := range 6 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 9))
				for range 150 {
					n := nodes[r.IntN(len(nodes))]
					h, err := n.Admit(context.Background(), sub, calls, one, time.Now())
					if err != nil {
						if !errors.Is(err, quota.ErrExhausted) {
							t.Errorf("admit: %v", err)
						}
						continue
					}
					if r.IntN(3) == 0 {
						h.Release() // not 2xx
						continue
					}
					if err := h.Settle(&usage.Record{Units: one}); err != nil {
						t.Errorf("settle: %v", err)
					}
					ok.Add(1)
				}
			})
		}
		wg.Wait()
		// Whatever was refused while units were held: what is left can be sold.
		for ok.Load() < 300 {
			if err := nodes[ok.Load()%4].call(t.Context(), sub, time.Now()); err != nil {
				t.Fatalf("after %d calls: %v", ok.Load(), err)
			}
			ok.Add(1)
		}
		if err := nodes[0].call(t.Context(), sub, time.Now()); !errors.Is(err, quota.ErrExhausted) {
			t.Fatalf("error %v, want ErrExhausted", err)
		}
		if diff := gocmp.Diff(figures{Granted: 300, Used: 300}, of(balance(t, s, sub, nodes...), "L1")); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("tokens over nodes are never oversold", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Token, 100_000, time.Now()), grant(sub, "L2", usage.Token, 50_000, time.Now()))
		nodes := cluster(t, s, 3)
		var used, overrun atomic.Int64
		var wg sync.WaitGroup
		for w := range 9 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 3))
				for range 100 {
					h, err := nodes[w%3].Admit(context.Background(), sub, tokens, usage.Units{usage.Token: r.Int64N(800)}, time.Now())
					if err != nil {
						continue
					}
					rec := usage.Record{Units: usage.Units{usage.Token: r.Int64N(1000)}}
					if err := h.Settle(&rec); err != nil {
						t.Errorf("settle: %v", err)
					}
					used.Add(rec.Charged(usage.Token))
					overrun.Add(rec.Overrun[usage.Token])
				}
			})
		}
		wg.Wait()
		bal := balance(t, s, sub, nodes...)
		if got := of(bal, "L1").Used + of(bal, "L2").Used; got != used.Load() || got > 150_000 || bal.Overrun[usage.Token] != overrun.Load() {
			t.Fatalf("used %d, records say %d; overrun %d, records say %d", got, used.Load(), bal.Overrun[usage.Token], overrun.Load())
		}
	})

	t.Run("replay settles what a dead node had used (I4)", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 1000, time.Now()))
		dead := engine(t, s, "a", nil, func(c *quota.Config) { c.FlushEvery = time.Hour })
		for range 37 {
			if err := dead.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		// A stream was under way: its last provisional record counts once.
		h, err := dead.Admit(t.Context(), sub, calls, one, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			rec := usage.Record{ID: ids.Request{1}, Subscription: sub, Units: one}
			if err := h.Checkpoint(&rec); err != nil {
				t.Fatal(err)
			}
		}
		bal, err := s.Read(t.Context(), sub)
		if err != nil || of(bal, "L1").Used >= 37 {
			t.Fatalf("all is reported already, the test shows nothing: %+v, %v", bal, err)
		}
		// It dies here: nothing more is reported, only its journal is left.
		for range 2 { // and the second replay changes nothing
			again := engine(t, s, "a", nil, func(c *quota.Config) { c.Incarnation.Boot = 2 })
			if err := again.Replay(t.Context(), history{1: dead.records}); err != nil {
				t.Fatal(err)
			}
			if got := of(balance(t, s, sub, again), "L1"); got.Used != 38 || got.Leased != 0 {
				t.Fatalf("balance %+v, want 38 used", got)
			}
		}
	})

	t.Run("an engine with a used boot number is refused", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 10, time.Now()))
		first := engine(t, s, "a", nil)
		race(t, sub, 1, 1, first)
		if err := first.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		second := engine(t, s, "a", nil)
		if err := second.call(t.Context(), sub, time.Now()); !errors.Is(err, quota.ErrUnavailable) {
			t.Fatalf("error %v, want ErrUnavailable", err)
		}
	})
}

// history is a journal's records by boot.
type history map[uint64][]usage.Record

func (h history) Records(_ context.Context, fn func(uint64, *usage.Record) error) error {
	for boot := uint64(1); boot <= uint64(len(h)); boot++ {
		for i := range h[boot] {
			if err := fn(boot, &h[boot][i]); err != nil {
				return err
			}
		}
	}
	return nil
}
