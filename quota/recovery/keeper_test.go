package recovery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/testkit/wait"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exhaust calls until the package is used up, and returns how many calls were
// served. A store that relearns is waited for.
func exhaust(t *testing.T, sub string, nodes ...node) (served int64) {
	t.Helper()
	for refused := 0; refused < len(nodes); {
		refused = 0
		for _, n := range nodes {
			wait.Until(t, 30*time.Second, "an answer", func(ctx context.Context) error {
				err := n.call(ctx, sub)
				switch {
				case err == nil:
					served++
				case errors.Is(err, quota.ErrExhausted):
					refused++
				default:
					return err
				}
				return nil
			})
		}
	}
	return served
}

// TestAnEmptiedStoreIsRebuiltExactly empties Redis with use of three kinds on
// it: of a node that lives, of one that lives and has nothing more to report,
// and of starts that ended, which nobody but the checkpoint knows of. The
// package must end where it would have.
func TestAnEmptiedStoreIsRebuiltExactly(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, b *bed) {
		k := b.keeper(b.store)
		must(t, k.Start(t.Context()))
		b.buy(k, "sub", "L1", 200)
		ended := b.node("ended", 1)
		for range 31 {
			must(t, ended.call(t.Context(), "sub"))
		}
		must(t, ended.Close(t.Context()))
		live, idle := b.node("live", 1), b.node("idle", 4)
		for range 20 {
			must(t, live.call(t.Context(), "sub"))
			must(t, idle.call(t.Context(), "sub"))
		}
		must(t, idle.Flush(t.Context()))
		must(t, k.Copy(t.Context()))
		for range 5 { // after the checkpoint: only the node knows
			must(t, live.call(t.Context(), "sub"))
		}
		b.flush()
		for _, n := range []node{live, idle} {
			n.Suspect(true)
		}
		if err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := k.State(); !st.Whole || st.Rebuilds != 1 || st.Last.MissingLots != 1 || st.LastReason == "" {
			t.Errorf("state %+v", st)
		}
		for _, n := range []node{live, idle} {
			n.Suspect(false)
			must(t, n.Announce(t.Context()))
		}
		if l := b.lot("sub", "L1"); l.Used != 31+45 || l.Granted != 200 {
			t.Fatalf("used %d of %d, want 76 of 200", l.Used, l.Granted)
		}
		if n := exhaust(t, "sub", live, idle); n != 200-76 {
			t.Errorf("%d calls were served after the rebuild, want %d", n, 200-76)
		}
		must(t, live.Flush(t.Context()))
		must(t, idle.Flush(t.Context()))
		if l := b.lot("sub", "L1"); l.Used != 200 || l.Remaining != 0 {
			t.Errorf("in the end %+v", l)
		}
		if d, err := b.store.Audit(t.Context(), "sub"); err != nil || len(d) > 0 {
			t.Errorf("audit %+v, %v", d, err)
		}
	})
}

// TestALotThatIsOverStaysOnTheBooks: what was used of an expired lot is shown
// after a rebuild as before.
func TestALotThatIsOverStaysOnTheBooks(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, b *bed) {
		k := b.keeper(b.store)
		must(t, k.Start(t.Context()))
		b.buy(k, "sub", "L1", 10)
		n := b.node("a", 1)
		for range 4 {
			must(t, n.call(t.Context(), "sub"))
		}
		must(t, n.Close(t.Context()))
		over := b.lots[0].Grant
		over.Version, over.Expires = 2, time.Now().Add(-time.Minute).Truncate(time.Millisecond)
		b.lots[0].Grant = over
		_, err := b.store.ApplyGrant(t.Context(), over)
		must(t, err)
		must(t, k.Granted(t.Context()))
		must(t, k.Copy(t.Context()))
		before := b.lot("sub", "L1")
		b.flush()
		must(t, k.look(t.Context()))
		if after := b.lot("sub", "L1"); after.Used != 4 || after.Granted != 10 || after.Lapsed != before.Lapsed || after.State != before.State {
			t.Errorf("before %+v, after %+v", before, after)
		}
	})
}

