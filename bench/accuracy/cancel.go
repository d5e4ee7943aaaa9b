package accuracy

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"tollgate/bench"
	"tollgate/internal/usage"
)

const (
	cancelChunks = 60 // of each stream
	// wordTokens bounds the tokens of one of the mock's words.
	wordTokens = 8
)

// cancelled has clients leave streams of a product that closes the upstream
// then. Only the gateway's own count says what such a stream used: it must hold
// what the client was given, and no more than the mock wrote.
func cancelled(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: plenty, tokens: true})
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.cancelProduct(ctx); err != nil {
		return err
	}
	probes := w.mock.Stats()
	rnd := b.rand(r.Name)
	var list []bench.Scenario
	for i := range 16 {
		s := w.stream(fmt.Sprintf("X-Mock-Chunks: %d", cancelChunks), fmt.Sprintf("X-Mock-Chunk-Delay: %dus", 500+rnd.IntN(1500)), "X-Mock-Tokens: 100,1000")
		s.Name = fmt.Sprint("stream ", i)
		if i%4 != 0 {
			s.LeaveAfter = 2 + rnd.IntN(cancelChunks/2)
		}
		list = append(list, s)
	}
	var mu sync.Mutex
	replies := map[string]bench.Reply{}
	r.Rounds = 1
	calls := int64(b.rounds(3000, 400))
	if _, err := bench.Load(ctx, bench.LoadInput{
		Scenarios: list, Connections: 24, Requests: calls, Seed: b.seed, Timeout: 20 * time.Second,
		OnReply: func(a bench.Reply) {
			w.oracle.reply(a, w.product().SubscriptionID, true)
			mu.Lock()
			defer mu.Unlock()
			if a.Status == 200 {
				replies[a.RequestID] = a
			}
		},
	}); err != nil {
		return err
	}
	left := 0
	seen := map[string]bool{}
	err = w.sums(ctx, r, func(rec *usage.Record) {
		id := rec.ID.String()
		a, ok := replies[id]
		if !ok {
			return // a probe
		}
		if seen[id] {
			return
		}
		charged := rec.Charged(usage.Token) + rec.Overrun[usage.Token]
		least, most := int64(1100), int64(1100) // what the upstream reported
		if !a.Complete {
			left++
			// The event of the role has no text; a word is a token at least, and
			// two may share one where they meet.
			least = max(0, int64(a.Events)-2) / 2
			most = 100 + wordTokens*cancelChunks
			if rec.Basis == usage.BasisUpstream {
				most = 1100 // it had come to its end all the same
			}
		}
		r.Lost += max(0, least-charged)
		r.Excess += max(0, charged-most)
	}, func(journal int64) int64 { return journal })
	if err != nil {
		return err
	}
	records := map[string]bool{}
	for _, n := range w.gateways {
		if err := n.eachRecord(func(rec *usage.Record) { records[rec.ID.String()] = true }); err != nil {
			return err
		}
	}
	for id := range replies {
		if !records[id] {
			r.OK = false
			r.fail("stream %s is in no journal", id)
		}
	}
	t := w.oracle.totals()
	r.Calls, r.Client2xx, r.Mock2xx, r.Broken = t.calls, t.ok, w.oracle.mock2xx(), t.broken
	s := w.mock.Stats()
	if ended := s.Finished - probes.Finished; left == 0 || ended > calls/2 {
		r.OK = false
		r.fail("the trial shows nothing: %d clients left, %d of %d streams were read to their end", left, ended, calls)
	}
	return nil
}

// cancelProduct has the trial's product close the upstream when a client leaves,
// and waits until that is in force.
func (w *world) cancelProduct(ctx context.Context) error {
	var sub struct {
		Product string `json:"product_id"`
	}
	if err := w.api.do(ctx, http.MethodGet, "/subscriptions/"+w.product().SubscriptionID, nil, &sub); err != nil {
		return err
	}
	if err := w.api.do(ctx, http.MethodPatch, "/products/"+sub.Product, map[string]any{"on_disconnect": "cancel"}, &struct{}{}); err != nil {
		return err
	}
	// KEY-7: in force within five seconds; a stream that is not read to its end
	// shows it.
	s := w.stream("X-Mock-Chunks: 20", "X-Mock-Chunk-Delay: 5ms")
	s.Name, s.LeaveAfter = "probe", 2
	for range 25 {
		before := w.mock.Stats().Finished
		if _, err := w.load(ctx, bench.LoadInput{Scenarios: []bench.Scenario{s}, Requests: 1}); err != nil {
			return err
		}
		if err := until(ctx, 5*time.Second, func(context.Context) error {
			if n := w.mock.Stats().Active; n != 0 {
				return fmt.Errorf("%d answers of the mock are still under way", n)
			}
			return nil
		}); err != nil {
			return err
		}
		if w.mock.Stats().Finished == before {
			return nil
		}
		if !pause(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	w.fault("the product's choice to cancel was not in force after five seconds")
	return nil
}
