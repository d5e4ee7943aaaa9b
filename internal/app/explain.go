package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"tollgate/admin"
	"tollgate/internal/ids"
	"tollgate/internal/journal"
	"tollgate/internal/usage"
	"tollgate/metering"
)

// explainLimit bounds the calls that an explanation names of each kind, and
// explainRecords what it reads: a drift is looked at soon after it came.
const (
	explainLimit   = 1000
	explainRecords = 5_000_000
)

// Explain implements admin.Reconciler: it compares the records that this
// process's journal still holds of the subscription with the usage rows of the
// same node and time, call by call, and the lots of the quota store with what
// all rows say that each paid.
func (r reconciler) Explain(ctx context.Context, subscription string) (out admin.Explanation, err error) {
	c, n := r.c, r.c.app.node
	out = admin.Explanation{Subscription: subscription, AsOf: c.app.now().UTC()}
	run := func() error {
		if n != nil {
			if err := r.explainCalls(ctx, &out); err != nil {
				return err
			}
			// What was used and not told yet would look like a difference.
			if err := n.engine.FlushSubscription(ctx, subscription); err != nil {
				return fmt.Errorf("the quota store is away: %w", err)
			}
		}
		return r.explainLots(ctx, &out)
	}
	if n != nil {
		err = n.shipper.Between(run)
	} else {
		err = run()
	}
	return out, err
}

// explained is one call of an explanation.
func explained(r *usage.Record) admin.ExplainedCall {
	x := admin.ExplainedCall{RequestID: r.ID.String(), Time: r.Time, Node: r.Node, Charged: map[string]int64{}}
	for _, ch := range r.Charges {
		x.Charged[ch.Unit.String()] += ch.Amount
	}
	return x
}

// note adds x to list unless that is full.
func note(out *admin.Explanation, list *[]admin.ExplainedCall, x admin.ExplainedCall) {
	if len(*list) == explainLimit {
		out.Truncated = true
		return
	}
	*list = append(*list, x)
}

// chargesByLot returns the sums of a record by lot and unit: what both sides must
// agree on.
func chargesByLot(r *usage.Record) map[lotUnit]int64 {
	m := make(map[lotUnit]int64, len(r.Charges))
	for _, ch := range r.Charges {
		m[lotUnit{ch.Lot, ch.Unit}] += ch.Amount
	}
	return m
}

type lotUnit struct {
	lot  string
	unit usage.Unit
}

