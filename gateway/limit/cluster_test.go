package limit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// board is a Board in memory, for nodes of one test.
type board struct {
	demands map[string]map[string]float64 // key -> node -> weight
	nodes   map[string]bool
	away    bool
}

type seat struct {
	*board
	node string
}

func (s seat) Exchange(_ context.Context, demands []Demand) ([]float64, int, error) {
	if s.away {
		return nil, 0, errors.New("away")
	}
	s.nodes[s.node] = true
	totals := make([]float64, len(demands))
	for i, d := range demands {
		if s.demands[d.Key] == nil {
			s.demands[d.Key] = map[string]float64{}
		}
		s.demands[d.Key][s.node] = d.Weight
		for _, w := range s.demands[d.Key] {
			totals[i] += w
		}
	}
	return totals, len(s.nodes), nil
}

type member struct {
	*Table
	*Cluster
}

func cluster(n int) (*board, []member) {
	b := &board{demands: map[string]map[string]float64{}, nodes: map[string]bool{}}
	nodes := make([]member, n)
	for i := range nodes {
		t := NewTable(Config{})
		nodes[i] = member{t, NewCluster(t, seat{b, fmt.Sprint(i)}, time.Second, slog.New(slog.DiscardHandler))}
	}
	return b, nodes
}

// run drives load through the nodes for so many seconds, weights saying how many
// calls each makes in a tenth of a second, and returns what each admitted.
func run(t *testing.T, nodes []member, rule Rule, from time.Time, seconds int, weights []int) []int {
	t.Helper()
	admitted := make([]int, len(nodes))
	for tick := range seconds * 10 {
		now := from.Add(time.Duration(tick) * 100 * time.Millisecond)
		for i, w := range weights {
			if tick%10 == i%10 {
				_ = nodes[i].Exchange(t.Context(), now)
			}
			for range w {
				var g Grant
				if nodes[i].Take(&g, now, claim(Credential, "k", rule), 0).Kind == KindNone {
					admitted[i]++
					g.End(now, -1)
				}
			}
		}
	}
	return admitted
}

// TestAClusterAdmitsWhatOneNodeWould overloads the nodes of a cluster in
// different proportions: together they admit the limit, not the limit for each.
func TestAClusterAdmitsWhatOneNodeWould(t *testing.T) {
	t.Parallel()
	rule := Rule{RequestsPerMinute: 600}
	for _, weights := range [][]int{{5, 5}, {10, 1}, {10, 0}, {3, 3, 3, 3, 3}, {20, 0, 1, 0, 0}} {
		_, nodes := cluster(len(weights))
		for range 2 { // they know of each other before they serve
			for i := range nodes {
				_ = nodes[i].Exchange(t.Context(), t0)
			}
		}
		sum := 0
		for _, n := range run(t, nodes, rule, t0, 120, weights) {
			sum += n
		}
		// A bucket of 600 and two minutes' worth of 600. What a node cannot use is
		// another's only after an exchange, and a share may change hands.
		if sum > 1800+60 || sum < 1200 {
			t.Errorf("%v: %d calls in two minutes, want about 1800 at most", weights, sum)
		}
	}
}

// TestTheShareFollowsTheDemand moves all load to another node: within some
// exchanges that one has nearly all of the limit.
func TestTheShareFollowsTheDemand(t *testing.T) {
	t.Parallel()
	rule := Rule{RequestsPerSecond: 100}
	_, nodes := cluster(2)
	for i := range nodes {
		_ = nodes[i].Exchange(t.Context(), t0)
	}
	first := run(t, nodes, rule, t0, 20, []int{30, 1})
	if first[0] < 1500 {
		t.Errorf("the busy node admitted %d in 20 s, want most of 2000", first[0])
	}
	moved := run(t, nodes, rule, t0.Add(20*time.Second), 20, []int{1, 30})
	if moved[1] < 1500 || moved[0]+moved[1] > 2300 {
		t.Errorf("after the move: %v", moved)
	}
}

// TestTheBoardIsAway: the nodes fall back to equal shares among those last seen,
// so the sum stays within the limit.
func TestTheBoardIsAway(t *testing.T) {
	t.Parallel()
	rule := Rule{RequestsPerSecond: 100}
	b, nodes := cluster(2)
	run(t, nodes, rule, t0, 10, []int{30, 1})
	b.away = true
	run(t, nodes, rule, t0.Add(10*time.Second), 10, []int{30, 1}) // past Stale
	got := run(t, nodes, rule, t0.Add(20*time.Second), 10, []int{30, 30})
	if sum := got[0] + got[1]; sum > 1150 || got[0] < 400 || got[1] < 400 {
		t.Errorf("without the board: %v, want some 500 each", got)
	}
	if nodes[0].Failures() == 0 {
		t.Error("nobody counted the failures")
	}
}
