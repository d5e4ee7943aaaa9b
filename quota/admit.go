package quota

import (
	"context"
	"time"

	"tollgate/internal/usage"
)

// Admit decides whether a call may run and holds est of each unit in units for
// it. at is the instant the call came in: the lots open then pay for it, even
// if it settles after a boundary (PKG-26).
//
// While the local leases cover est, Admit touches no network, takes no lock
// and does not allocate. Otherwise it asks the store, within
// Config.AnswerWait, and when nothing is left waits Config.TailWait for what
// other nodes return. It returns ErrExhausted, ErrNoPackage or ErrUnavailable
// when that did not help, or ctx's error.
//
// Of the unit Call one lot pays the whole amount (PKG-21). Of other units less
// than est is held when the lots have less; Held tells. An est of 0 holds one
// unit, so that a call is not admitted on a dry package.
//
// The units belong to the caller again when Settle or Release is called.
func (e *Engine) Admit(ctx context.Context, subscription string, units []usage.Unit, est usage.Units, at time.Time) (*Hold, error) {
	if e.closed.Load() {
		return nil, ErrClosed
	}
	a := e.lookup(subscription)
	if a == nil {
		a = e.account(subscription)
	}
	h := e.holds.Get().(*Hold)
	h.reset(e, a, units, at)
	if v := a.view.Load(); v != nil && e.mono() < v.until {
		if h.takeAll(v, &est) {
			e.stats.admitted.add(h.stripe)
			return h, nil
		}
	}
	if err := e.admitSlow(ctx, a, h, &est); err != nil {
		h.forget()
		return nil, err
	}
	e.stats.admitted.add(h.stripe)
	return h, nil
}

// admitSlow asks the store and tries again, until the call is admitted, the
// answer is certain, or the time is over.
func (e *Engine) admitSlow(ctx context.Context, a *account, h *Hold, est *usage.Units) error {
	e.stats.slow.Add(1)
	err := e.await(ctx, a, func() []need { return h.missing(est) }, func(final bool) bool {
		v := a.view.Load()
		if v == nil || e.mono() >= v.until {
			return false
		}
		return h.takeAll(v, est) || final && h.takeSome(v, est)
	})
	if err != nil && (err == ErrUnavailable) && e.onCredit(a, h, est) {
		return nil
	}
	switch err {
	case ErrExhausted, ErrHeld:
		e.stats.exhausted.Add(1)
	case ErrNoPackage:
		e.stats.noPackage.Add(1)
	case ErrUnavailable:
		e.stats.unavailable.Add(1)
	}
	return err
}

// await exchanges reports until try succeeds. try is called with final set
// when the store has nothing more, so that what there is may do. It returns
// nil after try succeeded, and otherwise why it cannot.
func (e *Engine) await(ctx context.Context, a *account, needs func() []need, try func(final bool) bool) error {
	if until := a.refusedUntil.Load(); until > e.mono() {
		if reason := a.refusal.Load(); reason != nil {
			return *reason
		}
	}
	if e.breaker.isOpen(e.mono()) {
		return ErrUnavailable
	}
	a.wait(1)
	defer a.wait(-1)
	answer := time.NewTimer(e.cfg.AnswerWait)
	defer answer.Stop()
	var tail *time.Timer // runs from the first answer that nothing is left
	pause := time.Millisecond
	reason, certain := ErrUnavailable, false // nothing was answered yet
	for {
		a.mu.Lock()
		if try(false) { // units came back while this call got here
			a.mu.Unlock()
			return nil
		}
		if e.suspect.Load() {
			a.mu.Unlock()
			return ErrUnavailable
		}
		if a.stalled(&e.cfg) {
			a.mu.Unlock()
			return e.refuse(a, reason)
		}
		missing := needs()
		r := e.startLocked(a, missing)
		a.mu.Unlock()
		select {
		case <-r.done:
		case <-ctx.Done():
			return ctx.Err()
		case <-answer.C:
			return e.refuse(a, reason)
		}
		if try(false) {
			return nil
		}
		if r.err != nil {
			return ErrUnavailable
		}
		reason, certain = judge(r.reply, missing)
		if dry(reason) && try(true) {
			return nil
		}
		if certain {
			return e.refuse(a, reason)
		}
		if !dry(reason) {
			continue // others on this node took what was granted
		}
		// Other nodes have units: they were asked to return idle ones, and may
		// release held ones.
		if tail == nil {
			tail = time.NewTimer(e.cfg.TailWait)
			defer tail.Stop()
		}
		rest := time.NewTimer(pause)
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return ctx.Err()
		case <-tail.C:
			rest.Stop()
			return e.refuse(a, reason)
		}
		pause = min(2*pause, 8*time.Millisecond)
	}
}

// wait counts the calls that wait for units of the account.
func (a *account) wait(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting += n
}