// TestAStoreThatWasPutBackGetsItsPurchase: the lot of a purchase is missing and
// the mark is lower; the server's name is the same.
func TestAStoreThatWasPutBackGetsItsPurchase(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, b *bed) {
		k := b.keeper(b.store)
		must(t, k.Start(t.Context()))
		b.buy(k, "sub", "L1", 10)
		before := b.mark()
		b.buy(k, "sub2", "L2", 10)
		if b.mark() <= before {
			t.Fatalf("the mark stayed at %d over a purchase", before)
		}
		c := b.redis.Client()
		must(t, c.Del(t.Context(), "tollgate:{sub2}:l", "tollgate:{sub2}:g", "tollgate:{sub2}:m").Err())
		must(t, c.Set(t.Context(), "tollgate:mark", before, 0).Err())
		must(t, k.look(t.Context()))
		if l := b.lot("sub2", "L2"); l.Granted != 10 {
			t.Errorf("the lot is not back: %+v", l)
		}
		if st := k.State(); st.Last.Short != 1 || st.Last.Subscriptions != 2 || st.LastReason != "the store was put back to an earlier state" {
			t.Errorf("state %+v", st)
		}
	})
}

// TestAWholeStoreIsLeftAlone: neither a start nor another look changes a mark
// that is right, which would stop every gateway for a moment; a server that was
// started again is compared and raised.
func TestAWholeStoreIsLeftAlone(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, b *bed) {
		k := b.keeper(b.store)
		must(t, k.Start(t.Context()))
		b.buy(k, "sub", "L1", 10)
		mark := b.mark()
		second := b.keeper(b.store)
		must(t, second.Start(t.Context()))
		must(t, k.look(t.Context()))
		if b.mark() != mark || second.State().Rebuilds != 0 || !second.State().Whole {
			t.Fatalf("mark %d became %d, state %+v", mark, b.mark(), second.State())
		}
		b.redis.Stop()
		b.redis.Restart()
		must(t, k.look(t.Context()))
		if st := k.State(); !st.Whole || st.Rebuilds != 0 || b.mark() <= mark {
			t.Errorf("after a restart that lost nothing: mark %d, before %d, state %+v", b.mark(), mark, st)
		}
		must(t, second.look(t.Context()))
		if st := second.State(); !st.Whole || b.mark() > mark+1 {
			t.Errorf("the other process did it again: mark %d, before %d, state %+v", b.mark(), mark, st)
		}
	})
}

var errKilled = errors.New("killed")

// failing is a store that fails from the n-th restoration on.
type failing struct {
	Store
	left int
}

func (f *failing) Restore(ctx context.Context, g lot.Grant, floor []quota.Floor, learn time.Duration) error {
	if f.left--; f.left < 0 {
		return errKilled
	}
	return f.Store.Restore(ctx, g, floor, learn)
}

// TestARebuildThatDiesHalfWayIsDoneAgain: until it is, the mark says so.
func TestARebuildThatDiesHalfWayIsDoneAgain(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, b *bed) {
		k := b.keeper(b.store)
		must(t, k.Start(t.Context()))
		for i := range 6 {
			b.buy(k, fmt.Sprintf("sub%d", i), fmt.Sprintf("L%d", i), 10)
		}
		b.flush()
		if err := b.keeper(&failing{b.store, 3}).Start(t.Context()); !errors.Is(err, errKilled) {
			t.Fatalf("a rebuild whose store dies: %v", err)
		}
		if b.mark() >= 0 {
			t.Fatalf("the mark is %d half-way", b.mark())
		}
		// A process that was killed could not give up its claim.
		now := time.Now()
		_, err := book{b.db}.claim(t.Context(), "killed", now, now.Add(claimFor))
		must(t, err)
		clock := now
		next := b.keeper(b.store, func(o *Options) { o.Now = func() time.Time { return clock } })
		must(t, next.Start(t.Context())) // which leaves it to whoever has the claim
		if err := next.look(t.Context()); !errors.Is(err, ErrBusy) || next.State().Whole {
			t.Fatalf("while another process rebuilds: %v, %+v", err, next.State())
		}
		clock = now.Add(claimFor)
		must(t, next.look(t.Context()))
		if !next.State().Whole || b.mark() <= 0 {
			t.Fatalf("mark %d, state %+v", b.mark(), next.State())
		}
		for i := range 6 {
			if l := b.lot(fmt.Sprintf("sub%d", i), fmt.Sprintf("L%d", i)); l.Granted != 10 {
				t.Errorf("lot %d: %+v", i, l)
			}
		}
	})
}

