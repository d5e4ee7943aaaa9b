package accuracy

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"tollgate/bench"
	"tollgate/internal/journal"
	"tollgate/internal/usage"
)

// dry has many streams at once run their package dry. Each was admitted with a
// fraction of what it will use; the rest is held as it runs. No upstream comes
// to its end, so no figure but the gateway's own count says what was used.
type dry struct{ nodes int } // gateways on one Redis; 0: one node on embedded stores

const (
	drySlice   = 32   // tokens a stream's hold grows by
	dryStreams = 32   // at once
	dryChunks  = 4000 // of each stream: far more than it can pay for
)

func (d dry) run(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{
		units: int64(b.rounds(20_000, 6000)), tokens: true, gateways: d.nodes, redis: d.nodes > 0,
		env: []string{fmt.Sprintf("TOLLGATE_GATEWAY_HOLD_SLICE=%d", drySlice), "TOLLGATE_GATEWAY_HOLD_DEFAULT=16"},
	})
	if err != nil {
		return err
	}
	defer w.close()
	replies := map[string]bench.Reply{}
	var mu sync.Mutex
	in := bench.LoadInput{
		Scenarios:   []bench.Scenario{w.stream(fmt.Sprintf("X-Mock-Chunks: %d", dryChunks), "X-Mock-Chunk-Delay: 1ms")},
		Connections: dryStreams, Requests: 2 * dryStreams, Timeout: 20 * time.Second,
		OnReply: func(a bench.Reply) {
			w.oracle.reply(a, w.product().SubscriptionID, true)
			mu.Lock()
			defer mu.Unlock()
			if a.Status == 200 {
				replies[a.RequestID] = a
			}
		},
	}
	// What one stream gave back another one may still have: it is sold out when
	// every call is refused, three times.
	for refused, deadline := 0, time.Now().Add(dryLimit); refused < 3; {
		res, err := bench.Load(ctx, in)
		if err != nil {
			return err
		}
		r.Rounds++
		if refused++; res.C4xx != res.Requests {
			refused = 0
		}
		if time.Now().After(deadline) {
			w.fault("the package cannot be sold to its end in %s: statuses %v, errors %v", dryLimit, res.Statuses, res.Classes)
			break
		}
		pause(ctx, 100*time.Millisecond) // longer than a refusal is remembered
	}
	for id, a := range replies {
		if !a.Failed || !a.Complete {
			w.fault("stream %s: error event %v, its end %v, %d events, %s", id, a.Failed, a.Complete, a.Events, a.Class)
		}
	}
	return d.judge(ctx, w, r, replies)
}

// judge compares what clients, journals and stores say.
func (d dry) judge(ctx context.Context, w *world, r *Result, replies map[string]bench.Reply) error {
	var streams, overrun int64
	seen := map[string]bool{}
	read := func() error {
		streams, overrun, r.Journal, r.Lost = 0, 0, 0, 0
		clear(seen)
		for _, n := range w.gateways {
			if err := n.eachRecord(func(rec *usage.Record) { d.record(w, r, rec, replies, seen, &streams, &overrun) }); err != nil {
				return err
			}
		}
		return nil
	}
	began := time.Now()
	sub := w.product().SubscriptionID
	err := until(ctx, w.settleLimit(), func(ctx context.Context) error {
		if err := read(); err != nil {
			return err
		}
		q, err := w.api.quota(ctx, sub)
		if err != nil {
			return err
		}
		if r.Usage, err = w.api.charged(ctx, sub, usage.Token.String()); err != nil {
			return err
		}
		rec, err := w.api.reconciliation(ctx)
		if err != nil {
			return err
		}
		r.Granted, r.Overrun, r.Counted = q.Granted, q.Overrun, q.Used+q.Overrun
		// All that was granted is sold; what was used beyond is told apart.
		r.Expected = q.Granted + overrun
		r.Drift = max(abs(r.Counted-r.Expected), abs(r.Usage-r.Expected), abs(r.Journal-r.Expected), abs(rec.Drift), r.Lost)
		r.Oversold = max(0, q.Used-q.Granted)
		if r.Drift != 0 {
			return fmt.Errorf("granted %d, used %d, overrun %d (by the journals %d), usage rows %d, journals %d, reconciliation %d, lost %d",
				q.Granted, q.Used, q.Overrun, overrun, r.Usage, r.Journal, rec.Drift, r.Lost)
		}
		return nil
	})
	r.Settled = float64(time.Since(began).Milliseconds()) / 1000
	if err != nil {
		w.fault("%v", err)
	}
	for id := range replies {
		if !seen[id] {
			w.fault("stream %s is in no journal", id)
		}
	}
	if streams == 0 {
		w.fault("no stream ran: the trial shows nothing")
	}
	t := w.oracle.totals()
	r.Calls, r.Client2xx, r.Mock2xx, r.Exhausted, r.Unavailable, r.Broken = t.calls, t.ok, w.oracle.mock2xx(), t.exhausted, t.away, t.broken
	r.Least, r.Most = r.Expected, r.Expected
	for _, f := range w.faults {
		r.fail("%s", f)
	}
	r.OK = r.Drift == 0 && r.Oversold == 0 && len(w.faults) == 0
	return nil
}

// record takes a final record of a stream.
func (d dry) record(w *world, r *Result, rec *usage.Record, replies map[string]bench.Reply, seen map[string]bool, streams, overrun *int64) {
	if !rec.Has(usage.Counted) || rec.Has(usage.Provisional) {
		return
	}
	id := rec.ID.String()
	*streams++
	seen[id] = true
	*overrun += rec.Overrun[usage.Token]
	r.Journal += rec.Charged(usage.Token) + rec.Overrun[usage.Token]
	if n := rec.Overrun[usage.Token]; n > drySlice {
		w.fault("stream %s used %d tokens beyond the package, more than a slice of %d", id, n, drySlice)
	}
	// Beside its text a stream has the event of the role, the error and the end.
	if a, ok := replies[id]; ok && rec.Units[usage.OutputToken] < int64(a.Events)-3 {
		r.Lost += int64(a.Events) - 3 - rec.Units[usage.OutputToken]
	}
}

// eachRecord calls fn for every usage record of the node's journal.
func (n *node) eachRecord(fn func(*usage.Record)) error {
	var rec usage.Record
	_, err := journal.Inspect(filepath.Join(n.data(), "journal"), func(r journal.Record) error {
		if r.Kind != journal.KindUsage {
			return nil
		}
		if err := usage.DecodeRecord(r.Payload, &rec); err != nil {
			return err
		}
		fn(&rec)
		return nil
	})
	if err != nil {
		return fmt.Errorf("journal of node %s: %w", n.name, err)
	}
	return nil
}