// stalled reports whether the exchange under way takes so long that the store
// may be away. The caller holds a.mu.
func (a *account) stalled(cfg *Config) bool {
	return a.running && !a.sent.IsZero() && time.Since(a.sent) > cfg.AnswerWait/4
}

// once exchanges one report for a need of lots that are no longer open.
func (e *Engine) once(ctx context.Context, a *account, n need) error {
	if e.breaker.isOpen(e.mono()) {
		return ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.AnswerWait)
	defer cancel()
	r := e.start(a, n)
	select {
	case <-r.done:
	case <-ctx.Done():
		return ErrUnavailable
	}
	if r.err != nil || r.reply.Closed || r.reply.Learning || !e.whole() {
		return ErrUnavailable
	}
	return ErrExhausted
}

// judge tells why the needs are not met by what the store answered, and
// whether asking again within a moment is of no use.
func judge(reply *SyncReply, needs []need) (reason error, certain bool) {
	if reply.Closed || reply.Learning {
		return ErrUnavailable, true
	}
	var left, own, others usage.Units
	for i := range reply.Buckets {
		b := &reply.Buckets[i]
		left[b.Unit] += b.Remaining
		own[b.Unit] += b.Counter.Outstanding()
		others[b.Unit] += b.Outstanding - b.Counter.Outstanding()
	}
	for _, n := range needs {
		switch {
		case !reply.Known[n.unit]:
			return ErrNoPackage, true
		case left[n.unit] == 0 && others[n.unit] == 0 && own[n.unit] > 0 && n.unit != usage.Call:
			return ErrHeld, true
		case left[n.unit] == 0 && others[n.unit] == 0:
			return ErrExhausted, true
		case left[n.unit] == 0 && n.unit != usage.Call:
			reason = ErrHeld
		case left[n.unit] == 0:
			reason = ErrExhausted
		}
	}
	if reason == nil {
		reason = ErrUnavailable // there is something left; it was taken by others meanwhile
	}
	return reason, false
}

// dry reports whether the store has nothing more to give.
func dry(reason error) bool { return reason == ErrExhausted || reason == ErrHeld }

// refuse remembers a refusal for a short time, so that a storm of calls does
// not ask the store for each. It does not outlast the next reset.
func (e *Engine) refuse(a *account, reason error) error {
	if reason != ErrUnavailable && !e.whole() {
		return ErrUnavailable
	}
	if reason == ErrUnavailable && !e.learning(a) {
		return reason
	}
	if reason == ErrHeld {
		return reason // any call that ends changes it; one report serves all who ask meanwhile
	}
	wait := e.cfg.EmptyFor
	a.mu.Lock()
	if a.last != nil && a.last.NextChange != 0 {
		wait = min(wait, time.Duration(a.last.NextChange-e.now().UnixMilli())*time.Millisecond)
	}
	a.mu.Unlock()
	a.refusal.Store(&reason)
	a.refusedUntil.Store(e.mono() + int64(wait))
	return reason
}

// learning reports whether the store last said that it relearns its state:
// then, too, asking for each call is of no use.
func (e *Engine) learning(a *account) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last != nil && (a.last.Learning || a.last.Closed)
}

// onCredit draws what is missing on the lots that go on while the store is
// away, in draw-down order, each within its time and this node's share of its
// credit. The others stop with their leases, so a lot that goes on may be drawn
// on before an earlier one that stops.
func (e *Engine) onCredit(a *account, h *Hold, est *usage.Units) bool {
	if !e.breaker.away() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.contacted || a.last == nil || a.last.Closed {
		return false
	}
	at := h.at
	if v := a.view.Load(); v != nil {
		at += v.offset
	}
	since := e.mono() - a.lastOK
	needs := h.missing(est)
	before := len(h.parts)
	var drawn [usage.NumUnits]int64
	for _, n := range needs {
		for i := range a.last.Buckets {
			b := &a.last.Buckets[i]
			l := a.leases[bucketKey{b.Lot, b.From}]
			if l == nil || l.unit != n.unit || !l.open || since > l.awayFor || !l.covers(at) {
				continue
			}
			got := min(l.credit, n.n-drawn[n.unit])
			if singleLot(n.unit) && got < n.n {
				continue
			}
			if got > 0 {
				drawn[n.unit] += got
				l.credit -= got
				h.parts = append(h.parts, part{l, got})
			}
			if drawn[n.unit] == n.n {
				break
			}
		}
	}
	for _, n := range needs {
		if drawn[n.unit] < n.n {
			for _, p := range h.parts[before:] {
				p.l.credit += p.n
			}
			h.parts = h.parts[:before]
			return false
		}
	}
	for _, p := range h.parts[before:] {
		p.l.granted += p.n
		e.stats.credit.Add(p.n)
	}
	e.watch(a)
	return true
}
