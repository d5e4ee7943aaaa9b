package quota

import (
	"math"
	"time"

	"tollgate/internal/usage"
)

// SimNode is an engine without its background work: the simulator decides when
// a report is sent, whether it arrives, and when its answer does.
type SimNode struct{ e *Engine }

// NewSimNode returns a node that never reaches the store by itself.
func NewSimNode(cfg Config, recorder Recorder) *SimNode {
	n := &SimNode{newEngine(cfg, nil, recorder)}
	n.e.breaker.failures.Store(breakerFailures)
	n.e.breaker.openTill.Store(math.MaxInt64)
	return n
}

// Admit is the fast path alone; nil when the leases do not cover the call.
func (n *SimNode) Admit(sub string, units []usage.Unit, est usage.Units, at time.Time) *Hold {
	a := n.e.account(sub)
	h := n.e.holds.New().(*Hold)
	h.reset(n.e, a, units, at)
	if v := a.view.Load(); v != nil && n.e.mono() < v.until && h.takeAll(v, &est) {
		return h
	}
	return nil
}

// SimReport is a report on its way.
type SimReport struct {
	Req        *SyncRequest
	sent, wall int64
}

// Report builds the next report; amount is what calls wait for.
func (n *SimNode) Report(sub string, unit usage.Unit, amount int64, giveBack bool) *SimReport {
	a := n.e.account(sub)
	a.mu.Lock()
	defer a.mu.Unlock()
	if amount > 0 {
		a.needs = append(a.needs, need{unit: unit, n: amount})
	}
	a.giveBack = a.giveBack || giveBack
	r := &SimReport{sent: n.e.mono(), wall: n.e.now().UnixMilli()}
	r.Req = a.request(&n.e.cfg, r.sent, r.wall)
	return r
}

// Answer takes over the answer to a report.
func (n *SimNode) Answer(sub string, r *SimReport, reply *SyncReply) {
	a := n.e.account(sub)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.apply(&n.e.cfg, r.Req, reply, r.sent, r.wall, n.e.now().UnixMilli())
}

// Idle returns the units that lie free on the node.
func (n *SimNode) Idle(sub string) (sum int64) {
	a := n.e.account(sub)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.leases {
		sum += max(0, l.head.Load())
	}
	return sum
}
