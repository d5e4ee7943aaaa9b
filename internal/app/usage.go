package app

import (
	"context"
	"sync"
	"time"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// lazyUsage is a usage store that is opened with the first batch: a gateway
// starts, and goes on, while the store is away.
type lazyUsage struct {
	open func(ctx context.Context) (usageStore, error)

	mu    sync.Mutex
	store usageStore
}

func (l *lazyUsage) get(ctx context.Context) (usageStore, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store == nil {
		s, err := l.open(ctx)
		if err != nil {
			return nil, err
		}
		l.store = s
	}
	return l.store, nil
}

// Insert implements metering.Sink.
func (l *lazyUsage) Insert(ctx context.Context, recs []usage.Record) error {
	s, err := l.get(ctx)
	if err != nil {
		return err
	}
	return s.Insert(ctx, recs)
}

// InsertBatch implements metering.BatchSink.
func (l *lazyUsage) InsertBatch(ctx context.Context, b metering.Batch) error {
	s, err := l.get(ctx)
	if err != nil {
		return err
	}
	if sink, ok := s.(metering.BatchSink); ok {
		return sink.InsertBatch(ctx, b)
	}
	return s.Insert(ctx, b.Records)
}

// Close closes the store if it was opened.
func (l *lazyUsage) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.store == nil {
		return nil
	}
	return l.store.Close()
}

// watchBacklog refuses new calls while more of the journal waits for the usage
// store than is allowed. Calls that run are recorded all the same.
func (n *node) watchBacklog(ctx context.Context) {
	limit := int64(n.app.cfg.Usage.MaxBacklog)
	for limit > 0 && ctx.Err() == nil {
		full := n.journal.Stats().LagBytes[consumerUsage] > limit
		if full != n.backlogFull.Swap(full) {
			if full {
				n.app.log.Error("the usage store is behind by more than usage.max_backlog: new calls are refused", "limit_bytes", limit)
			} else {
				n.app.log.Info("the usage store has caught up: calls are admitted again")
			}
		}
		pause(ctx, 200*time.Millisecond)
	}
}
