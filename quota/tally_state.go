package quota

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// tallyState is a tally as JSON: what lets the beginning of a journal be
// removed although its incarnations are not closed yet. A tally of the rest,
// added to the state, is a tally of the whole.
type tallyState struct {
	Used    []usedState    `json:"used,omitempty"`
	Overrun []overrunState `json:"overrun,omitempty"`
	Open    []openState    `json:"open,omitempty"`
}

type usedState struct {
	Boot         uint64 `json:"boot"`
	Subscription string `json:"subscription"`
	Lot          string `json:"lot"`
	From         int64  `json:"from"`
	Units        int64  `json:"units"`
}

type overrunState struct {
	Boot         uint64      `json:"boot"`
	Subscription string      `json:"subscription"`
	Units        usage.Units `json:"units"`
}

type openState struct {
	Request      string         `json:"request"`
	Boot         uint64         `json:"boot"`
	Subscription string         `json:"subscription"`
	Charges      []usage.Charge `json:"charges,omitempty"`
	Overrun      usage.Units    `json:"overrun"`
	Record       []byte         `json:"record,omitempty"`
	Closed       bool           `json:"closed,omitempty"`
}

// MarshalJSON writes the state of t, in a fixed order.
func (t *Tally) MarshalJSON() ([]byte, error) {
	var s tallyState
	for boot, b := range t.boots {
		for id, sub := range b.subs {
			for key, n := range sub.used {
				s.Used = append(s.Used, usedState{boot, id, key.lot, key.from, n})
			}
			if !sub.overrun.IsZero() {
				s.Overrun = append(s.Overrun, overrunState{boot, id, sub.overrun})
			}
		}
	}
	for id, p := range t.open {
		s.Open = append(s.Open, openState{id.String(), p.boot, p.sub, p.charges, p.overrun, p.record, p.closed})
	}
	slices.SortFunc(s.Used, func(a, b usedState) int {
		return cmp.Or(cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.Subscription, b.Subscription), cmp.Compare(a.Lot, b.Lot), cmp.Compare(a.From, b.From))
	})
	slices.SortFunc(s.Overrun, func(a, b overrunState) int {
		return cmp.Or(cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.Subscription, b.Subscription))
	})
	slices.SortFunc(s.Open, func(a, b openState) int { return cmp.Compare(a.Request, b.Request) })
	return json.Marshal(s)
}

// UnmarshalJSON reads a state into t, in place of what it held.
func (t *Tally) UnmarshalJSON(text []byte) error {
	var s tallyState
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	*t = *NewTally()
	for _, u := range s.Used {
		t.sub(u.Boot, u.Subscription).used[bucketKey{u.Lot, u.From}] += u.Units
	}
	for _, o := range s.Overrun {
		t.sub(o.Boot, o.Subscription).overrun = o.Units
	}
	for _, o := range s.Open {
		id, err := ids.ParseRequest(o.Request)
		if err != nil {
			return fmt.Errorf("quota: open call %q of a tally: %w", o.Request, err)
		}
		t.open[id] = &pending{o.Boot, o.Subscription, o.Charges, o.Overrun, o.Record, o.Closed}
	}
	return nil
}

// Forget drops the incarnations before boot, once they are closed in the store.
// Calls they left open stay until a record ends them; they are counted.
func (t *Tally) Forget(boot uint64) {
	for b := range t.boots {
		if b < boot {
			delete(t.boots, b)
		}
	}
	for _, p := range t.open {
		p.closed = p.closed || p.boot < boot
	}
}

// EarlierOpen reports whether earlier incarnations of this node are still to be
// closed in the store.
func (e *Engine) EarlierOpen() bool {
	e.earlierMu.Lock()
	defer e.earlierMu.Unlock()
	return len(e.earlier) > 0
}

// Unsettled returns, by subscription and billing item, what t
// counted and the store was not told yet: the difference that replaying the
// journal would make up.
func (t *Tally) Unsettled(ctx context.Context, store Store, node string, unit func(lot string) (usage.Unit, bool)) (map[string]usage.Units, error) {
	// Calls that were open count like in a replay.
	all := NewTally()
	highest := uint64(0)
	for boot := range t.boots {
		highest = max(highest, boot)
	}
	for _, p := range t.open {
		highest = max(highest, p.boot)
	}
	out := make(map[string]usage.Units)
	var errs []error
	for _, req := range t.closeRequests(Incarnation{Node: node, Boot: highest + 1}) {
		s := all.sub(req.Incarnation.Boot, req.Subscription)
		for _, c := range req.Counters {
			s.used[bucketKey{c.Lot, c.From}] = c.Used
		}
	}
	told := make(map[string][]Reported)
	for boot, b := range all.boots {
		for id, s := range b.subs {
			rs, ok := told[id]
			if !ok {
				var err error
				if rs, err = store.Report(ctx, id); err != nil {
					errs = append(errs, err)
					continue
				}
				told[id] = rs
			}
			units := out[id]
			for key, n := range s.used {
				for _, r := range rs {
					if r.Incarnation == (Incarnation{Node: node, Boot: boot}) && r.Lot == key.lot && r.From == key.from {
						n -= r.Used
					}
				}
				if u, ok := unit(key.lot); ok && n > 0 {
					units[u] += n
				}
			}
			out[id] = units
		}
	}
	return out, errors.Join(errs...)
}
