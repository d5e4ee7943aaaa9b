package quotatest

import (
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

func testGrants(t *testing.T, b Backend) {
	t.Run("a version is applied once and never after a newer one", func(t *testing.T) {
		w := newWire(t, b)
		g := grant(w.sub, "L1", usage.Call, 100, start)
		g.Version = 2
		apply(t, w.s, g)
		for _, older := range []int64{1, 2} {
			g := g
			g.Version, g.Amount = older, 7
			if applied, err := w.s.ApplyGrant(t.Context(), g); err != nil || applied {
				t.Fatalf("version %d: %v, %v", older, applied, err)
			}
		}
		w.want("unchanged", figures{Granted: 100, Remaining: 100}, "L1")
		g.Version, g.Amount = 3, 150
		apply(t, w.s, g)
		w.want("topped up", figures{Granted: 150, Remaining: 150}, "L1")
	})

	t.Run("a top-up reaches a lot in use", func(t *testing.T) {
		w := newWire(t, b)
		g := grant(w.sub, "L1", usage.Call, 10, start)
		apply(t, w.s, g)
		w.sync(w.request("a", 1, 10, 10))
		g.Version, g.Amount = 2, 25
		apply(t, w.s, g)
		w.want("topped up", figures{Granted: 25, Remaining: 15, Leased: 10}, "L1")
	})

	t.Run("a cut leaves what is used", func(t *testing.T) {
		w := newWire(t, b)
		g := grant(w.sub, "L1", usage.Call, 100, start)
		apply(t, w.s, g)
		from := g.Effective.UnixMilli()
		w.sync(w.request("a", 1, 100, 100))
		w.sync(w.request("a", 1, 0, 0, quota.Counter{Lot: "L1", From: from, Granted: 100, Used: 80, Returned: 20}))
		g.Version, g.Amount = 2, 50
		apply(t, w.s, g)
		w.want("cut", figures{Granted: 80, Used: 80}, "L1")
		if c := counter(w.sync(w.request("b", 1, 1, 1)), "L1"); c.Granted != 0 {
			t.Fatalf("granted %d from a cut lot", c.Granted)
		}
	})

	t.Run("a void lot gives nothing more", func(t *testing.T) {
		w := newWire(t, b)
		g := grant(w.sub, "L1", usage.Call, 100, start)
		apply(t, w.s, g)
		w.sync(w.request("a", 1, 10, 10))
		g.Version, g.Void = 2, true
		apply(t, w.s, g)
		if r := w.sync(w.request("b", 1, 1, 1)); counter(r, "L1").Granted != 0 || !r.Known[usage.Call] {
			t.Fatalf("answer %+v", r)
		}
		w.want("void", figures{Granted: 100, Leased: 10, Lapsed: 90}, "L1")
		bal := balance(t, w.s, w.sub)
		if bal.Lots[0].State != "void" {
			t.Fatalf("state %s", bal.Lots[0].State)
		}
	})

	t.Run("order of draw-down (PKG-20)", func(t *testing.T) {
		w := newWire(t, b)
		mk := func(id string, change func(*lot.Grant)) lot.Grant {
			g := grant(w.sub, id, usage.Call, 10, start)
			change(&g)
			return g
		}
		// In the order in which they must be drawn.
		grants := []lot.Grant{
			mk("Z-zero-price", func(g *lot.Grant) { g.ZeroPrice = true }),
			mk("Y-resets-in-40m", func(g *lot.Grant) { g.Reset = lot.Hour; g.Effective = start.Add(-20 * time.Minute) }),
			mk("X-expires-in-2h", func(g *lot.Grant) { g.Expires = start.Add(2 * time.Hour) }),
			mk("W-expires-in-3h-older", func(g *lot.Grant) {
				g.Expires = start.Add(3 * time.Hour)
				g.Effective = start.Add(-3 * time.Hour)
			}),
			mk("U-expires-in-3h", func(g *lot.Grant) { g.Expires = start.Add(3 * time.Hour) }),
			mk("V-expires-in-3h-later-id", func(g *lot.Grant) { g.Expires = start.Add(3 * time.Hour) }),
			mk("B-never", func(g *lot.Grant) {}),
			mk("A-credit", func(g *lot.Grant) { g.Overflow = true; g.Expires = start.Add(time.Minute) }),
		}
		for i := range grants { // applied in another order
			apply(t, w.s, grants[(i*3+5)%len(grants)])
		}
		var want, got []string
		for _, g := range grants {
			want = append(want, g.ID)
		}
		taken := map[string]int64{}
		for n := int64(1); n <= 80; n++ {
			for _, bk := range w.sync(w.request("a", 1, n, n)).Buckets {
				if bk.Granted > taken[bk.Lot] {
					if taken[bk.Lot] == 0 {
						got = append(got, bk.Lot)
					}
					taken[bk.Lot] = bk.Granted
				}
			}
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatalf("order (-want +got):\n%s", diff)
		}
	})

	t.Run("states (PKG-25)", func(t *testing.T) {
		w := newWire(t, b)
		pending, gone := grant(w.sub, "L1", usage.Call, 5, start), grant(w.sub, "L2", usage.Call, 5, start)
		pending.Effective = start.Add(time.Hour)
		gone.Expires = start.Add(-time.Minute)
		used := grant(w.sub, "L3", usage.Call, 5, start)
		apply(t, w.s, pending, gone, used)
		state := func() map[string]string {
			m := map[string]string{}
			for _, l := range balance(t, w.s, w.sub).Lots {
				m[l.ID] = l.State
			}
			return m
		}
		if diff := gocmp.Diff(map[string]string{"L1": "pending", "L2": "expired", "L3": "active"}, state()); diff != "" {
			t.Fatal(diff)
		}
		w.sync(w.request("a", 1, 5, 5))
		w.sync(w.request("a", 1, 0, 0, quota.Counter{Lot: "L3", From: used.Effective.UnixMilli(), Granted: 5, Used: 5}))
		w.clock.Advance(time.Hour)
		if diff := gocmp.Diff(map[string]string{"L1": "active", "L2": "expired", "L3": "exhausted"}, state()); diff != "" {
			t.Fatal(diff)
		}
		w.want("pending began", figures{Granted: 5, Remaining: 5}, "L1")
		w.want("expired", figures{Granted: 5, Lapsed: 5}, "L2")
	})

	t.Run("folding keeps every figure", func(t *testing.T) {
		w := newWire(t, b)
		g := grant(w.sub, "L1", usage.Call, 10, start)
		g.Reset = lot.Hour
		apply(t, w.s, g)
		from := g.Effective.UnixMilli()
		for boot := uint64(1); boot <= 5; boot++ {
			now := w.clock.Now().UnixMilli()
			p := quota.PeriodAt(&g, now)
			w.sync(w.request("a", boot, 4, 4))
			w.sync(w.request("a", boot, 0, 0, quota.Counter{Lot: "L1", From: p.From, Granted: 4, Used: 3}))
			req := w.request("a", boot, 0, 0)
			err := w.s.CloseIncarnation(t.Context(), &quota.CloseRequest{Subscription: w.sub, Incarnation: req.Incarnation, Final: true, Overrun: usage.Units{usage.Call: 2}})
			if err != nil {
				t.Fatal(err)
			}
			w.clock.Advance(time.Hour)
		}
		before := balance(t, w.s, w.sub)
		w.clock.Advance(50 * time.Minute)
		if err := w.s.Tend(t.Context(), &quota.TendRequest{Subscription: w.sub, Quarantine: time.Minute, Retention: 2 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		report, err := w.s.Report(t.Context(), w.sub)
		if err != nil {
			t.Fatal(err)
		}
		if len(report) >= 5 {
			t.Fatalf("nothing was folded: %+v", report)
		}
		after := balance(t, w.s, w.sub)
		before.AsOf, after.AsOf = time.Time{}, time.Time{}
		if diff := gocmp.Diff(before, after); diff != "" {
			t.Fatalf("figures changed (-before +after):\n%s", diff)
		}
		// What was folded does not count twice, however late it is repeated.
		w.sync(w.request("a", 1, 0, 0, quota.Counter{Lot: "L1", From: from, Granted: 4, Used: 3}))
		again := balance(t, w.s, w.sub)
		if of(again, "L1").Used != of(after, "L1").Used {
			t.Fatalf("a folded report counted again: %+v", of(again, "L1"))
		}
	})

	t.Run("subscriptions are paged in order", func(t *testing.T) {
		s := b.Open(t, nil)
		ids := []string{"s1", "s2", "s3", "s4", "s5"}
		for _, id := range []string{"s3", "s1", "s5", "s2", "s4"} {
			apply(t, s, grant(id, "L-"+id, usage.Call, 1, time.Now()))
		}
		var got []string
		for after := ""; ; {
			page, err := s.Subscriptions(t.Context(), after, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
			after = page[len(page)-1]
		}
		if diff := gocmp.Diff(ids, got); diff != "" {
			t.Fatal(diff)
		}
	})
}
