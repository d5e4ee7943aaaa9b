package quota

import (
	"context"
	"time"
)

// start begins a report of a, or puts it in line behind the one under way, and
// returns the round to wait for. It always begins after the call.
func (e *Engine) start(a *account, needs ...need) *round {
	a.mu.Lock()
	defer a.mu.Unlock()
	return e.startLocked(a, needs)
}

// startLocked is start for a caller that holds a.mu.
func (e *Engine) startLocked(a *account, needs []need) *round {
	a.needs = append(a.needs, needs...)
	if a.running {
		if a.next == nil {
			a.next = &round{done: make(chan struct{})}
		}
		return a.next
	}
	r := &round{done: make(chan struct{})}
	if a.running = e.spawn(func() { e.run(a, r) }); !a.running {
		r.err = ErrClosed
		close(r.done)
	}
	return r
}

// run exchanges reports until nobody asks for another one.
func (e *Engine) run(a *account, r *round) {
	for r != nil {
		again := e.exchange(a, r)
		a.mu.Lock()
		next := a.next
		a.next = nil
		if next == nil && again {
			next = &round{done: make(chan struct{})}
		}
		a.running, a.sent = next != nil, time.Time{}
		a.mu.Unlock()
		close(r.done)
		r = next
	}
}

// exchange sends one report and takes over the answer.
func (e *Engine) exchange(a *account, r *round) (again bool) {
	// A report is about what has already happened: it does not end with the
	// request that set it off, only with its own time or the engine.
	ctx, cancel := context.WithTimeout(e.workCtx, e.cfg.SyncTimeout)
	defer cancel()
	err := e.settleEarlier(ctx, a.id)

	a.mu.Lock()
	sent, wall := e.mono(), e.now().UnixMilli()
	req := a.request(&e.cfg, sent, wall)
	announced := a.announce
	a.announce = false
	if e.suspect.Load() {
		for i := range req.Demands {
			req.Demands[i].Floor, req.Demands[i].Target = 0, 0
		}
	}
	a.sent = time.Now()
	a.mu.Unlock()
	var reply *SyncReply
	if err == nil {
		e.stats.syncs.Add(1)
		reply, err = e.store.Sync(ctx, req)
	}
	if err != nil {
		e.stats.syncFailures.Add(1)
		e.breaker.failed(e.mono())
		if announced {
			a.mu.Lock()
			a.announce = true
			a.mu.Unlock()
		}
		e.cfg.Log.Warn("quota: report was not answered", "subscription", a.id, "error", err)
		r.err = err
		return false
	}
	if e.breaker.succeeded() {
		e.cfg.Log.Info("quota: the store is back")
		e.reportAll()
	}
	if reply.Skewed {
		e.stats.skewed.Add(1)
		e.cfg.Log.Error("quota: this node's clock and the store's differ by more than 5 s: nothing expires or resets until they agree", "store_time", time.UnixMilli(reply.Now))
	}
	if reply.Learning {
		e.stats.learning.Add(1)
	}
	if reply.Closed {
		e.cfg.Log.Error("quota: this incarnation was closed: calls are refused until the node starts again", "incarnation", e.cfg.Incarnation.String(), "subscription", a.id)
	}
	r.reply = reply
	a.mu.Lock()
	defer a.mu.Unlock()
	if reply.Learning && (a.last == nil || !a.last.Learning) {
		e.repeatEarlier()
	}
	again = a.apply(&e.cfg, req, reply, sent, wall, e.now().UnixMilli())
	return again
}

// reportAll has every account report soon: the store was away, and may have
// forgotten what it was told last.
func (e *Engine) reportAll() {
	e.each(func(a *account) {
		a.mu.Lock()
		known := len(a.leases) > 0
		a.lastOK, a.announce = 0, known
		a.mu.Unlock()
		if known {
			e.watch(a)
		}
	})
}

// refill asks for more before the lease is dry. It does not wait.
func (e *Engine) refill(a *account) {
	if e.breaker.isOpen(e.mono()) || !a.mu.TryLock() {
		return
	}
	defer a.mu.Unlock()
	if !a.running {
		e.startLocked(a, nil)
	}
}

// freed returns units that a hold gave back while few are left in all, so that
// any node can sell them.
func (e *Engine) freed(a *account) {
	a.refusedUntil.Store(0)
	if e.closed.Load() || e.breaker.isOpen(e.mono()) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e.startLocked(a, nil)
}
