package recovery

import (
	"context"
	"fmt"
	"time"

	"tollgate/quota"
)

// Report tells what a comparison of the store with the books found, and what a
// rebuild restored.
type Report struct {
	Subscriptions int   // compared
	Lots          int   // compared
	Short         int   // subscriptions that lacked something
	MissingLots   int   // lots the store did not have, or had in an older version
	MissingUse    int64 // units of use it did not have, all billing items together
}

// shortage is what the store lacks of one subscription.
type shortage struct {
	lots  int   // lots that were there before and are not, or not in their version
	fresh bool  // lots that it never had: nothing was lost, they are just not there yet
	use   int64 // units
	more  bool  // grants to nodes, or overrun
}

func (s *shortage) lost() bool { return s.lots > 0 || s.use > 0 || s.more }

// compare tells what cp, the store's state, lacks of what the books have.
func compare(lots []Lot, saved []quota.IncarnationState, cp *quota.Checkpoint) (s shortage) {
	for i := range lots {
		if cp.Lots[lots[i].ID] >= lots[i].Version {
			continue
		}
		if lots[i].Delivered {
			s.lots++
		} else {
			s.fresh = true
		}
	}
	have := map[quota.Incarnation]*quota.IncarnationState{}
	for i := range cp.Incarnations {
		have[cp.Incarnations[i].Incarnation] = &cp.Incarnations[i]
	}
	for i := range saved {
		want := &saved[i]
		if want.Incarnation.Boot <= cp.Folded[want.Incarnation.Node] {
			continue // all of it is in the folded figures
		}
		got := have[want.Incarnation]
		if got == nil {
			got = &quota.IncarnationState{}
		}
		for u, n := range want.Overrun {
			s.more = s.more || n > got.Overrun[u]
		}
		type bucket struct {
			lot  string
			from int64
		}
		counters := map[bucket]quota.Counter{}
		for _, c := range got.Counters {
			counters[bucket{c.Lot, c.From}] = c
		}
		for _, c := range want.Counters {
			g := counters[bucket{c.Lot, c.From}]
			s.use += max(0, c.Used-g.Used)
			s.more = s.more || !want.Final && c.Granted > g.Granted
		}
	}
	return s
}

// restore gives the store everything the books have of a subscription. All of
// it may be repeated.
func (k *Keeper) restore(ctx context.Context, sub string, lots []Lot, saved []quota.IncarnationState, cp *quota.Checkpoint) error {
	// The lots come first: they close new leases for the learning time.
	for i := range lots {
		if err := k.store.Restore(ctx, lots[i].Grant, nil, k.opt.Learn); err != nil {
			return fmt.Errorf("restore lot %s: %w", lots[i].ID, err)
		}
	}
	newest := map[string]uint64{}
	for _, list := range [][]quota.IncarnationState{saved, cp.Incarnations} {
		for i := range list {
			inc := list[i].Incarnation
			newest[inc.Node] = max(newest[inc.Node], inc.Boot)
		}
	}
	for i := range saved {
		if err := k.tell(ctx, sub, &saved[i], newest[saved[i].Incarnation.Node]); err != nil {
			return fmt.Errorf("restore incarnation %s: %w", saved[i].Incarnation, err)
		}
	}
	return nil
}

// tell reports one incarnation: a live one as it would do itself, with what it
// holds, any other as closed with what it used.
func (k *Keeper) tell(ctx context.Context, sub string, s *quota.IncarnationState, newest uint64) error {
	if !s.Final && s.Incarnation.Boot == newest {
		reply, err := k.store.Sync(ctx, &quota.SyncRequest{
			Subscription: sub, Incarnation: s.Incarnation, Now: k.opt.Now().UnixMilli(),
			TTL: k.opt.Learn, Quarantine: quarantine, Counters: s.Counters, Overrun: s.Overrun,
		})
		if err != nil || !reply.Closed {
			return err
		}
		// It was closed meanwhile: what it held is free again.
	}
	req := &quota.CloseRequest{Subscription: sub, Incarnation: s.Incarnation, Final: true, Overrun: s.Overrun}
	for _, c := range s.Counters {
		req.Counters = append(req.Counters, quota.Counter{Lot: c.Lot, From: c.From, Used: c.Used})
	}
	return k.store.CloseIncarnation(ctx, req)
}

// quarantine of dead nodes while their figures are restored: long, because it
// only decides when other nodes' units are taken back.
const quarantine = 24 * time.Hour

// sweep compares every subscription with the books and, unless dry, restores
// what the store lacks.
func (k *Keeper) sweep(ctx context.Context, dry bool) (r Report, err error) {
	renewed := k.opt.Now()
	r.Lots, err = k.grants.Regrant(ctx, func(ctx context.Context, sub string, lots []Lot) error {
		if now := k.opt.Now(); !dry && now.Sub(renewed) > claimFor/4 {
			if err := k.book.renew(ctx, k.opt.Owner, now.Add(claimFor)); err != nil {
				return err
			}
			renewed = now
		}
		r.Subscriptions++
		cp, err := k.store.Checkpoint(ctx, sub)
		if err != nil {
			return err
		}
		saved, err := k.book.load(ctx, sub)
		if err != nil {
			return fmt.Errorf("read the checkpoint: %w", err)
		}
		s := compare(lots, saved, &cp)
		if s.lost() {
			r.Short++
			r.MissingLots += s.lots
			r.MissingUse += s.use
			if !dry {
				return k.restore(ctx, sub, lots, saved, &cp)
			}
		} else if s.fresh && !dry {
			for i := range lots {
				if cp.Lots[lots[i].ID] < lots[i].Version {
					if err := k.store.Restore(ctx, lots[i].Grant, nil, 0); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	return r, err
}
