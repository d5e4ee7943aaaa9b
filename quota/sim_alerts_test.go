package quota_test

import (
	"context"

	"tollgate/internal/lot"
	"tollgate/quota"
)

// observer watches thresholds from outside: after every step it compares what
// remains, as the balance shows it, and expects exactly one id for each edge
// (I7).
type observer struct {
	s      *sim
	levels []quota.Threshold
	below  map[string]bool
	arm    map[string]int64
	want   map[string]bool
	off    bool // a rollback forgets edges: then only repetition of ids is checked
}

func newObserver(s *sim, levels []quota.Threshold) *observer {
	o := &observer{s: s, levels: levels, below: map[string]bool{}, arm: map[string]int64{}, want: map[string]bool{}}
	o.look()
	return o
}

// look compares once.
func (o *observer) look() {
	if o.off {
		return
	}
	bal, err := o.s.store.Read(context.Background(), o.s.sub)
	if err != nil {
		o.s.t.Fatal(err)
	}
	var remaining, total int64
	// A late report moves no clock: what remains is compared by the store's own.
	now := o.s.store.Time()
	for _, l := range bal.Lots {
		open := !l.Void && !now.Before(l.Effective) && (l.Expires.IsZero() || now.Before(l.Expires))
		if open && l.Reset == lot.Never && !l.Overflow {
			remaining += l.Granted - l.Used
			total += l.Granted
		}
	}
	if total == 0 {
		return
	}
	for _, l := range o.levels {
		name := l.Name()
		reached := remaining <= l.Value
		if l.Kind == quota.Percent {
			reached = remaining*100 <= total*l.Value
		}
		if o.arm[name] == 0 {
			o.arm[name] = 1
		}
		if reached && !o.below[name] {
			o.want[name+"/"+string(rune('0'+o.arm[name]))] = true
		}
		if !reached && o.below[name] {
			o.arm[name]++
		}
		o.below[name] = reached
	}
	o.compare()
}

// compare compares the outbox with the edges that were seen.
func (o *observer) compare() {
	list, err := o.s.store.Crossings(context.Background(), 1000)
	if err != nil {
		o.s.t.Fatal(err)
	}
	got := map[string]bool{}
	for _, c := range list {
		name := c.Threshold.Name() + "/" + string(rune('0'+c.Arm))
		if got[name] {
			o.s.t.Errorf("I7: %s is in the outbox twice", c.ID)
		}
		got[name] = true
		if !o.want[name] {
			o.s.t.Errorf("I7: %s was told and not reached: %+v", name, c)
		}
	}
	for name := range o.want {
		if !got[name] {
			o.s.t.Errorf("I7: %s was reached and not told", name)
		}
	}
}

func (o *observer) rolledBack() { o.off = true }

// end checks, after rollbacks, that no edge has a second id: the arm of a
// threshold counts the times it was armed, not the times it was told.
func (o *observer) end() {
	list, err := o.s.store.Crossings(context.Background(), 1000)
	if err != nil {
		o.s.t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range list {
		if seen[c.ID] {
			o.s.t.Errorf("I7: %s is in the outbox twice", c.ID)
		}
		seen[c.ID] = true
	}
}
