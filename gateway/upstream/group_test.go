package upstream

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestPickProperty drives groups at random: whatever happened, a member that is
// not well is not picked while one is that is, nobody is picked that was
// skipped, none is refused while one can be reached, and no breaker's trial is
// lost.
func TestPickProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			n := rapid.IntRange(1, 6).Draw(rt, "members")
			weights := make([]int, n)
			for i := range weights {
				weights[i] = rapid.IntRange(0, 10).Draw(rt, "weight")
			}
			g := group(t, GroupConfig{BreakerFailures: 3, OutlierCalls: 8, OutlierRest: time.Second}, weights...)
			m := g.Members()
			type flight struct {
				i int
				p Pass
			}
			var open []flight
			well := func(i int) bool {
				s := m[i].Status()
				return s.Available && s.State != HalfOpen
			}
			for range rapid.IntRange(1, 120).Draw(rt, "steps") {
				switch rapid.IntRange(0, 9).Draw(rt, "step") {
				case 0, 1, 2, 3, 4:
					skip := rapid.Uint64Range(0, 1<<n-1).Draw(rt, "skip")
					key := rapid.Uint64Range(0, 3).Draw(rt, "key")
					before := make([]bool, n)
					some := false
					for i := range m {
						before[i] = well(i)
						some = some || before[i] && skip&(1<<i) == 0
					}
					state := make([]State, n)
					for i := range m {
						state[i] = m[i].State()
					}
					i, p := g.Pick(skip, key)
					switch {
					case i < 0 && some:
						rt.Fatalf("nobody was picked although one is well: %v", before)
					case i < 0:
						for j, x := range m {
							if skip&(1<<j) == 0 && x.State() == Closed {
								rt.Fatalf("nobody was picked although member %d can be reached", j)
							}
						}
					case skip&(1<<i) != 0:
						rt.Fatalf("picked %d, which was skipped", i)
					case some && !before[i] && p.done == nil:
						rt.Fatalf("picked %d in state %v although another is well: %v", i, state[i], before)
					default:
						m[i].inFlight.Add(1)
						open = append(open, flight{i, p})
					}
				case 5, 6, 7:
					if len(open) == 0 {
						continue
					}
					k := rapid.IntRange(0, len(open)-1).Draw(rt, "which")
					f := open[k]
					open = append(open[:k], open[k+1:]...)
					m[f.i].inFlight.Add(-1)
					f.p.finish(outcome(rapid.IntRange(0, int(leftStream)).Draw(rt, "outcome")))
				case 8:
					time.Sleep(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "ms")) * time.Millisecond)
				case 9:
					m[rapid.IntRange(0, n-1).Draw(rt, "who")].SetHealthy(rapid.Bool().Draw(rt, "healthy"))
				}
				ejected := 0
				for _, x := range m {
					if x.Status().Ejected {
						ejected++
					}
				}
				if ejected == n || ejected > max(1, n/2) {
					rt.Fatalf("%d of %d rest", ejected, n)
				}
			}
			// When everything has ended and time has passed, all come back.
			for _, f := range open {
				m[f.i].inFlight.Add(-1)
				f.p.finish(abandoned)
			}
			for _, x := range m {
				for range 3 {
					x.SetHealthy(true)
				}
			}
			time.Sleep(time.Hour)
			for i, x := range m {
				p, ok := x.admit()
				if !ok || !x.available() {
					rt.Fatalf("member %d did not come back: %+v", i, x.Status())
				}
				p.finish(good)
				if x.State() != Closed {
					rt.Fatalf("member %d is %v after its trial", i, x.State())
				}
			}
		})
	})
}

