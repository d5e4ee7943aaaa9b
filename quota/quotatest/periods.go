package quotatest

import (
	"errors"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// moved is a store and an engine on a clock that the test moves.
type moved struct {
	t     *testing.T
	clock *Clock
	store quota.Store
	sub   string
	*node
}

func newMoved(t *testing.T, b Backend, grants ...lot.Grant) *moved {
	m := &moved{t: t, clock: NewClock(start), sub: subscription(t)}
	m.store = b.Open(t, m.clock.Now)
	for _, g := range grants {
		g.Subscription = m.sub
		apply(t, m.store, g)
	}
	m.node = engine(t, m.store, "a", m.clock.Now)
	return m
}

// calls makes n calls now and returns how many passed; what does not must be
// exhausted.
func (m *moved) calls(n int) (ok int) {
	m.t.Helper()
	for range n {
		err := m.call(m.t.Context(), m.sub, m.clock.Now())
		switch {
		case err == nil:
			ok++
		case !errors.Is(err, quota.ErrExhausted):
			m.t.Fatalf("at %s: %v", m.clock.Now(), err)
		}
	}
	return ok
}

func (m *moved) want(what string, want figures) {
	m.t.Helper()
	if diff := gocmp.Diff(want, of(balance(m.t, m.store, m.sub, m.node), "L1")); diff != "" {
		m.t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func testPeriods(t *testing.T, b Backend) {
	hourly := lot.Grant{ID: "L1", Amount: 5, Reset: lot.Hour, Effective: start, Version: 1}

	t.Run("an hourly package effective at 10:20 resets at 11:20 (PKG-24)", func(t *testing.T) {
		m := newMoved(t, b, hourly)
		if got := m.calls(8); got != 5 {
			t.Fatalf("%d calls in the first hour, want 5", got)
		}
		m.clock.Set(start.Add(time.Hour - time.Millisecond))
		if got := m.calls(1); got != 0 {
			t.Fatal("a call passed a millisecond before the reset")
		}
		m.clock.Set(start.Add(time.Hour))
		if got := m.calls(3); got != 3 {
			t.Fatalf("%d of 3 calls passed at the reset", got)
		}
		if l := of(balance(t, m.store, m.sub, m.node), "L1"); l.Granted != 10 || l.Used != 8 || l.Remaining+l.Leased != 2 {
			t.Fatalf("second hour: %+v", l)
		}
		// What is left does not carry over, and hours without a call count.
		m.clock.Set(start.Add(4*time.Hour + time.Minute))
		if got := m.calls(8); got != 5 {
			t.Fatalf("%d calls in the fifth hour, want 5", got)
		}
		m.want("fifth hour", figures{Granted: 25, Used: 13, Lapsed: 12})
	})

	t.Run("a call that settles after the reset is charged by its admission (PKG-26)", func(t *testing.T) {
		m := newMoved(t, b, hourly)
		h, err := m.Admit(t.Context(), m.sub, calls, one, m.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		m.clock.Set(start.Add(time.Hour + time.Minute))
		rec := usage.Record{Units: one}
		if err := h.Settle(&rec); err != nil {
			t.Fatal(err)
		}
		if rec.Charges[0].Bucket != start.UnixMilli() {
			t.Fatalf("charged to the period of %s", time.UnixMilli(rec.Charges[0].Bucket).UTC())
		}
		if got := m.calls(6); got != 5 {
			t.Fatalf("%d calls in the second hour, want all 5", got)
		}
		m.want("both", figures{Granted: 10, Used: 6, Lapsed: 4})
	})

	t.Run("tokens beyond the hold come from the period of the admission (PKG-26)", func(t *testing.T) {
		g := hourly
		g.Unit, g.Amount = usage.Token, 100
		m := newMoved(t, b, g)
		h, err := m.Admit(t.Context(), m.sub, tokens, usage.Units{usage.Token: 10}, m.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		m.clock.Set(start.Add(time.Hour + time.Minute))
		m.use(t, m.sub, 20, 20, m.clock.Now()) // the next period is under way
		rec := usage.Record{Units: usage.Units{usage.Token: 130}}
		if err := h.Settle(&rec); err != nil {
			t.Fatal(err)
		}
		var old, other int64
		for _, c := range rec.Charges {
			if c.Bucket == start.UnixMilli() {
				old += c.Amount
			} else {
				other += c.Amount
			}
		}
		if old != 100 || other != 0 || rec.Overrun[usage.Token] != 30 {
			t.Fatalf("charges %+v, overrun %d: want 100 of the old period, 30 over", rec.Charges, rec.Overrun[usage.Token])
		}
		if got := of(balance(t, m.store, m.sub, m.node), "L1"); got.Used != 120 {
			t.Fatalf("balance %+v", got)
		}
	})

	t.Run("an expired package loses what is left (PKG-26)", func(t *testing.T) {
		g := lot.Grant{ID: "L1", Amount: 10, Effective: start, Expires: start.Add(time.Hour), Version: 1}
		m := newMoved(t, b, g)
		m.calls(3)
		m.clock.Set(g.Expires.Add(-time.Millisecond))
		if got := m.calls(1); got != 1 {
			t.Fatal("refused a millisecond before the end")
		}
		m.clock.Set(g.Expires)
		if got := m.calls(1); got != 0 {
			t.Fatal("a call passed at the end")
		}
		m.want("expired", figures{Granted: 10, Used: 4, Lapsed: 6})
	})

	t.Run("a package begins at its effective instant", func(t *testing.T) {
		g := lot.Grant{ID: "L1", Amount: 10, Effective: start.Add(time.Minute), Version: 1}
		m := newMoved(t, b, g)
		m.clock.Set(g.Effective.Add(-time.Millisecond))
		if got := m.calls(1); got != 0 {
			t.Fatal("a call passed before the package was effective")
		}
		m.clock.Set(g.Effective)
		if got := m.calls(1); got != 1 {
			t.Fatal("refused at the effective instant")
		}
	})

	t.Run("when one package ends the next takes over", func(t *testing.T) {
		short := lot.Grant{ID: "L1", Amount: 100, Effective: start, Expires: start.Add(time.Hour), Version: 1}
		long := lot.Grant{ID: "L2", Amount: 100, Effective: start, Expires: start.Add(48 * time.Hour), Version: 1}
		m := newMoved(t, b, long, short)
		m.calls(7)
		m.clock.Set(short.Expires)
		m.calls(4)
		if m.charged("L1") != 7 || m.charged("L2") != 4 {
			t.Fatalf("charged %d and %d, want 7 and 4", m.charged("L1"), m.charged("L2"))
		}
		m.want("first", figures{Granted: 100, Used: 7, Lapsed: 93})
	})

	t.Run("months keep their anchor day", func(t *testing.T) {
		shanghai, err := quota.Zone("")
		if err != nil {
			t.Fatal(err)
		}
		g := lot.Grant{ID: "L1", Amount: 1, Reset: lot.Month, Version: 1, Effective: time.Date(2026, 1, 31, 10, 0, 0, 0, shanghai).UTC()}
		m := newMoved(t, b)
		m.clock.Set(g.Effective)
		g.Subscription = m.sub
		apply(t, m.store, g)
		for i, at := range []time.Time{
			time.Date(2026, 1, 31, 10, 0, 0, 0, shanghai),
			time.Date(2026, 2, 28, 10, 0, 0, 0, shanghai),
			time.Date(2026, 3, 31, 10, 0, 0, 0, shanghai),
			time.Date(2026, 4, 30, 10, 0, 0, 0, shanghai),
			time.Date(2027, 2, 28, 10, 0, 0, 0, shanghai),
		} {
			if i > 0 {
				m.clock.Set(at.Add(-time.Millisecond))
				m.calls(1)
			}
			m.clock.Set(at)
			if got := m.calls(2); got != 1 {
				t.Fatalf("%d of 1 calls passed at %s", got, at)
			}
		}
	})

	t.Run("many periods later the list of boundaries goes on", func(t *testing.T) {
		m := newMoved(t, b, hourly)
		for range 30 {
			m.clock.Advance(37 * time.Hour)
			if got := m.calls(7); got != 5 {
				t.Fatalf("%d calls at %s, want 5", got, m.clock.Now())
			}
		}
	})
}
