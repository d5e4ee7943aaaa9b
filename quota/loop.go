package quota

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// watch puts an account on the list of those to look after.
func (e *Engine) watch(a *account) {
	if a.dirty.Load() || !a.dirty.CompareAndSwap(false, true) {
		return
	}
	e.watchMu.Lock()
	e.watched[a] = struct{}{}
	e.watchMu.Unlock()
}

// takeWatched returns the accounts on the list.
func (e *Engine) takeWatched() []*account {
	e.watchMu.Lock()
	defer e.watchMu.Unlock()
	list := make([]*account, 0, len(e.watched))
	for a := range e.watched {
		list = append(list, a)
	}
	return list
}

// unwatch takes an account off the list when nothing of it is left to do. A
// call that comes meanwhile puts it back.
func (e *Engine) unwatch(a *account) {
	e.watchMu.Lock()
	delete(e.watched, a)
	e.watchMu.Unlock()
	a.dirty.Store(false)
	a.mu.Lock()
	busy := a.busy()
	a.mu.Unlock()
	if busy {
		e.watch(a)
	}
}

// busy reports whether the account has use to report or units outstanding. The
// caller holds a.mu.
func (a *account) busy() bool {
	if a.announce {
		return true
	}
	for _, l := range a.leases {
		if l.outstanding() != 0 || l.used.Load() != l.reported {
			return true
		}
	}
	return a.unreportedOverrun()
}

func (a *account) unreportedOverrun() bool {
	for u := range a.overrun {
		if a.overrun[u].Load() != a.reported[u] {
			return true
		}
	}
	return false
}

// due reports whether the account should report now, and whether what it has
// lies idle. The caller holds a.mu.
func (a *account) due(cfg *Config, mono int64) (report, idle bool) {
	use := a.unreportedOverrun()
	held := int64(0)
	for _, l := range a.leases {
		use = use || l.used.Load() != l.reported
		held += l.held()
		report = report || !l.open && l.head.Load() > 0
	}
	if use || held != 0 || a.lastUse == 0 {
		a.lastUse = mono
	}
	idle = mono-a.lastUse >= int64(cfg.IdleAfter)
	v := a.view.Load()
	report = report || use || idle || v != nil && v.tail || a.giveBack ||
		mono-a.lastOK > int64(cfg.TTL)/3
	return report, idle
}

// flushLoop reports use, renews leases and returns what lies idle.
func (e *Engine) flushLoop() {
	for {
		// Jitter keeps the nodes of a cluster from reporting together.
		pause := e.cfg.FlushEvery/2 + rand.N(e.cfg.FlushEvery/2+1)
		if !e.sleep(pause) {
			return
		}
		e.flushRound()
	}
}

// flushRound looks after every watched account once.
func (e *Engine) flushRound() {
	if e.breaker.isOpen(e.mono()) {
		return
	}
	_ = e.parallel(e.ctx, e.takeWatched(), func(ctx context.Context, a *account) error {
		a.mu.Lock()
		report, idle := a.due(&e.cfg, e.mono())
		busy := a.busy()
		if idle {
			a.giveBack = true
		}
		a.mu.Unlock()
		if e.breaker.isOpen(e.mono()) {
			return nil
		}
		if !busy {
			e.unwatch(a)
			return nil
		}
		if report {
			// Faults are counted and logged where they happen.
			_ = e.flush(ctx, a)
		}
		return nil
	})
}

// sleep waits and reports whether the engine still runs.
func (e *Engine) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.ctx.Done():
		return false
	}
}

// watchLoop follows the store's recalls: idle units of a subscription that
// another node cannot serve go back at once.
func (e *Engine) watchLoop() {
	for e.ctx.Err() == nil {
		err := e.store.Watch(e.ctx, e.recall)
		if err != nil && e.ctx.Err() == nil {
			e.cfg.Log.Warn("quota: cannot follow recalls", "error", err)
		}
		if !e.sleep(time.Second) {
			return
		}
	}
}

// recall gives back what lies idle of a subscription.
func (e *Engine) recall(subscription string) {
	a := e.lookup(subscription)
	if a == nil {
		return
	}
	a.mu.Lock()
	idle := false
	for _, l := range a.leases {
		idle = idle || l.head.Load() > 0
	}
	idle = idle && a.waiting == 0
	a.recalled = a.recalled || idle
	a.mu.Unlock()
	if idle {
		e.stats.recall.Add(1)
		e.start(a)
	}
}

// tendLoop does the store's housekeeping, one subscription after another.
func (e *Engine) tendLoop() {
	for first := true; ; first = false {
		pause := e.cfg.TendEvery/2 + rand.N(e.cfg.TendEvery/2+1)
		if first { // soon after the start: what this node left behind shows as leased
			pause = min(pause, 2*time.Second)
		}
		if !e.sleep(pause) {
			return
		}
		if e.mono() > int64(keepEarlier) {
			e.forgetEarlier()
		}
		if err := e.Tend(e.ctx); err != nil && e.ctx.Err() == nil {
			e.cfg.Log.Warn("quota: housekeeping stopped", "error", err)
		}
	}
}

// Tend does one round of housekeeping over all subscriptions of the store:
// units of dead nodes return, old rows are folded, thresholds that time
// crossed are evaluated.
func (e *Engine) Tend(ctx context.Context) error {
	var errs []error
	for after := ""; ; {
		page, err := e.store.Subscriptions(ctx, after, 256)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		if len(page) == 0 {
			return errors.Join(errs...)
		}
		for _, id := range page {
			req := &TendRequest{Subscription: id, Quarantine: e.cfg.Quarantine, Retention: e.cfg.Retention}
			err := e.settleEarlier(ctx, id)
			if err == nil {
				req.By = e.replayed()
				err = e.store.Tend(ctx, req)
			}
			if err != nil {
				errs = append(errs, err)
				if ctx.Err() != nil || len(errs) > 8 {
					return errors.Join(errs...)
				}
			}
		}
		after = page[len(page)-1]
	}
}