// emptying is a store that is emptied once more before a rebuild ends.
type emptying struct {
	Store
	once sync.Once
	do   func()
}

func (e *emptying) SetMark(ctx context.Context, from, to int64) (bool, error) {
	if from < 0 {
		e.once.Do(e.do)
	}
	return e.Store.SetMark(ctx, from, to)
}

// TestALossDuringTheRebuildIsNoticed: the mark of the first rebuild is not put
// on a store that does not have what it restored.
func TestALossDuringTheRebuildIsNoticed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, b *bed) {
		k := b.keeper(&emptying{Store: b.store, do: b.flush})
		b.sell(lot.Grant{ID: "L1", Subscription: "sub", Unit: usage.Call, Amount: 10, Effective: time.Now().Truncate(time.Millisecond), Version: 1}, true)
		if err := k.Start(t.Context()); err == nil || b.mark() > 0 {
			t.Fatalf("start: %v, mark %d", err, b.mark())
		}
		must(t, k.look(t.Context()))
		if l := b.lot("sub", "L1"); l.Granted != 10 || b.mark() <= 0 {
			t.Errorf("mark %d, lot %+v", b.mark(), l)
		}
	})
}

// TestAPurchaseRacesWithTheLoss: the store forgets a lot after it took it and
// before its mark is raised, with a rebuild before and after.
func TestAPurchaseRacesWithTheLoss(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, b *bed) {
		k := b.keeper(b.store)
		must(t, k.Start(t.Context()))
		b.buy(k, "sub", "L1", 10)
		g := b.sell(lot.Grant{ID: "L2", Subscription: "sub", Unit: usage.Call, Amount: 10, Effective: time.Now().Truncate(time.Millisecond), Version: 1}, false)
		_, err := b.store.ApplyGrant(t.Context(), g)
		must(t, err)
		b.flush()
		must(t, k.Granted(t.Context())) // must not put the mark back
		if b.mark() != 0 {
			t.Fatalf("mark %d on an empty store", b.mark())
		}
		must(t, k.look(t.Context()))
		for _, id := range []string{"L1", "L2"} {
			if l := b.lot("sub", id); l.Granted != 10 {
				t.Errorf("lot %s: %+v", id, l)
			}
		}
		b.buy(k, "sub", "L3", 10)
		must(t, k.look(t.Context()))
		if st := k.State(); !st.Whole || b.mark() != st.Generation {
			t.Errorf("mark %d, state %+v", b.mark(), st)
		}
	})
}

// TestTwoProcessesRebuildOnce: both run all the time, under purchases; each
// loss is made up for, and nothing is restored twice.
func TestTwoProcessesRebuildOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, b *bed) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		fast := func(o *Options) { o.Every, o.CheckpointEvery = 10*time.Millisecond, 20*time.Millisecond }
		keepers := []*Keeper{b.keeper(b.store, fast), b.keeper(b.store, fast)}
		for _, k := range keepers {
			wg.Go(func() { k.Run(ctx) })
		}
		whole := func(ctx context.Context) error {
			for _, k := range keepers {
				if st := k.State(); !st.Whole || b.mark() != st.Generation {
					return fmt.Errorf("mark %d, state %+v", b.mark(), st)
				}
			}
			return nil
		}
		wait.Until(t, 20*time.Second, "both see a whole store", whole)
		n := b.node("a", 1)
		for i := range 5 {
			b.buy(keepers[i%2], "sub", fmt.Sprintf("L%d", i), 3)
			must(t, keepers[0].Copy(t.Context()))
			b.flush()
			wait.Until(t, 20*time.Second, "the lots are back", func(ctx context.Context) error {
				for j := range i + 1 {
					if l := b.lot("sub", fmt.Sprintf("L%d", j)); l.Granted != 3 {
						return fmt.Errorf("lot %d: %+v", j, l)
					}
				}
				return whole(ctx)
			})
		}
		if served := exhaust(t, "sub", n); served != 15 {
			t.Errorf("%d calls were served of 15 bought", served)
		}
	})
}
