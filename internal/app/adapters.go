package app

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/billing"
	"tollgate/gateway"
	"tollgate/internal/journal"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/recovery"
)

// admitter is the quota engine as the gateway sees it.
type admitter struct {
	engine  *quota.Engine
	journal *journal.Journal
	behind  *atomic.Bool // the usage store is too far behind
}

func (a admitter) Admit(subscription string, units []usage.Unit, est usage.Units, at time.Time) (gateway.Hold, error) {
	// A call that could not be recorded must not begin (disk full, disk broken).
	if err := a.journal.CanAdmit(); err != nil || a.behind.Load() {
		return nil, gateway.ErrUnavailable
	}
	// The engine bounds its own waiting; a client that leaves meanwhile costs
	// nothing, because its hold is released when the answer cannot be written.
	h, err := a.engine.Admit(context.Background(), subscription, units, est, at)
	if err != nil {
		return nil, admitError(err)
	}
	return hold{h}, nil
}

// admitError is an error of the engine in the gateway's terms.
func admitError(err error) error {
	switch {
	case errors.Is(err, quota.ErrExhausted), errors.Is(err, quota.ErrNoPackage):
		return gateway.ErrExhausted
	case errors.Is(err, quota.ErrHeld):
		return gateway.ErrHeld
	case errors.Is(err, quota.ErrUnavailable), errors.Is(err, quota.ErrClosed):
		return gateway.ErrUnavailable
	}
	return err
}

// hold is a hold of the engine as the gateway sees it. It is a pointer's size,
// so that making an interface of it does not allocate. The engine uses the hold
// again after Free, which the gateway calls last.
type hold struct{ *quota.Hold }

// Extend implements gateway.Hold.
func (h hold) Extend(more usage.Units) (usage.Units, error) {
	if more != (usage.Units{}) {
		if err := h.Hold.Extend(more); err != nil {
			return usage.Units{}, admitError(err)
		}
	}
	return h.Holding(), nil
}

// recorder writes records to the node's journal.
type recorder struct {
	journal *journal.Journal
	log     *slog.Logger
	buffers sync.Pool
	dropped atomic.Int64
}

func newRecorder(j *journal.Journal, log *slog.Logger) *recorder {
	return &recorder{journal: j, log: log, buffers: sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}}
}

// Record implements quota.Recorder: the call counts when it returns nil.
func (r *recorder) Record(rec *usage.Record) error {
	buf := r.buffers.Get().(*[]byte)
	*buf = usage.AppendRecord((*buf)[:0], rec)
	_, err := r.journal.Append(journal.KindUsage, *buf)
	r.buffers.Put(buf)
	return err
}

// Note implements gateway.Recorder for calls that were not charged. Losing one
// loses no money; it is counted.
func (r *recorder) Note(rec *usage.Record) {
	if err := r.Record(rec); err != nil && r.dropped.Add(1) == 1 {
		r.log.Warn("records of uncharged calls are being dropped", "error", err)
	}
}

// lotStore is the quota store as billing sees it. A grant that was applied is
// told to this process's engine at once, so that a refused buyer is served
// without delay (PKG-27).
type lotStore struct {
	store  quota.Store
	engine *quota.Engine    // nil in an admin process
	keeper *recovery.Keeper // set before the first delivery
}

func (l *lotStore) ApplyGrant(ctx context.Context, g lot.Grant) error {
	applied, err := l.store.ApplyGrant(ctx, g)
	if err != nil {
		return err
	}
	if l.engine != nil {
		l.engine.Notify(g.Subscription)
	}
	if !applied {
		return nil // it was there: a delivery that is repeated
	}
	return l.keeper.Granted(ctx)
}

// grants are billing's books as the keeper of the quota store sees them.
type grants struct{ billing *billing.Service }

func (g grants) Regrant(ctx context.Context, restore func(context.Context, string, []recovery.Lot) error) (int, error) {
	n, err := g.billing.Regrant(ctx, func(ctx context.Context, subscription string, lots []billing.Lot) error {
		list := make([]recovery.Lot, len(lots))
		for i := range lots {
			list[i] = recovery.Lot{Grant: lots[i].Grant, Delivered: lots[i].Delivered}
		}
		return restore(ctx, subscription, list)
	})
	if err != nil {
		return n, err
	}
	return n, g.billing.Rewatch(ctx) // the thresholds are gone as well
}

// quotaReader reads balances; with an engine in this process it reports what
// that has used first, so that the figure is exact.
type quotaReader struct {
	store  quota.Store
	engine *quota.Engine
}

func (q quotaReader) Read(ctx context.Context, subscription string) (lot.Balance, error) {
	if q.engine != nil {
		if err := q.engine.FlushSubscription(ctx, subscription); err != nil {
			return lot.Balance{}, err
		}
	}
	return q.store.Read(ctx, subscription)
}
