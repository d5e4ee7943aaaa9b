package quotatest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tollgate/internal/usage"
	"tollgate/quota"
)

// race makes n calls on each node at once, some in parallel, and returns how
// many were charged. An error other than a refusal fails the test.
func race(t *testing.T, sub string, parallel, each int, nodes ...*node) int64 {
	t.Helper()
	var ok atomic.Int64
	var wg sync.WaitGroup
	for _, n := range nodes {
		for range parallel {
			wg.Go(func() {
				for range each {
					err := n.call(context.Background(), sub, time.Now())
					switch {
					case err == nil:
						ok.Add(1)
					case !errors.Is(err, quota.ErrExhausted):
						t.Errorf("call: %v", err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	return ok.Load()
}

func testAdmission(t *testing.T, b Backend) {
	t.Run("no package", func(t *testing.T) {
		s := b.Open(t, nil)
		n := engine(t, s, "a", nil)
		if err := n.call(t.Context(), "nobody", time.Now()); !errors.Is(err, quota.ErrNoPackage) {
			t.Fatalf("error %v, want ErrNoPackage", err)
		}
	})

	t.Run("exactly N calls succeed at any concurrency (PKG-22)", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 5000, time.Now()))
		n := engine(t, s, "a", nil)
		if got := race(t, sub, 64, 10_000/64, n); got != 5000 {
			t.Errorf("%d calls succeeded, want 5000", got)
		}
		bal := balance(t, s, sub, n)
		if diff := gocmp.Diff(figures{Granted: 5000, Used: 5000}, of(bal, "L1")); diff != "" {
			t.Error(diff)
		}
		if n.charged("L1") != 5000 || bal.Overrun[usage.Call] != 0 {
			t.Errorf("records charge %d, overrun %d", n.charged("L1"), bal.Overrun[usage.Call])
		}
	})

	t.Run("stacked packages are drawn down in order", func(t *testing.T) {
		s, sub, now := b.Open(t, nil), subscription(t), time.Now()
		first, second, credit := grant(sub, "L1", usage.Call, 30, now), grant(sub, "L2", usage.Call, 40, now), grant(sub, "L3", usage.Call, 50, now)
		second.Expires, first.Expires = now.Add(48*time.Hour), now.Add(24*time.Hour)
		credit.Overflow = true
		apply(t, s, credit, second, first)
		n := engine(t, s, "a", nil)
		for i := range 120 {
			if err := n.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
			want := "L1"
			if i >= 30 {
				want = "L2"
			}
			if i >= 70 {
				want = "L3"
			}
			if c := n.records[i].Charges; len(c) != 1 || c[0].Lot != want || c[0].Amount != 1 {
				t.Fatalf("call %d was charged %+v, want 1 of %s (PKG-21)", i, c, want)
			}
		}
		if err := n.call(t.Context(), sub, time.Now()); !errors.Is(err, quota.ErrExhausted) {
			t.Fatalf("error %v, want ErrExhausted", err)
		}
	})

	t.Run("a package bought in between is drawn first when it comes first", func(t *testing.T) {
		s, sub, now := b.Open(t, nil), subscription(t), time.Now()
		apply(t, s, grant(sub, "L1", usage.Call, 100, now))
		n := engine(t, s, "a", nil)
		if err := n.call(t.Context(), sub, time.Now()); err != nil {
			t.Fatal(err)
		}
		free := grant(sub, "L2", usage.Call, 3, now)
		free.ZeroPrice = true
		apply(t, s, free)
		n.Notify(sub)
		for range 4 {
			if err := n.call(t.Context(), sub, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if n.charged("L1") != 2 || n.charged("L2") != 3 {
			t.Fatalf("charged %d and %d, want 2 and 3", n.charged("L1"), n.charged("L2"))
		}
	})

	t.Run("tokens split over lots, then overrun", func(t *testing.T) {
		s, sub, now := b.Open(t, nil), subscription(t), time.Now()
		first := grant(sub, "L1", usage.Token, 100, now)
		first.Expires = now.Add(time.Hour)
		apply(t, s, first, grant(sub, "L2", usage.Token, 50, now))
		n := engine(t, s, "a", nil)
		rec := n.use(t, sub, 40, 30, now)
		if diff := gocmp.Diff([]usage.Charge{{Lot: "L1", Unit: usage.Token, Amount: 30, Bucket: first.Effective.UnixMilli()}}, rec.Charges); diff != "" {
			t.Fatal(diff)
		}
		rec = n.use(t, sub, 10, 90, now) // more than was held
		if len(rec.Charges) != 2 || rec.Charges[0].Amount != 70 || rec.Charges[1].Amount != 20 || rec.Overrun[usage.Token] != 0 {
			t.Fatalf("charges %+v, overrun %d", rec.Charges, rec.Overrun[usage.Token])
		}
		rec = n.use(t, sub, 10, 45, now)
		if rec.Charged(usage.Token) != 30 || rec.Overrun[usage.Token] != 15 {
			t.Fatalf("charges %+v, overrun %d, want 30 and 15", rec.Charges, rec.Overrun[usage.Token])
		}
		bal := balance(t, s, sub, n)
		if of(bal, "L1").Used != 100 || of(bal, "L2").Used != 50 || bal.Overrun[usage.Token] != 15 {
			t.Fatalf("balance %+v", bal)
		}
	})

	t.Run("less than the estimate is held, nothing is refused", func(t *testing.T) {
		s, sub, now := b.Open(t, nil), subscription(t), time.Now()
		apply(t, s, grant(sub, "L1", usage.Token, 100, now))
		n := engine(t, s, "a", nil)
		h, err := n.Admit(t.Context(), sub, tokens, usage.Units{usage.Token: 5000}, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.Held(usage.Token); got != 100 {
			t.Fatalf("held %d, want the 100 that are left", got)
		}
		// What is held may come back: that is another thing than used up.
		if err := h.Extend(usage.Units{usage.Token: 1}); !errors.Is(err, quota.ErrHeld) {
			t.Fatalf("extend: %v, want ErrHeld", err)
		}
		if _, err := n.Admit(t.Context(), sub, tokens, usage.Units{}, now); !errors.Is(err, quota.ErrHeld) {
			t.Fatalf("a call while all is held: %v, want ErrHeld", err)
		}
		h.Release()
		h, err = n.Admit(t.Context(), sub, tokens, usage.Units{usage.Token: 40}, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Extend(usage.Units{usage.Token: 100}); err != nil || h.Held(usage.Token) != 100 {
			t.Fatalf("extend: %v, held %d, want the 100 there are", err, h.Held(usage.Token))
		}
		rec := usage.Record{Units: usage.Units{usage.Token: 100, usage.Call: 1}}
		if err := h.Settle(&rec); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Admit(t.Context(), sub, tokens, usage.Units{}, now.Add(time.Second)); !errors.Is(err, quota.ErrExhausted) {
			t.Fatalf("a call on a used-up package: %v, want ErrExhausted", err)
		}
	})

	t.Run("several units are held together or not at all", func(t *testing.T) {
		s, sub, now := b.Open(t, nil), subscription(t), time.Now()
		apply(t, s, grant(sub, "L1", usage.InputToken, 100, now), grant(sub, "L2", usage.OutputToken, 10, now))
		n := engine(t, s, "a", nil)
		both := []usage.Unit{usage.InputToken, usage.OutputToken}
		h, err := n.Admit(t.Context(), sub, both, usage.Units{usage.InputToken: 20, usage.OutputToken: 10}, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Admit(t.Context(), sub, both, usage.Units{usage.InputToken: 1, usage.OutputToken: 1}, now); !errors.Is(err, quota.ErrHeld) {
			t.Fatalf("error %v, want ErrHeld: the output tokens that are left are held", err)
		}
		rec := usage.Record{Units: usage.Units{usage.InputToken: 15, usage.OutputToken: 4, usage.Call: 1}}
		if err := h.Settle(&rec); err != nil {
			t.Fatal(err)
		}
		bal := balance(t, s, sub, n)
		if of(bal, "L1").Used != 15 || of(bal, "L2").Used != 4 || len(rec.Charges) != 2 {
			t.Fatalf("balance %+v, charges %+v", bal, rec.Charges)
		}
	})

	t.Run("a hold is resolved once", func(t *testing.T) {
		s, sub, now := b.Open(t, nil), subscription(t), time.Now()
		apply(t, s, grant(sub, "L1", usage.Call, 100, now))
		n := engine(t, s, "a", nil)
		for range 20 {
			h, err := n.Admit(t.Context(), sub, calls, one, now)
			if err != nil {
				t.Fatal(err)
			}
			var settled atomic.Int64
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					if i%2 == 0 {
						h.Release()
					} else if err := h.Settle(&usage.Record{Units: one}); err == nil {
						settled.Add(1)
					} else if !errors.Is(err, quota.ErrResolved) {
						t.Errorf("settle: %v", err)
					}
				})
			}
			wg.Wait()
			if settled.Load() > 1 {
				t.Fatalf("%d settlements took effect", settled.Load())
			}
		}
		bal := balance(t, s, sub, n)
		if got := of(bal, "L1"); got.Used != int64(len(n.records)) || got.Used != n.charged("L1") {
			t.Fatalf("used %d, %d records", got.Used, len(n.records))
		}
	})

	t.Run("what cannot be recorded is not charged", func(t *testing.T) {
		s, sub, now := b.Open(t, nil), subscription(t), time.Now()
		apply(t, s, grant(sub, "L1", usage.Call, 1, now))
		n := engine(t, s, "a", nil)
		n.fail = errors.New("disk full")
		if err := n.call(t.Context(), sub, now); !errors.Is(err, n.fail) {
			t.Fatalf("error %v, want the recorder's", err)
		}
		n.fail = nil
		if err := n.call(t.Context(), sub, now); err != nil {
			t.Fatalf("the unit did not come back: %v", err)
		}
		if got := of(balance(t, s, sub, n), "L1"); got.Used != 1 {
			t.Fatalf("balance %+v", got)
		}
	})

	t.Run("what is released can be sold again", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 10, time.Now()))
		n := engine(t, s, "a", nil)
		for range 200 { // PKG-23: the upstream failed
			h, err := n.Admit(t.Context(), sub, calls, one, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			h.Release()
		}
		if got := race(t, sub, 4, 10, n); got != 10 {
			t.Fatalf("%d calls succeeded, want 10", got)
		}
	})

	t.Run("buying while refused restores service at once (PKG-27)", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 1, time.Now()))
		near, far := engine(t, s, "near", nil), engine(t, s, "far", nil)
		race(t, sub, 2, 5, near, far)
		apply(t, s, grant(sub, "L2", usage.Call, 1000, time.Now()))
		near.Notify(sub)
		if err := near.call(t.Context(), sub, time.Now()); err != nil {
			t.Fatalf("on the node that sold it: %v", err)
		}
		began := time.Now()
		eventually(t, func() string {
			if err := far.call(t.Context(), sub, time.Now()); err != nil {
				return err.Error()
			}
			return ""
		})
		if took := time.Since(began); took > time.Second {
			t.Fatalf("the other node served after %s, want well within 5s", took)
		}
	})

	t.Run("closing returns everything", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 1000, time.Now()))
		n := engine(t, s, "a", nil)
		race(t, sub, 4, 25, n)
		if err := n.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(figures{Granted: 1000, Remaining: 900, Used: 100}, of(balance(t, s, sub), "L1")); diff != "" {
			t.Fatal(diff)
		}
		if _, err := n.Admit(t.Context(), sub, calls, one, time.Now()); !errors.Is(err, quota.ErrClosed) {
			t.Fatalf("error %v, want ErrClosed", err)
		}
	})

	t.Run("idle units go back by themselves", func(t *testing.T) {
		s, sub := b.Open(t, nil), subscription(t)
		apply(t, s, grant(sub, "L1", usage.Call, 1000, time.Now()))
		n := engine(t, s, "a", nil, func(c *quota.Config) {
			c.IdleAfter, c.FlushEvery = 50*time.Millisecond, 10*time.Millisecond
		})
		race(t, sub, 1, 10, n)
		eventually(t, func() string {
			b, err := s.Read(context.Background(), sub)
			if err != nil {
				return err.Error()
			}
			return gocmp.Diff(figures{Granted: 1000, Remaining: 990, Used: 10}, of(b, "L1"))
		})
	})
}
