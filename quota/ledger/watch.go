package ledger

import (
	"fmt"
	"slices"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// SetThresholds replaces the watch on one unit if it is newer. A threshold that
// stays keeps its state: changing another one must not send it again.
func (a *Account) SetThresholds(env Env, t quota.Thresholds) bool {
	key := t.Unit.String()
	w := a.Watches[key]
	if w == nil {
		w = &Watch{Arms: map[string]*Arm{}}
		a.Watches[key] = w
	} else if t.Version < w.Version || t.Version == w.Version && len(t.Told) == 0 {
		return false
	}
	newer := t.Version > w.Version
	if newer {
		w.Version = t.Version
		w.Levels = slices.Clone(t.Levels)
	}
	for _, c := range t.Told {
		w.told(c)
	}
	now, _ := a.tick(env, 0)
	a.evaluate(now)
	return newer
}

// told takes over a crossing that was delivered and that the watch does not
// know of: its id is used.
func (w *Watch) told(c quota.Told) {
	arm := w.Arms[c.Name()]
	if arm == nil {
		arm = &Arm{}
		w.Arms[c.Name()] = arm
	}
	switch {
	case arm.N > c.Arm || arm.N == c.Arm && arm.Fired:
	case c.Rearmed:
		*arm = Arm{N: c.Arm + 1}
	default:
		*arm = Arm{N: c.Arm, Fired: true}
	}
}

// evaluate compares what remains with every threshold and records each
// crossing in the outbox. It runs at the end of every step that may change
// what remains, so that a crossing is on record together with its cause.
func (a *Account) evaluate(now int64) {
	for unit := range usage.NumUnits {
		w := a.Watches[unit.String()]
		if w == nil {
			continue
		}
		remaining, total := a.watched(unit, now)
		if total == 0 {
			continue // nothing to compare with: no package is open
		}
		for _, level := range w.Levels {
			arm := w.Arms[level.Name()]
			if arm == nil {
				arm = &Arm{N: 1}
				w.Arms[level.Name()] = arm
			}
			reached := Reached(level, remaining, total)
			if reached && !arm.Fired {
				a.Outbox = append(a.Outbox, quota.Crossing{
					ID:           fmt.Sprintf("%s/%s/%s/%d", a.Subscription, unit, level.Name(), arm.N),
					Subscription: a.Subscription,
					Unit:         unit,
					Threshold:    level,
					Arm:          arm.N,
					Remaining:    remaining,
					Total:        total,
					At:           time.UnixMilli(now).UTC(),
				})
			}
			if !reached && arm.Fired {
				if now < a.Learn {
					continue // not all use is known yet: less may remain than it seems
				}
				arm.N++
			}
			arm.Fired = reached
		}
	}
}

// Reached reports whether remaining has reached the level (ALERT-21).
func Reached(level quota.Threshold, remaining, total int64) bool {
	if level.Kind == quota.Percent {
		// The division keeps the product within an int64: remaining*100 <= total*pct.
		return remaining <= percentOf(total, level.Value)
	}
	return remaining <= level.Value
}

// percentOf returns the largest n with n*100 <= total*pct.
func percentOf(total, pct int64) int64 {
	return total/100*pct + total%100*pct/100
}

// watched sums what remains unused, and the totals, over the open packages
// that alerts are about: those that do not reset and are not credit lines
// (ALERT-1, ALERT-13). What a node holds and has not used remains.
func (a *Account) watched(unit usage.Unit, now int64) (remaining, total int64) {
	for _, l := range a.open(unit, now) {
		if l.Reset != lot.Never || l.Overflow {
			continue
		}
		remaining += max(0, l.bucket.Cap-l.bucket.used())
		total += l.bucket.Cap
	}
	return remaining, total
}

// Ack removes crossings from the outbox.
func (a *Account) Ack(ids map[string]bool) {
	a.Outbox = slices.DeleteFunc(a.Outbox, func(c quota.Crossing) bool { return ids[c.ID] })
}
