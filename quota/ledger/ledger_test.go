package ledger_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/ledger"
)

// machine is a rapid state machine over one account: any reports, in any
// order, from nodes that may lie about everything but their own counters.
type machine struct {
	a     *ledger.Account
	now   int64
	known map[string]map[string]quota.Counter // by incarnation and bucket
	used  map[string]int64                    // highest use of each counter
}

func (m *machine) env() ledger.Env { return ledger.Env{Now: m.now, Run: "one"} }

// Check holds after every action: I1 and I2 of the README.
func (m *machine) Check(t *rapid.T) {
	if diff := m.a.Audit(); len(diff) > 0 {
		t.Fatalf("audit: %+v", diff)
	}
	for _, r := range m.a.Report() {
		key := ledger.CounterKey(r.Incarnation.String(), r.Lot, r.From)
		if r.Used < m.used[key] {
			t.Fatalf("the use of %s went back from %d to %d", key, m.used[key], r.Used)
		}
		m.used[key] = r.Used
	}
	b := m.a.Balance(m.now)
	for _, l := range b.Lots {
		if l.Granted != l.Remaining+l.Leased+l.Used+l.Lapsed || min(l.Remaining, l.Leased, l.Used, l.Lapsed) < 0 {
			t.Fatalf("lot %s: %+v", l.ID, l)
		}
	}
}

func (m *machine) Grant(t *rapid.T) {
	g := lot.Grant{
		ID: fmt.Sprintf("L%d", rapid.IntRange(0, 2).Draw(t, "lot")), Subscription: "sub",
		Amount: rapid.Int64Range(0, 100).Draw(t, "amount"), Effective: time.UnixMilli(1_790_000_000_000),
		Version: rapid.Int64Range(1, 5).Draw(t, "version"), Void: rapid.IntRange(0, 9).Draw(t, "void") == 0,
	}
	if g.ID == "L2" {
		g.Reset = lot.Hour
	}
	m.a.ApplyGrant(m.env(), g)
}

func (m *machine) Sync(t *rapid.T) {
	inc := quota.Incarnation{Node: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node"), Boot: rapid.Uint64Range(1, 3).Draw(t, "boot")}
	known := m.known[inc.String()]
	if known == nil {
		known = map[string]quota.Counter{}
		m.known[inc.String()] = known
	}
	req := &quota.SyncRequest{Subscription: "sub", Incarnation: inc, Now: m.now, TTL: 10 * time.Second, Quarantine: time.Minute}
	for key, c := range known {
		if out := c.Outstanding(); out > 0 {
			c.Used += rapid.Int64Range(0, out).Draw(t, "used")
			c.Returned += rapid.Int64Range(0, c.Outstanding()).Draw(t, "returned")
			known[key] = c
		}
		req.Counters = append(req.Counters, c)
	}
	floor := rapid.Int64Range(0, 80).Draw(t, "floor")
	req.Demands = []quota.Demand{{Unit: usage.Call, Floor: floor, Target: floor + rapid.Int64Range(0, 50).Draw(t, "more")}}
	reply, _ := m.a.Sync(m.env(), req)
	if rapid.Bool().Draw(t, "answer arrives") {
		for _, b := range reply.Buckets {
			known[ledger.BucketKey(b.Lot, b.From)] = b.Counter
		}
	}
}

func (m *machine) Close(t *rapid.T) {
	inc := quota.Incarnation{Node: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node"), Boot: rapid.Uint64Range(1, 3).Draw(t, "boot")}
	m.a.Close(m.env(), &quota.CloseRequest{Subscription: "sub", Incarnation: inc, Final: rapid.Bool().Draw(t, "final")})
}

func (m *machine) Wait(t *rapid.T) {
	m.now += rapid.Int64Range(0, 3_600_000).Draw(t, "ms")
}

func (m *machine) Tend(t *rapid.T) {
	m.a.Tend(m.env(), &quota.TendRequest{Subscription: "sub", Quarantine: time.Minute, Retention: 1000 * time.Hour})
}

func TestAccountKeepsItsBooks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{a: ledger.New("sub"), now: 1_790_000_500_000, known: map[string]map[string]quota.Counter{}, used: map[string]int64{}}
		t.Repeat(rapid.StateMachineActions(m))
	})
}
