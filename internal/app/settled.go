package app

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"tollgate/admin"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
)

// history holds earlier readings of both stores, for an admin role whose
// gateways are other processes: it cannot ask their journals. What either store
// had a while ago, the other must have by now. So each reading is compared with
// one from settleAfter before.
type history struct {
	mu       sync.Mutex
	readings []reading // oldest first
}

// reading is what both stores had at one instant, by subscription.
type reading struct {
	at          time.Time // monotonic
	quota, rows map[string]usage.Units
}

const (
	// settleAfter is how long a counted call may be on its way to either store:
	// a node reports and ships within a second or two while both are there.
	settleAfter = 45 * time.Second
	// readingEvery is how far apart readings are that are kept.
	readingEvery = 5 * time.Second
)

// keep notes r and returns the newest reading that is at least settleAfter
// older, and false while there is none.
func (h *history) keep(r reading) (reading, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := -1
	for i := range h.readings {
		if r.at.Sub(h.readings[i].at) >= settleAfter {
			old = i
		}
	}
	var then reading
	if old >= 0 {
		then = h.readings[old]
		h.readings = slices.Delete(h.readings, 0, old)
	}
	if n := len(h.readings); n == 0 || r.at.Sub(h.readings[n-1].at) >= readingEvery {
		h.readings = append(h.readings, r)
	}
	return then, old >= 0
}

// settled compares the two stores without the journals. The result is complete
// when there is a reading to compare with and no gateway says that it is cut off
// from either store; use that is on its way is no drift then, and what one of
// them lacks for good is.
func (r reconciler) settled(ctx context.Context) (admin.Reconciliation, error) {
	c := r.c
	out := admin.Reconciliation{AsOf: c.app.now().UTC()}
	subs, err := c.billing.DirectorySubscriptions(ctx)
	if err != nil {
		return out, err
	}
	// The rows first: what is used in between is in the quota store and makes no
	// difference to what the rows had.
	now := reading{at: time.Now(), quota: make(map[string]usage.Units)}
	if now.rows, err = chargedRows(ctx, c.usage); err != nil {
		return out, err
	}
	balances := make([]lot.Balance, len(subs))
	for i, s := range subs {
		if balances[i], err = c.quota.store.Read(ctx, s.ID); err != nil {
			return out, fmt.Errorf("quota of %s: %w", s.ID, err)
		}
		var used usage.Units
		for _, l := range balances[i].Lots {
			used[l.Unit] += l.Used
		}
		now.quota[s.ID] = used
	}
	then, ok := c.past.keep(now)
	out.Complete = ok && !c.cutOff()
	for i := range subs {
		id := subs[i].ID
		for _, l := range lines(&balances[i], usage.Units{}, now.rows[id], usage.Units{}) {
			l.Journal = max(l.Quota, l.Usage) // what the journals have at least
			l.Drift = 0
			if ok {
				l.Drift = settledDrift(then.quota[id][l.Unit], l.Quota, then.rows[id][l.Unit], l.Usage)
			}
			out.Drift += max(l.Drift, -l.Drift)
			out.Subscriptions = append(out.Subscriptions, l)
		}
	}
	return out, nil
}

// settledDrift is how much one store lacks of what the other had before:
// positive when the rows lack it, negative when the quota store does.
func settledDrift(quotaThen, quotaNow, usageThen, usageNow int64) int64 {
	switch {
	case quotaThen > usageNow:
		return quotaThen - usageNow
	case usageThen > quotaNow:
		return quotaNow - usageThen
	}
	return 0
}

// cutOff reports whether a gateway holds records, or use, that a store did not
// take for longer than settleAfter allows.
func (c *control) cutOff() bool {
	if c.server == nil {
		return true
	}
	for _, n := range c.server.NodeStatuses() {
		if n.StoreAway || !n.Unshipped.IsZero() && n.At.Sub(n.Unshipped) > settleAfter/2 {
			return true
		}
	}
	return false
}
