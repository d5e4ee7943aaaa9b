package app

import (
	"context"
	"fmt"

	"tollgate/admin"
	"tollgate/internal/journal"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
)

// reconciler compares what was counted in its three places (design section 2):
// the quota store, the usage store, and the journal, whose figure is what the
// usage store has plus what the journal still holds for it.
//
// Calls go on meanwhile. So the quota store is read before and after, each time
// when this node has reported all it used: the journal's figure lies between
// the two, or there is drift.
type reconciler struct{ c *control }

// Reconcile implements admin.Reconciler.
func (r reconciler) Reconcile(ctx context.Context) (out admin.Reconciliation, err error) {
	n := r.c.app.node
	if n == nil {
		return r.settled(ctx) // the gateways are other processes
	}
	err = n.shipper.Between(func() error {
		pending := func() (map[string]usage.Units, error) { return n.pending(ctx) }
		flush := func() error { return n.engine.Flush(ctx) }
		out, err = r.compare(ctx, flush, pending)
		return err
	})
	return out, err
}

func (r reconciler) compare(ctx context.Context, flush func() error, pending func() (map[string]usage.Units, error)) (admin.Reconciliation, error) {
	c := r.c
	out := admin.Reconciliation{AsOf: c.app.now().UTC(), Complete: true}
	subs, err := c.billing.DirectorySubscriptions(ctx)
	if err != nil {
		return out, err
	}
	read := func() ([]lot.Balance, error) {
		if flush() != nil {
			out.Complete = false // the quota store is away or slow
		}
		balances := make([]lot.Balance, len(subs))
		for i, s := range subs {
			if balances[i], err = c.quota.store.Read(ctx, s.ID); err != nil {
				return nil, fmt.Errorf("quota of %s: %w", s.ID, err)
			}
		}
		return balances, nil
	}
	before, err := read()
	if err != nil {
		return out, err
	}
	waiting, err := pending()
	if err != nil {
		return out, err
	}
	charged, err := chargedRows(ctx, c.usage)
	if err != nil {
		return out, err
	}
	after, err := read()
	if err != nil {
		return out, err
	}
	for i, s := range subs {
		low := lines(&before[i], usage.Units{}, charged[s.ID], waiting[s.ID])
		high := lines(&after[i], usage.Units{}, charged[s.ID], waiting[s.ID])
		for k, l := range high {
			switch {
			case k >= len(low) || l.Drift < 0: // less than the journal even afterwards
			case low[k].Drift > 0: // more than the journal even before
				l = low[k]
			default:
				l.Quota, l.Drift = l.Journal, 0 // calls went on in between
			}
			out.Drift += max(l.Drift, -l.Drift)
			out.Subscriptions = append(out.Subscriptions, l)
		}
	}
	return out, nil
}

// pending sums the charges of records that are journalled and not shipped yet.
func (n *node) pending(ctx context.Context) (map[string]usage.Units, error) {
	sums := make(map[string]usage.Units)
	err := n.eachPending(ctx, func(rec *usage.Record) { addCharges(sums, rec) })
	return sums, err
}

// eachPending calls f with each final record of a charged call that is
// journalled and not shipped yet. f must not keep it.
func (n *node) eachPending(ctx context.Context, f func(*usage.Record)) error {
	cursor, err := n.journal.Consumer(consumerUsage)
	if err != nil {
		return err
	}
	reader := n.journal.Reader(cursor.Acked())
	defer func() { _ = reader.Close() }()
	var rec usage.Record
	for ctx.Err() == nil {
		entry, ok, err := reader.TryNext()
		if err != nil || !ok {
			return err
		}
		if entry.Kind != journal.KindUsage {
			continue
		}
		if err := usage.DecodeRecord(entry.Payload, &rec); err != nil {
			return err
		}
		if rec.Has(usage.Counted) && !rec.Has(usage.Provisional) {
			f(&rec)
		}
	}
	return ctx.Err()
}
