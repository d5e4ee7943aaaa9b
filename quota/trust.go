package quota

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// Suspect tells the engine whether the store may have lost what it was told
// (see Witness). While it may, calls are served from leases that are already
// here; whatever they do not cover is refused with ErrUnavailable, and no new
// units are asked for: an emptied store must neither call a package used up
// nor sell what it forgot to have sold. Each change has everything this node
// knows reported again. It does not wait.
func (e *Engine) Suspect(may bool) {
	if e.suspect.Swap(may) == may {
		return
	}
	e.spawn(func() {
		if err := e.Announce(e.workCtx); err != nil && e.workCtx.Err() == nil {
			e.cfg.Log.Warn("quota: not everything was reported again; it is with the next reports", "error", err)
		}
	})
}

// Announce reports every counter of this incarnation, also those that were
// confirmed, and the closings of earlier ones: the store may have forgotten
// them.
func (e *Engine) Announce(ctx context.Context) error {
	e.repeatEarlier()
	e.earlierMu.Lock()
	ids := slices.Collect(maps.Keys(e.earlier))
	e.earlierMu.Unlock()
	var errs []error
	for _, id := range ids {
		if err := e.settleEarlier(ctx, id); err != nil {
			errs = append(errs, err)
			break // a store that is away is one fault
		}
	}
	e.reportAll()
	var known []*account
	e.each(func(a *account) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.leases) > 0 {
			known = append(known, a)
		}
	})
	return errors.Join(append(errs, e.parallel(ctx, known, e.flush))...)
}

// whole asks, before a call is told that nothing is left, whether the store
// that says so is to be believed.
func (e *Engine) whole() bool {
	if e.suspect.Load() {
		return false
	}
	if e.cfg.Whole == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(e.workCtx, e.cfg.AnswerWait/4)
	defer cancel()
	return e.cfg.Whole(ctx)
}