// explainCalls compares journal and rows. The shipper stands still meanwhile,
// so a record behind its cursor has no row yet, and every other has one.
func (r reconciler) explainCalls(ctx context.Context, out *admin.Explanation) error {
	n := r.c.app.node
	cursor, err := n.journal.Consumer(consumerUsage)
	if err != nil {
		return err
	}
	shipped := cursor.Acked()
	records := map[ids.Request]*usage.Record{}
	waiting := map[ids.Request]bool{}
	var first, last time.Time // admissions of the node's records that are compared
	reader := n.journal.Reader(journal.Position{})
	defer func() { _ = reader.Close() }()
	for read := 0; ; read++ {
		entry, ok, err := reader.TryNext()
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !ok {
			break
		}
		if read > explainRecords {
			out.Truncated = true
			break
		}
		if entry.Kind != journal.KindUsage {
			continue
		}
		rec := new(usage.Record)
		if err := usage.DecodeRecord(entry.Payload, rec); err != nil {
			return err
		}
		if rec.Has(usage.Provisional) {
			continue
		}
		if first.IsZero() || rec.Time.Before(first) {
			first = rec.Time
		}
		if rec.Time.After(last) {
			last = rec.Time
		}
		if rec.Subscription == out.Subscription && rec.Has(usage.Counted) && records[rec.ID] == nil {
			records[rec.ID] = rec
			waiting[rec.ID] = !entry.Pos.Before(shipped)
		}
	}
	out.Journals = []admin.ExplainedJournal{}
	if first.IsZero() {
		return nil
	}
	// A call that was admitted before the journal's oldest record was, and
	// ended later, is not in that order: its row is looked up one by one, and
	// rows are taken for unknown only where the journal is complete.
	complete := first
	out.Journals = append(out.Journals, admin.ExplainedJournal{Node: n.journal.Node(), From: first, To: last, Records: int64(len(records))})
	seen := map[ids.Request]bool{}
	counted := true
	list := metering.ListInput{
		From: first, To: last.Add(time.Millisecond), Limit: metering.MaxPage,
		Filter: metering.Filter{Subscriptions: []string{out.Subscription}, Nodes: []string{n.journal.Node()}, Counted: &counted},
	}
	for {
		page, err := r.c.usage.List(ctx, list)
		if err != nil {
			return err
		}
		for i := range page.Records {
			row := &page.Records[i]
			if row.Has(usage.Provisional) {
				continue
			}
			seen[row.ID] = true
			rec := records[row.ID]
			switch {
			case rec == nil && row.Finished.After(complete):
				note(out, &out.Unknown, explained(row))
			case rec == nil:
			case !maps.Equal(chargesByLot(rec), chargesByLot(row)):
				x := explained(rec)
				x.Row = explained(row).Charged
				note(out, &out.Different, x)
			}
		}
		if page.Next == "" {
			break
		}
		list.After = page.Next
	}
	for id, rec := range records {
		switch {
		case seen[id]:
		case waiting[id]:
			out.Waiting++
		default:
			note(out, &out.Missing, explained(rec))
		}
	}
	for _, l := range []*[]admin.ExplainedCall{&out.Missing, &out.Unknown, &out.Different} {
		slices.SortFunc(*l, func(a, b admin.ExplainedCall) int { return a.Time.Compare(b.Time) })
	}
	return nil
}

// explainLots compares what each lot says was used of it with what the rows,
// and the records that have none yet, say that it paid.
func (r reconciler) explainLots(ctx context.Context, out *admin.Explanation) error {
	paid := map[lotUnit]int64{}
	counted := true
	list := metering.ListInput{
		From: time.UnixMilli(0), To: endOfTime, Limit: metering.MaxPage,
		Filter: metering.Filter{Subscriptions: []string{out.Subscription}, Counted: &counted},
	}
	for read := 0; ; read += metering.MaxPage {
		page, err := r.c.usage.List(ctx, list)
		if err != nil {
			return err
		}
		for i := range page.Records {
			for at, n := range chargesByLot(&page.Records[i]) {
				paid[at] += n
			}
		}
		if page.Next == "" {
			break
		}
		if read > explainRecords {
			out.Truncated = true
			return nil // a part of the rows says nothing of the lots
		}
		list.After = page.Next
	}
	if n := r.c.app.node; n != nil && out.Waiting > 0 {
		waiting, err := n.pendingByLot(ctx, out.Subscription)
		if err != nil {
			return err
		}
		for at, k := range waiting {
			paid[at] += k
		}
	}
	b, err := r.c.quota.store.Read(ctx, out.Subscription)
	if err != nil {
		return err
	}
	for _, l := range b.Lots {
		at := lotUnit{l.ID, l.Unit}
		out.Lots = append(out.Lots, admin.ExplainedLot{Lot: l.ID, Unit: l.Unit, Quota: l.Used, Calls: paid[at], Drift: l.Used - paid[at]})
		delete(paid, at)
	}
	for at, k := range paid {
		out.Lots = append(out.Lots, admin.ExplainedLot{Lot: at.lot, Unit: at.unit, Calls: k, Drift: -k})
	}
	return nil
}

// pendingByLot sums the charges of records that are not shipped yet.
func (n *node) pendingByLot(ctx context.Context, subscription string) (map[lotUnit]int64, error) {
	out := map[lotUnit]int64{}
	err := n.eachPending(ctx, func(rec *usage.Record) {
		if rec.Subscription == subscription {
			for at, k := range chargesByLot(rec) {
				out[at] += k
			}
		}
	})
	return out, err
}
