package quota_test

import (
	"errors"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/quota"
)

// TestStoreAwayIsAPolicyOfTheLot: of two lots in one subscription the one that
// stops does so with its lease, the other goes on for its own time and credit.
func TestStoreAwayIsAPolicyOfTheLot(t *testing.T) {
	stop := lot.Grant{ID: "L1", Amount: 1000, ZeroPrice: true, Away: lot.Away{Policy: lot.AwayStop}}
	goesOn := func(amount, seconds, credit int64) lot.Grant {
		return lot.Grant{ID: "L2", Amount: amount, Away: lot.Away{Policy: lot.AwayContinue, Seconds: seconds, Credit: credit}}
	}
	line := func(p lot.AwayPolicy) lot.Grant {
		return lot.Grant{ID: "L3", Amount: 1000, Overflow: true, Away: lot.Away{Policy: p}}
	}
	for name, c := range map[string]struct {
		grants []lot.Grant
		after  time.Duration // since the store's last answer
		want   map[string]int64
	}{
		"stop":                        {[]lot.Grant{stop}, time.Minute, map[string]int64{}},
		"package by default":          {[]lot.Grant{{ID: "L1", Amount: 1000}}, time.Minute, map[string]int64{}},
		"its credit":                  {[]lot.Grant{goesOn(1000, 0, 7)}, time.Minute, map[string]int64{"L2": 7}},
		"no more than was left":       {[]lot.Grant{goesOn(5, 0, 7)}, time.Minute, map[string]int64{"L2": 4}},
		"no credit: what was left":    {[]lot.Grant{goesOn(30, 0, 0)}, time.Minute, map[string]int64{"L2": 29}},
		"within its time":             {[]lot.Grant{goesOn(1000, 90, 7)}, 80 * time.Second, map[string]int64{"L2": 7}},
		"its time is over":            {[]lot.Grant{goesOn(1000, 90, 7)}, 100 * time.Second, map[string]int64{}},
		"the engine's time is over":   {[]lot.Grant{goesOn(1000, 0, 7)}, 11 * time.Minute, map[string]int64{}},
		"beside one that stops":       {[]lot.Grant{stop, goesOn(1000, 0, 7)}, time.Minute, map[string]int64{"L2": 7}},
		"then the line":               {[]lot.Grant{goesOn(1000, 0, 7), line("")}, time.Minute, map[string]int64{"L2": 7, "L3": 13}},
		"a line that is told to stop": {[]lot.Grant{line(lot.AwayStop)}, time.Minute, map[string]int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, func(c *quota.Config) { c.MinLease = 1 }, c.grants...)
			if err := b.call(); err != nil {
				t.Fatal(err)
			}
			if err := b.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := map[string]int64{}
			for _, g := range c.grants {
				used, leased := b.used(g.ID)
				before[g.ID] = used
				if n := c.want[g.ID]; n > 0 && g.Away.Credit == 0 && g.Amount < 1000 || name == "no more than was left" {
					c.want[g.ID] = g.Amount - used - leased
				}
			}
			b.store.away.Store(true)
			b.clock.Advance(c.after)
			passed, most := int64(0), int64(0)
			for _, n := range c.want {
				most += n
			}
			for refused := 0; refused < 4 && passed < most; { // the breaker takes two failures
				if err := b.call(); err == nil {
					passed++
				} else if refused++; !errors.Is(err, quota.ErrUnavailable) {
					t.Fatalf("call %d: %v, want ErrUnavailable", passed, err)
				}
			}
			if passed != most {
				t.Fatalf("%d calls passed, want %d", passed, most)
			}
			if c.want["L3"] == 0 {
				for range 4 {
					if err := b.call(); !errors.Is(err, quota.ErrUnavailable) {
						t.Fatalf("after its credit: %v, want ErrUnavailable", err)
					}
				}
			}
			b.store.away.Store(false)
			b.clock.Advance(3 * time.Second)
			if err := b.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, g := range c.grants {
				if used, _ := b.used(g.ID); used-before[g.ID] != c.want[g.ID] {
					t.Errorf("lot %s: %d used while the store was away, want %d", g.ID, used-before[g.ID], c.want[g.ID])
				}
			}
			if diff, err := b.store.Store.Audit(t.Context(), "sub"); err != nil || len(diff) != 0 {
				t.Errorf("audit: %v, %v", diff, err)
			}
		})
	}
}

// TestTwoNodesShareTheCredit: each node goes on within its share.
func TestTwoNodesShareTheCredit(t *testing.T) {
	b := newBed(t, func(c *quota.Config) { c.MinLease = 1 },
		lot.Grant{ID: "L1", Amount: 1000, Away: lot.Away{Policy: lot.AwayContinue, Credit: 9}})
	if _, err := b.store.Store.Sync(t.Context(), &quota.SyncRequest{
		Subscription: "sub", Incarnation: quota.Incarnation{Node: "b", Boot: 1}, TTL: time.Minute, Quarantine: time.Hour,
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.call(); err != nil {
		t.Fatal(err)
	}
	b.store.away.Store(true)
	b.clock.Advance(time.Minute)
	passed := 0
	for range 30 {
		if b.call() == nil {
			passed++
		}
	}
	if passed != 4 { // of 9 for two
		t.Errorf("%d calls passed, want this node's share of 4", passed)
	}
}

// TestUseOnCreditIsNoLostGrant: the store takes what a node drew on its own of
// a lot that goes on without relearning its state, and only of such a lot.
func TestUseOnCreditIsNoLostGrant(t *testing.T) {
	for policy, learning := range map[lot.AwayPolicy]bool{lot.AwayStop: true, lot.AwayContinue: false} {
		b := newBed(t, nil, lot.Grant{ID: "L1", Amount: 1000, Away: lot.Away{Policy: policy}})
		r, err := b.store.Store.Sync(t.Context(), &quota.SyncRequest{
			Subscription: "sub", Incarnation: quota.Incarnation{Node: "b", Boot: 1}, TTL: time.Minute, Quarantine: time.Hour,
			Counters: []quota.Counter{{Lot: "L1", From: begin.Add(-time.Hour).UnixMilli(), Granted: 5, Used: 5}},
		})
		if err != nil || r.Learning != learning {
			t.Errorf("policy %q: %+v, %v; want learning %t", policy, r, err, learning)
		}
	}
}