// TestWeights: idle members are picked by weight; busy ones by load for their
// weight.
func TestWeights(t *testing.T) {
	t.Parallel()
	g := group(t, GroupConfig{}, 6, 3, 1)
	const n = 60_000
	share := func(pick func() int) (out [3]float64) {
		for range n {
			out[pick()] += 1. / n
		}
		return out
	}
	near := func(got, want [3]float64, what string) {
		t.Helper()
		for i := range got {
			if math.Abs(got[i]-want[i]) > .015 {
				t.Errorf("%s: %v, want %v", what, got, want)
				return
			}
		}
	}
	near(share(func() int { i, _ := g.Pick(0, 0); return i }), [3]float64{.6, .3, .1}, "idle")
	near(share(func() int { i, _ := g.Pick(2, 0); return i }), [3]float64{6. / 7, 0, 1. / 7}, "one skipped")
	k := uint64(0)
	near(share(func() int { k++; i, _ := g.Pick(0, mix(k)|1); return i }), [3]float64{.6, .3, .1}, "by key")
	// Calls that do not end: the loads come out by weight, far closer than
	// drawing alone would bring them.
	for range 10_000 {
		i, _ := g.Pick(0, 0)
		g.Members()[i].inFlight.Add(1)
	}
	for i, want := range []int64{6000, 3000, 1000} {
		if got := g.Members()[i].InFlight(); got < want-60 || got > want+60 {
			t.Errorf("member %d has %d calls under way, want %d", i, got, want)
		}
	}
}

// TestAffinity: a key stays at its member, moves only when that one goes, comes
// back with it, and spills over when it is too hot.
func TestAffinity(t *testing.T) {
	t.Parallel()
	g := group(t, GroupConfig{}, 1, 1, 1, 1)
	home := map[uint64]int{}
	for k := range uint64(1000) {
		key := Key(fmt.Append(nil, k))
		home[key], _ = g.Pick(0, key)
		if again, _ := g.Pick(0, key); again != home[key] {
			t.Fatal("a key has two homes")
		}
	}
	for range 3 {
		g.Members()[2].SetHealthy(false)
	}
	for key, was := range home {
		i, _ := g.Pick(0, key)
		if was != 2 && i != was || was == 2 && i == 2 {
			t.Fatalf("key of %d went to %d", was, i)
		}
	}
	for range 2 {
		g.Members()[2].SetHealthy(true)
	}
	hot := uint64(0)
	for key, was := range home {
		if i, _ := g.Pick(0, key); i != was {
			t.Fatalf("key of %d is at %d", was, i)
		}
		hot = key
	}
	// One key alone loads nobody beyond 125 % of the average, rounded up.
	for n := int64(1); n <= 400; n++ {
		i, _ := g.Pick(0, hot)
		g.Members()[i].inFlight.Add(1)
		for _, m := range g.Members() {
			if m.InFlight() > (n*125+399)/400 {
				t.Fatalf("after %d calls one member has %d", n, m.InFlight())
			}
		}
	}
	if Key(nil) == 0 || Key([]byte("a")) == Key([]byte("b")) {
		t.Error("keys")
	}
}

// TestFull: a target with as many calls as it may is passed over.
func TestFull(t *testing.T) {
	t.Parallel()
	g := NewGroup(GroupConfig{})
	for range 2 {
		tg, err := NewTarget("http://127.0.0.1:1", Config{MaxConns: 2})
		if err != nil {
			t.Fatal(err)
		}
		g.Add(tg, 1)
	}
	for n := range 4 {
		i, _ := g.Pick(0, 0)
		if i < 0 {
			t.Fatalf("call %d was refused", n)
		}
		g.Members()[i].inFlight.Add(1)
	}
	if i, _ := g.Pick(0, 0); i >= 0 || !g.Full() {
		t.Errorf("picked %d", i)
	}
	tg := g.Members()[0].Target
	var e Exchange
	err := e.Do(tg, get(), nil)
	if failed, ok := err.(*Error); !ok || failed.Op != OpBusy || tg.InFlight() != 2 {
		t.Errorf("%v, %d in flight", err, tg.InFlight())
	}
}

// BenchmarkPick shows the cost of choosing among healthy members.
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 2, 8, 32} {
		g := group(b, GroupConfig{}, make([]int, n)...)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, p := g.Pick(0, 0)
				p.header(200)
				p.succeeded()
			}
		})
	}
}
