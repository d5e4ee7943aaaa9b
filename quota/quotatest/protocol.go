package quotatest

import (
	"math/rand/v2"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// wire speaks to a store as a node would, one field at a time.
type wire struct {
	t     *testing.T
	s     quota.Store
	sub   string
	clock *Clock
}

func newWire(t *testing.T, b Backend) *wire {
	clock := NewClock(start)
	return &wire{t: t, s: b.Open(t, clock.Now), sub: subscription(t), clock: clock}
}

func (w *wire) request(node string, boot uint64, floor, target int64, counters ...quota.Counter) *quota.SyncRequest {
	return &quota.SyncRequest{
		Subscription: w.sub, Incarnation: quota.Incarnation{Node: node, Boot: boot},
		Now: w.clock.Now().UnixMilli(), TTL: 30 * time.Second, Quarantine: time.Minute,
		Counters: counters, Demands: []quota.Demand{{Unit: usage.Call, Floor: floor, Target: target}},
	}
}

func (w *wire) sync(req *quota.SyncRequest) *quota.SyncReply {
	w.t.Helper()
	r, err := w.s.Sync(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// counter returns what the answer says of a lot.
func counter(r *quota.SyncReply, lot string) quota.Counter {
	for _, b := range r.Buckets {
		if b.Lot == lot {
			return b.Counter
		}
	}
	return quota.Counter{}
}

func (w *wire) want(what string, want figures, lot string) {
	w.t.Helper()
	if diff := gocmp.Diff(want, of(balance(w.t, w.s, w.sub), lot)); diff != "" {
		w.t.Fatalf("%s: lot %s (-want +got):\n%s", what, lot, diff)
	}
}

func testProtocol(t *testing.T, b Backend) {
	t.Run("unknown subscription leaves no trace", func(t *testing.T) {
		w := newWire(t, b)
		r := w.sync(w.request("a", 1, 1, 10))
		if r.Known[usage.Call] || len(r.Buckets) != 0 || r.Closed {
			t.Fatalf("answer %+v", r)
		}
		if ids, err := w.s.Subscriptions(t.Context(), "", 10); err != nil || len(ids) != 0 {
			t.Fatalf("subscriptions %v, %v", ids, err)
		}
		if report, err := w.s.Report(t.Context(), w.sub); err != nil || len(report) != 0 {
			t.Fatalf("report %v, %v", report, err)
		}
	})

	t.Run("the level is kept, not added", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 1000, start))
		for range 3 { // a lost answer is asked for again
			if c := counter(w.sync(w.request("a", 1, 40, 40)), "L1"); c.Granted != 40 {
				t.Fatalf("granted %d, want 40", c.Granted)
			}
		}
		w.want("after three", figures{Granted: 1000, Remaining: 960, Leased: 40}, "L1")
	})

	t.Run("any order and number of reports comes out the same (I4)", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 1000, start))
		from := start.Add(-time.Hour).UnixMilli()
		w.sync(w.request("a", 1, 100, 100))
		var reports []*quota.SyncRequest
		for used := int64(10); used <= 100; used += 10 {
			r := w.request("a", 1, 0, 0, quota.Counter{Lot: "L1", From: from, Granted: 100, Used: used, Returned: 0})
			reports = append(reports, r, r, r)
		}
		rand.New(rand.NewPCG(1, 1)).Shuffle(len(reports), func(i, j int) { reports[i], reports[j] = reports[j], reports[i] })
		for _, r := range reports {
			w.sync(r)
		}
		w.want("shuffled", figures{Granted: 1000, Remaining: 900, Used: 100}, "L1")
		last := &quota.CloseRequest{Subscription: w.sub, Incarnation: reports[0].Incarnation, Final: true, Counters: []quota.Counter{{Lot: "L1", From: from, Used: 100}}}
		for range 3 {
			if err := w.s.CloseIncarnation(t.Context(), last); err != nil {
				t.Fatal(err)
			}
		}
		if r := w.sync(reports[0]); !r.Closed {
			t.Fatal("a report of a closed incarnation was taken for a live one")
		}
		w.want("closed", figures{Granted: 1000, Remaining: 900, Used: 100}, "L1")
	})

	t.Run("shares shrink down to single units", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 100, start))
		// Alone: half of what is left. With a second node: a quarter.
		if c := counter(w.sync(w.request("a", 1, 0, 1<<40)), "L1"); c.Granted != 50 {
			t.Fatalf("first share %d, want 50", c.Granted)
		}
		if c := counter(w.sync(w.request("b", 1, 0, 1<<40)), "L1"); c.Granted != 12 {
			t.Fatalf("share of the second node %d, want 12", c.Granted)
		}
		for range 40 {
			w.sync(w.request("b", 1, 0, 1<<40))
		}
		// A call that waits gets what there is, whatever the share.
		w.want("all out", figures{Granted: 100, Leased: 100}, "L1")
	})

	t.Run("a waiting call is served before shares", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 100, start))
		if c := counter(w.sync(w.request("a", 1, 90, 90)), "L1"); c.Granted != 90 {
			t.Fatalf("granted %d, want 90", c.Granted)
		}
	})

	t.Run("a second lot waits for the first (I5)", func(t *testing.T) {
		w := newWire(t, b)
		first, second := grant(w.sub, "L1", usage.Call, 100, start), grant(w.sub, "L2", usage.Call, 100, start)
		first.Expires = start.Add(time.Hour)
		apply(t, w.s, second, first)
		r := w.sync(w.request("a", 1, 10, 80))
		// A share is of all that is left, 200, so the first lot may give 80.
		if counter(r, "L1").Granted != 80 || counter(r, "L2").Granted != 0 {
			t.Fatalf("granted %+v", r.Buckets)
		}
		r = w.sync(w.request("a", 1, 130, 150))
		if counter(r, "L1").Granted != 100 || counter(r, "L2").Granted != 30+20 {
			t.Fatalf("granted %+v", r.Buckets)
		}
	})

	t.Run("a dead node's lease returns after its quarantine", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 10, start))
		from := start.Add(-time.Hour).UnixMilli()
		w.sync(w.request("dead", 1, 10, 10, quota.Counter{Lot: "L1", From: from}))
		w.sync(w.request("dead", 1, 10, 10, quota.Counter{Lot: "L1", From: from, Granted: 10, Used: 3}))
		w.clock.Advance(30*time.Second + 59*time.Second)
		if c := counter(w.sync(w.request("b", 1, 5, 5)), "L1"); c.Granted != 0 {
			t.Fatalf("%d units were given out within the quarantine", c.Granted)
		}
		w.clock.Advance(time.Second)
		if c := counter(w.sync(w.request("b", 1, 5, 5)), "L1"); c.Granted != 5 {
			t.Fatalf("granted %d after the quarantine, want 5", c.Granted)
		}
		// It was only asleep: what it used meanwhile counts, and shrinks what
		// was taken back. Beyond the lot it is overrun, never a negative rest.
		r := w.sync(w.request("dead", 1, 0, 0, quota.Counter{Lot: "L1", From: from, Granted: 10, Used: 10}))
		if c := counter(r, "L1"); c.Used != 10 || c.Returned != 0 {
			t.Fatalf("late report: %+v", c)
		}
		bal := balance(t, w.s, w.sub)
		if l := of(bal, "L1"); l.Used != 10 || l.Leased != 0 || l.Remaining != 0 || bal.Overrun[usage.Call] != 0 {
			t.Fatalf("balance %+v", bal)
		}
		w.sync(w.request("b", 1, 0, 0, quota.Counter{Lot: "L1", From: from, Granted: 5, Used: 5}))
		bal = balance(t, w.s, w.sub)
		if l := of(bal, "L1"); l.Used != 10 || bal.Overrun[usage.Call] != 5 {
			t.Fatalf("balance %+v", bal)
		}
	})

	t.Run("housekeeping takes back what no report asks for", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 10, start))
		w.sync(w.request("dead", 1, 10, 10))
		tend := &quota.TendRequest{Subscription: w.sub, Quarantine: time.Minute, Retention: time.Hour}
		if err := w.s.Tend(t.Context(), tend); err != nil {
			t.Fatal(err)
		}
		w.want("at once", figures{Granted: 10, Leased: 10}, "L1")
		w.clock.Advance(90 * time.Second)
		if err := w.s.Tend(t.Context(), tend); err != nil {
			t.Fatal(err)
		}
		w.want("after the quarantine", figures{Granted: 10, Remaining: 10}, "L1")
	})

	t.Run("a node that started again gives up its old leases", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 10, start))
		w.sync(w.request("a", 1, 10, 10))
		if c := counter(w.sync(w.request("a", 2, 4, 4)), "L1"); c.Granted != 4 {
			t.Fatalf("granted %d", c.Granted)
		}
		w.want("restarted", figures{Granted: 10, Remaining: 6, Leased: 4}, "L1")
		if r := w.sync(w.request("a", 1, 10, 10)); !r.Closed {
			t.Fatal("the dead incarnation may go on")
		}
	})

	t.Run("a jumped clock expires nothing", func(t *testing.T) {
		w := newWire(t, b)
		g := grant(w.sub, "L1", usage.Call, 10, start)
		g.Expires = start.Add(30 * time.Minute)
		apply(t, w.s, g)
		w.sync(w.request("a", 1, 1, 1))
		w.clock.Advance(time.Hour) // the store's clock jumps, the node's does not
		req := w.request("a", 1, 2, 2)
		req.Now = start.Add(time.Second).UnixMilli()
		r := w.sync(req)
		if !r.Skewed || counter(r, "L1").Granted != 2 {
			t.Fatalf("answer %+v", r)
		}
		if r = w.sync(w.request("a", 1, 3, 3)); r.Skewed || counter(r, "L1").Granted > 2 {
			t.Fatalf("answer with agreeing clocks: %+v", r)
		}
	})

	t.Run("a lost grant closes new leases until all have reported", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 100, start))
		from := start.Add(-time.Hour).UnixMilli()
		// The node has 30 that the store does not know: it was rolled back.
		r := w.sync(w.request("a", 1, 40, 40, quota.Counter{Lot: "L1", From: from, Granted: 30, Used: 5}))
		if !r.Learning || counter(r, "L1").Granted != 30 {
			t.Fatalf("answer %+v", r)
		}
		if r = w.sync(w.request("b", 1, 5, 5)); !r.Learning || counter(r, "L1").Granted != 0 {
			t.Fatalf("answer to another node %+v", r)
		}
		w.clock.Advance(30 * time.Second)
		if r = w.sync(w.request("b", 1, 5, 5)); r.Learning || counter(r, "L1").Granted != 5 {
			t.Fatalf("answer after one lease time %+v", r)
		}
	})

	t.Run("rebuilt from grants, a checkpoint and what nodes report", func(t *testing.T) {
		w := newWire(t, b)
		g := grant(w.sub, "L1", usage.Call, 100, start)
		from := g.Effective.UnixMilli()
		// Nodes report before the grant is back.
		w.sync(w.request("a", 1, 0, 0, quota.Counter{Lot: "L1", From: from, Granted: 30, Used: 20}))
		if err := w.s.Restore(t.Context(), g, []quota.Floor{{From: from, Used: 60}}, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		w.want("restored", figures{Granted: 100, Remaining: 30, Leased: 10, Used: 60}, "L1")
		if r := w.sync(w.request("b", 1, 1, 1)); !r.Learning || counter(r, "L1").Granted != 0 {
			t.Fatalf("answer while relearning %+v", r)
		}
		w.clock.Advance(30 * time.Second)
		if r := w.sync(w.request("b", 1, 30, 30)); counter(r, "L1").Granted != 30 {
			t.Fatalf("answer after relearning %+v", r)
		}
	})

	t.Run("the largest amounts are exact", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, lot.MaxAmount, start))
		from := start.Add(-time.Hour).UnixMilli()
		w.sync(w.request("a", 1, lot.MaxAmount, lot.MaxAmount))
		w.want("leased", figures{Granted: lot.MaxAmount, Leased: lot.MaxAmount}, "L1")
		w.sync(w.request("a", 1, 0, 0, quota.Counter{Lot: "L1", From: from, Granted: lot.MaxAmount, Used: lot.MaxAmount - 1}))
		w.want("used", figures{Granted: lot.MaxAmount, Leased: 1, Used: lot.MaxAmount - 1}, "L1")
	})

	t.Run("faulty requests are refused", func(t *testing.T) {
		w := newWire(t, b)
		if _, err := w.s.Sync(t.Context(), w.request("a b", 1, 1, 1)); err == nil {
			t.Error("a node name with a blank was taken")
		}
		if _, err := w.s.Sync(t.Context(), w.request("a", 0, 1, 1)); err == nil {
			t.Error("boot 0 was taken")
		}
		for _, change := range []func(*lot.Grant){
			func(g *lot.Grant) { g.Amount = lot.MaxAmount + 1 },
			func(g *lot.Grant) { g.Amount = -1 },
			func(g *lot.Grant) { g.ID = "a|b" },
			func(g *lot.Grant) { g.Version = 0 },
			func(g *lot.Grant) { g.Zone = "Mars/Olympus" },
			func(g *lot.Grant) { g.Reset = "fortnight" },
		} {
			g := grant(w.sub, "L1", usage.Call, 1, start)
			change(&g)
			if _, err := w.s.ApplyGrant(t.Context(), g); err == nil {
				t.Errorf("grant %+v was taken", g)
			}
		}
	})
}
