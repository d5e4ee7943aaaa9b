package quotatest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tollgate/internal/usage"
	"tollgate/quota"
)

func testWitness(t *testing.T, b Backend) {
	t.Run("the mark is put back by nobody who does not know it", func(t *testing.T) {
		s := b.Open(t, NewClock(start).Now)
		for _, step := range []struct {
			what     string
			from, to int64
			done     bool
			mark     int64
		}{
			{"a grant, told to a store that is empty", 4, 5, false, 0},
			{"a rebuild begins", 0, -6, true, -6},
			{"a grant meanwhile", 4, 7, false, -6},
			{"another rebuild's end", -5, 5, false, -6},
			{"the rebuild's end", -6, 6, true, 6},
			{"the same again", -6, 6, false, 6},
			{"a grant", 6, 8, true, 8},
			{"an earlier one, late", 6, 7, true, 8},
			{"one by a process that saw more", 9, 10, false, 8},
		} {
			done, err := s.SetMark(t.Context(), step.from, step.to)
			if err != nil || done != step.done {
				t.Fatalf("%s: %v, %v, want %v", step.what, done, err, step.done)
			}
			if m, err := s.Mark(t.Context()); err != nil || m.Generation != step.mark || m.Server == "" {
				t.Fatalf("%s: %+v, %v, want %d", step.what, m, err, step.mark)
			}
		}
	})

	t.Run("a checkpoint tells all that was done", func(t *testing.T) {
		w := newWire(t, b)
		apply(t, w.s, grant(w.sub, "L1", usage.Call, 1000, start))
		from := start.Add(-time.Hour).UnixMilli()
		w.sync(w.request("a", 1, 40, 40))
		req := w.request("a", 2, 30, 30, quota.Counter{Lot: "L1", From: from, Granted: 20, Used: 7, Returned: 3})
		req.Overrun[usage.Call] = 5
		w.sync(req)
		cp, err := w.s.Checkpoint(t.Context(), w.sub)
		if err != nil {
			t.Fatal(err)
		}
		want := quota.Checkpoint{
			Subscription: w.sub, Lots: map[string]int64{"L1": 1}, Folded: map[string]uint64{},
			Incarnations: []quota.IncarnationState{
				{
					Incarnation: quota.Incarnation{Node: "a", Boot: 1}, Final: true,
					Counters: []quota.Counter{{Lot: "L1", From: from, Granted: 40, Returned: 40}},
				},
				{
					Incarnation: quota.Incarnation{Node: "a", Boot: 2}, Overrun: usage.Units{usage.Call: 5},
					Counters: []quota.Counter{{Lot: "L1", From: from, Granted: 20, Used: 7, Returned: 3}},
				},
			},
		}
		if diff := gocmp.Diff(want, cp); diff != "" {
			t.Fatalf("checkpoint (-want +got):\n%s", diff)
		}
	})

	t.Run("a suspect store is asked for nothing, and not believed", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		g := grant(sub, "L1", usage.Call, 100, time.Now())
		apply(t, s, g)
		whole := false
		n := engine(t, s, "a", nil, func(c *quota.Config) {
			c.Whole = func(context.Context) bool { return whole }
		})
		if err := n.call(t.Context(), sub, time.Now()); err != nil {
			t.Fatal(err)
		}
		n.Suspect(true)
		if err := n.Announce(t.Context()); err != nil { // what a change of the verdict sets off, to its end
			t.Fatal(err)
		}
		if err := n.call(t.Context(), "other", time.Now()); !errors.Is(err, quota.ErrUnavailable) {
			t.Fatalf("a subscription without a lease: %v, want ErrUnavailable", err)
		}
		before := balance(t, s, sub).Lots[0]
		held := before.Used + before.Leased // by this node: it may be sold
		for range held - 1 {
			if err := n.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatalf("a call that the lease covers: %v", err)
			}
		}
		if err := n.call(t.Context(), sub, time.Now()); !errors.Is(err, quota.ErrUnavailable) {
			t.Fatalf("a call beyond the lease: %v, want ErrUnavailable", err)
		}
		if after := balance(t, s, sub, n).Lots[0]; after.Used+after.Leased > held {
			t.Fatalf("%d units were leased from a suspect store", after.Used+after.Leased-held)
		}
		// Believed or not, what there is can be sold; that there is nothing
		// must be believed.
		n.Suspect(false)
		for left := 100 - held; left > 0; left-- {
			if err := n.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.call(t.Context(), sub, time.Now()); !errors.Is(err, quota.ErrUnavailable) {
			t.Fatalf("nothing is left, says a store that is not whole: %v, want ErrUnavailable", err)
		}
		whole = true
		if err := n.call(t.Context(), sub, time.Now()); !errors.Is(err, quota.ErrExhausted) {
			t.Fatalf("nothing is left, says a store that is whole: %v, want ErrExhausted", err)
		}
	})

	t.Run("a lease outlives the emptying of its store", func(t *testing.T) {
		first, second, sub := b.Open(t, nil), b.Open(t, nil), subscription(t)
		g := grant(sub, "L1", usage.Call, 100, time.Now())
		apply(t, first, g)
		both := &switched{Store: first}
		n := engine(t, both, "a", nil)
		call := func(when string) {
			t.Helper()
			if err := n.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		for range 3 {
			call("before")
		}
		held := balance(t, first, sub, n).Lots[0].Leased
		if held < 4 {
			t.Fatalf("%d units are leased", held)
		}
		both.other.Store(&second)
		for _, told := range []bool{false, true} { // the report that meets the empty store may come first
			n.Suspect(told)
			if err := n.Announce(t.Context()); err != nil {
				t.Fatal(err)
			}
			call("emptied")
		}
		apply(t, second, g)
		n.Suspect(false)
		if err := n.Announce(t.Context()); err != nil {
			t.Fatal(err)
		}
		call("rebuilt")
		if l := balance(t, second, sub, n).Lots[0]; l.Used != 6 || l.Used+l.Leased > 3+held {
			t.Fatalf("after the rebuild: %+v, with %d leased before", l, held)
		}
	})

	t.Run("an idle node tells an emptied store what it used", func(t *testing.T) {
		// Two stores: the second is the first one, emptied.
		first, second, sub := b.Open(t, nil), b.Open(t, nil), subscription(t)
		g := grant(sub, "L1", usage.Call, 7, time.Now())
		apply(t, first, g)
		both := &switched{Store: first}
		n := engine(t, both, "a", nil)
		for range 7 {
			if err := n.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		// All of it is reported, and no unit is here any more.
		if l := balance(t, first, sub, n).Lots[0]; l.Used != 7 || l.Leased != 0 {
			t.Fatalf("%+v", l)
		}
		both.other.Store(&second)
		if err := n.Announce(t.Context()); err != nil {
			t.Fatal(err)
		}
		apply(t, second, g)
		if l := balance(t, second, sub).Lots[0]; l.Used != 7 {
			t.Fatalf("used %d, want the 7 of a node that had nothing more to report", l.Used)
		}
	})
}

// switched is a store whose reports go to another one from some time on.
type switched struct {
	quota.Store
	other atomic.Pointer[quota.Store]
}

func (s *switched) Sync(ctx context.Context, req *quota.SyncRequest) (*quota.SyncReply, error) {
	if o := s.other.Load(); o != nil {
		return (*o).Sync(ctx, req)
	}
	return s.Store.Sync(ctx, req)
}
