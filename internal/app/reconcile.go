package app

import (
	"context"
	"fmt"
	"time"

	"tollgate/admin"
	"tollgate/internal/journal"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// reconciler compares what was counted in its three places (design section 2):
// the quota store, the usage store, and the journal, whose figure is what the
// usage store has plus what the journal still holds for it.
type reconciler struct{ c *control }

// Reconcile implements admin.Reconciler. The three places are read one after
// the other while calls go on, so a difference is looked at again before it is
// believed.
func (r reconciler) Reconcile(ctx context.Context) (out admin.Reconciliation, err error) {
	for range 3 {
		if out, err = r.compare(ctx); err != nil || out.Drift == 0 {
			break
		}
	}
	return out, err
}

func (r reconciler) compare(ctx context.Context) (admin.Reconciliation, error) {
	c := r.c
	out := admin.Reconciliation{AsOf: c.app.now().UTC(), Complete: c.app.node != nil}
	subs, err := c.billing.DirectorySubscriptions(ctx)
	if err != nil {
		return out, err
	}
	pending := map[string]usage.Units{}
	if n := c.app.node; n != nil {
		if err := n.engine.Flush(ctx); err != nil {
			out.Complete = false
		}
		if pending, err = n.pending(ctx); err != nil {
			return out, err
		}
	}
	for _, s := range subs {
		res, err := c.usage.Query(ctx, metering.QueryInput{
			From: time.UnixMilli(0), To: out.AsOf.Add(24 * time.Hour),
			Filter: metering.Filter{Subscriptions: []string{s.ID}},
		})
		if err != nil {
			return out, fmt.Errorf("usage of %s: %w", s.ID, err)
		}
		balance, err := c.quota.store.Read(ctx, s.ID)
		if err != nil {
			return out, fmt.Errorf("quota of %s: %w", s.ID, err)
		}
		var used usage.Units
		for _, l := range balance.Lots {
			used[l.Unit] += l.Used
		}
		for _, u := range s.Units {
			line := admin.ReconciliationLine{
				Subscription: s.ID, Unit: u, Quota: used[u], Usage: res.Total.Charged[u],
				Journal: res.Total.Charged[u] + pending[s.ID][u],
			}
			line.Drift = line.Quota - line.Journal
			out.Drift += max(line.Drift, -line.Drift)
			out.Subscriptions = append(out.Subscriptions, line)
		}
	}
	return out, nil
}

// pending sums the charges of records that are journalled and not shipped yet.
func (n *node) pending(ctx context.Context) (map[string]usage.Units, error) {
	cursor, err := n.journal.Consumer(consumerUsage)
	if err != nil {
		return nil, err
	}
	sums := make(map[string]usage.Units)
	reader := n.journal.Reader(cursor.Acked())
	defer func() { _ = reader.Close() }()
	var rec usage.Record
	for ctx.Err() == nil {
		entry, ok, err := reader.TryNext()
		if err != nil {
			return nil, err
		}
		if !ok {
			return sums, nil
		}
		if entry.Kind != journal.KindUsage {
			continue
		}
		if err := usage.DecodeRecord(entry.Payload, &rec); err != nil {
			return nil, err
		}
		units := sums[rec.Subscription]
		for _, ch := range rec.Charges {
			units[ch.Unit] += ch.Amount
		}
		sums[rec.Subscription] = units
	}
	return nil, ctx.Err()
}
