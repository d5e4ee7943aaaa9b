package app

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"tollgate/billing"
	"tollgate/quota"
)

// watchStore is the quota store as billing sees it, for thresholds.
type watchStore struct{ store quota.Granter }

func (w watchStore) SetThresholds(ctx context.Context, t billing.Thresholds) error {
	levels := []quota.Threshold{quota.UsedUp}
	for _, l := range t.All() {
		if level := (quota.Threshold{Kind: quota.ThresholdKind(l.Kind), Value: l.Value}); level != quota.UsedUp {
			levels = append(levels, level)
		}
	}
	told := make([]quota.Told, len(t.Told))
	for i, c := range t.Told {
		told[i] = quota.Told{Threshold: quota.Threshold{Kind: quota.ThresholdKind(c.Kind), Value: c.Value}, Arm: c.Arm, Rearmed: c.Rearmed}
	}
	_, err := w.store.SetThresholds(ctx, quota.Thresholds{Subscription: t.Subscription, Unit: t.Unit, Version: t.Version, Levels: levels, Told: told})
	return err
}

// crossingKeeper keeps crossings durably, each once.
type crossingKeeper interface {
	RecordCrossings(ctx context.Context, list []billing.Crossing) (fresh int, err error)
}

// crossingBatch is how many crossings are fetched at once.
const crossingBatch = 256

// crossings carries crossings of thresholds from the quota store's outbox to
// billing: at least once out of the store, once into the table. They are
// acknowledged only when the table's transaction was committed, so a process
// that dies in between fetches them again, and the table knows them.
//
// Every process of the admin role runs one. They need no leader: two that fetch
// the same crossings keep them once, and the second acknowledgement changes
// nothing.
type crossings struct {
	outbox quota.Outbox
	keeper crossingKeeper
	every  time.Duration
	log    *slog.Logger

	recorded, repeated, failures atomic.Int64
}

// run carries crossings until ctx ends.
func (c *crossings) run(ctx context.Context) {
	failed := 0
	for ctx.Err() == nil {
		n, err := c.carry(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.failures.Add(1)
			if failed++; failed&(failed-1) == 0 { // the 1st, 2nd, 4th, 8th, …
				c.log.Warn("crossings of thresholds are delivered later", "failures", failed, "error", err)
			}
			pause(ctx, min(c.every<<min(failed, 5), 30*time.Second))
			continue
		case failed > 0:
			failed = 0
			c.log.Info("crossings of thresholds are delivered again")
		}
		if n < crossingBatch {
			pause(ctx, c.every)
		}
	}
}

// carry moves one batch and returns its size.
func (c *crossings) carry(ctx context.Context) (int, error) {
	list, err := c.outbox.Crossings(ctx, crossingBatch)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	rows := make([]billing.Crossing, len(list))
	for i, x := range list {
		rows[i] = billing.Crossing{
			ID: x.ID, Subscription: x.Subscription, Unit: x.Unit, Arm: x.Arm, Remaining: x.Remaining, Total: x.Total, At: x.At,
			Level: billing.Level{Kind: billing.LevelKind(x.Threshold.Kind), Value: x.Threshold.Value},
		}
	}
	fresh, err := c.keeper.RecordCrossings(ctx, rows)
	if err != nil {
		return 0, err
	}
	c.recorded.Add(int64(fresh))
	c.repeated.Add(int64(len(list) - fresh))
	return len(list), c.outbox.Ack(ctx, list...)
}
