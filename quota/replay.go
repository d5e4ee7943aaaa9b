package quota

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// Replay settles what earlier incarnations of this node left behind: it
// recomputes their counters from the journal and closes them in the store.
// Call it once, before the first Admit. It changes nothing when it is run
// again, and a crash in the middle only means that the next start does it. When
// the store is away Replay still succeeds: it is settled later, before this
// node reports on the subscription.
//
// A provisional record counts when no final one of the same call follows: the
// process died while the call ran, and what was delivered until then is
// charged.
func (e *Engine) Replay(ctx context.Context, h History) error {
	t := NewTally()
	err := h.Records(ctx, func(boot uint64, rec *usage.Record) error {
		if boot < e.cfg.Incarnation.Boot {
			t.Add(boot, rec)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("quota: replay the journal: %w", err)
	}
	return e.CloseEarlier(ctx, t)
}

// CloseEarlier closes the incarnations before this one with what t counted of
// them. What the store does not take now is kept and tried again: with the next
// housekeeping, and in any case before this node reports on that subscription.
func (e *Engine) CloseEarlier(ctx context.Context, t *Tally) error {
	e.earlierMu.Lock()
	for _, req := range t.closeRequests(e.cfg.Incarnation) {
		e.earlier[req.Subscription] = append(e.earlier[req.Subscription], req)
	}
	ids := slices.Collect(maps.Keys(e.earlier))
	e.earlierMu.Unlock()
	e.didReplay.Store(true)
	var errs []error
	for _, id := range ids {
		if err := e.settleEarlier(ctx, id); err != nil {
			if errs = append(errs, err); len(errs) >= 4 {
				break // the store is away: the rest would only wait
			}
		}
	}
	if len(errs) > 0 {
		e.cfg.Log.Warn("quota: what earlier starts used is reported when the store is back", "subscriptions", len(ids), "error", errors.Join(errs...))
	}
	return nil
}

// settleEarlier closes earlier incarnations on one subscription, if any are
// left to close.
func (e *Engine) settleEarlier(ctx context.Context, id string) error {
	e.earlierMu.Lock()
	reqs := e.earlier[id]
	e.earlierMu.Unlock()
	for _, req := range reqs {
		if err := e.store.CloseIncarnation(ctx, req); err != nil {
			return fmt.Errorf("quota: settle %s of subscription %s: %w", req.Incarnation, id, err)
		}
	}
	if len(reqs) > 0 {
		e.earlierMu.Lock()
		delete(e.earlier, id)
		e.settled[id] = reqs
		e.earlierMu.Unlock()
	}
	return nil
}

// repeatEarlier has the closings of earlier incarnations sent once more: the
// store lost its last writes, and nobody else would tell it again.
func (e *Engine) repeatEarlier() {
	e.earlierMu.Lock()
	defer e.earlierMu.Unlock()
	for id, reqs := range e.settled {
		if e.earlier[id] == nil {
			e.earlier[id] = reqs
		}
	}
	clear(e.settled)
}

// forgetEarlier drops the closings that were kept for repetition. What a store
// loses is the last seconds, not the last quarter of an hour.
func (e *Engine) forgetEarlier() {
	e.earlierMu.Lock()
	defer e.earlierMu.Unlock()
	clear(e.settled)
}

// keepEarlier is how long closings are kept for repetition.
const keepEarlier = 15 * time.Minute

// replayed returns this incarnation once Replay has read the journal: from
// then on the leases of earlier ones are known to be void.
func (e *Engine) replayed() Incarnation {
	if e.didReplay.Load() {
		return e.cfg.Incarnation
	}
	return Incarnation{}
}

// Tally counts, from a journal's records, what each incarnation used. The
// counters of the engine and a tally of its journal are two derivations of the
// same records: at rest they are equal.
type Tally struct {
	boots map[uint64]*bootTally
	open  map[ids.Request]*pending
}

type bootTally struct {
	subs map[string]*subTally
}

type subTally struct {
	used    map[bucketKey]int64
	overrun usage.Units
}

// NewTally returns an empty tally.
func NewTally() *Tally {
	return &Tally{boots: map[uint64]*bootTally{}, open: map[ids.Request]*pending{}}
}

// Add counts one record that the start boot of this node wrote. A record that
// ends a call an earlier start left open is counted with that start, once.
func (t *Tally) Add(boot uint64, rec *usage.Record) {
	if rec.Has(usage.Provisional) {
		t.provisional(boot, rec)
		return
	}
	p := t.open[rec.ID]
	delete(t.open, rec.ID)
	if rec.Boot != 0 {
		if p == nil || p.closed {
			return // it was ended before, or counted when its start was closed
		}
		boot = rec.Boot
	}
	t.count(boot, rec.Subscription, rec.Charges, rec.Overrun)
}

func (t *Tally) count(boot uint64, sub string, charges []usage.Charge, overrun usage.Units) {
	if len(charges) == 0 && overrun.IsZero() {
		return
	}
	s := t.sub(boot, sub)
	for _, c := range charges {
		s.used[bucketKey{c.Lot, c.Bucket}] += c.Amount
	}
	for u, n := range overrun {
		s.overrun[u] += n
	}
}

func (t *Tally) sub(boot uint64, sub string) *subTally {
	b := t.boots[boot]
	if b == nil {
		b = &bootTally{subs: map[string]*subTally{}}
		t.boots[boot] = b
	}
	s := b.subs[sub]
	if s == nil {
		s = &subTally{used: map[bucketKey]int64{}}
		b.subs[sub] = s
	}
	return s
}

// Used returns what an incarnation used of a bucket, provisional records not
// counted.
func (t *Tally) Used(boot uint64, subscription, lot string, from int64) int64 {
	if b := t.boots[boot]; b != nil {
		if s := b.subs[subscription]; s != nil {
			return s.used[bucketKey{lot, from}]
		}
	}
	return 0
}

// closeRequests lists what closes every boot of t before the one of now, calls
// that were open at its death included.
func (t *Tally) closeRequests(now Incarnation) []*CloseRequest {
	all := NewTally()
	for boot, b := range t.boots {
		for id, s := range b.subs {
			to := all.sub(boot, id)
			for key, n := range s.used {
				to.used[key] += n
			}
			to.overrun = s.overrun
		}
	}
	for _, p := range t.open {
		if p.closed {
			continue
		}
		all.count(p.boot, p.sub, p.charges, p.overrun)
	}
	var reqs []*CloseRequest
	for boot, b := range all.boots {
		if boot >= now.Boot {
			continue
		}
		for id, s := range b.subs {
			req := &CloseRequest{
				Subscription: id,
				Incarnation:  Incarnation{Node: now.Node, Boot: boot},
				Final:        true,
				Overrun:      s.overrun,
			}
			for key, n := range s.used {
				req.Counters = append(req.Counters, Counter{Lot: key.lot, From: key.from, Used: n})
			}
			slices.SortFunc(req.Counters, compareCounters)
			reqs = append(reqs, req)
		}
	}
	return reqs
}

// CloseAll closes every incarnation of node up to boot with what t counted of
// it, and returns the units its leases still held. It is for the journal of a
// node that is dead: one that lives would be refused everything until its next
// start. Doing it again changes nothing.
func (t *Tally) CloseAll(ctx context.Context, store Store, node string, boot uint64) error {
	now := Incarnation{Node: node, Boot: boot + 1}
	type key struct {
		sub  string
		boot uint64
	}
	done := map[key]bool{}
	for _, req := range t.closeRequests(now) {
		if err := store.CloseIncarnation(ctx, req); err != nil {
			return fmt.Errorf("quota: settle %s of subscription %s: %w", req.Incarnation, req.Subscription, err)
		}
		done[key{req.Subscription, req.Incarnation.Boot}] = true
	}
	// Leases of which nothing was used are in no journal.
	return eachSubscription(ctx, store, func(id string) error {
		reported, err := store.Report(ctx, id)
		if err != nil {
			return err
		}
		for _, r := range reported {
			if r.Incarnation.Node != node || r.Incarnation.Boot > boot || r.Closed || done[key{id, r.Incarnation.Boot}] {
				continue
			}
			done[key{id, r.Incarnation.Boot}] = true
			if err := store.CloseIncarnation(ctx, &CloseRequest{Subscription: id, Incarnation: r.Incarnation, Final: true}); err != nil {
				return fmt.Errorf("quota: return the leases of %s of subscription %s: %w", r.Incarnation, id, err)
			}
		}
		return nil
	})
}

// Alive tells of an incarnation of node that may still be serving: one that is
// newer than boot, or whose lease has not ended by the store's clock. The zero
// time with a newer one; otherwise the end of the lease. ok is false when there
// is none.
func Alive(ctx context.Context, store Store, node string, boot uint64) (who Incarnation, until time.Time, ok bool, err error) {
	err = eachSubscription(ctx, store, func(id string) error {
		reported, err := store.Report(ctx, id)
		if err != nil {
			return err
		}
		var now time.Time
		for _, r := range reported {
			if r.Incarnation.Node != node {
				continue
			}
			if r.Incarnation.Boot > boot {
				who, until, ok = r.Incarnation, time.Time{}, true
				return errFound
			}
			if r.Closed {
				continue
			}
			if now.IsZero() {
				b, err := store.Read(ctx, id)
				if err != nil {
					return err
				}
				now = b.AsOf
			}
			if end := time.UnixMilli(r.Until).UTC(); end.After(now) && end.After(until) {
				who, until, ok = r.Incarnation, end, true
			}
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return who, until, ok, err
}

var errFound = errors.New("found")

// eachSubscription calls fn with every subscription the store knows.
func eachSubscription(ctx context.Context, store Store, fn func(id string) error) error {
	for after := ""; ; {
		page, err := store.Subscriptions(ctx, after, 256)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, id := range page {
			if err := fn(id); err != nil {
				return err
			}
		}
		after = page[len(page)-1]
	}
}
