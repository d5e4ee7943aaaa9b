package quota

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/internal/lot"
)

// Engine admits calls on one gateway node. Its methods are safe for concurrent
// use.
type Engine struct {
	cfg      Config
	store    Store
	recorder Recorder
	now      func() time.Time
	mono     func() int64 // monotonic ns since the engine was made

	seed   maphash.Seed
	shards [shardCount]shard
	holds  sync.Pool

	watchMu sync.Mutex
	watched map[*account]struct{} // accounts with use to report or units to look after

	earlierMu sync.Mutex
	earlier   map[string][]*CloseRequest // by subscription: closings the store has not taken yet
	settled   map[string][]*CloseRequest // those it has taken, to be repeated should it forget
	didReplay atomic.Bool

	breaker breaker
	stats   counters
	suspect atomic.Bool // the store may have lost what it was told

	closed atomic.Bool // no calls are admitted
	stop   context.CancelFunc
	ctx    context.Context // of the loops; ends when Close begins

	abort   context.CancelFunc
	workCtx context.Context // of exchanges; ends with Close, or when its context does

	lifeMu sync.RWMutex // guards ended, and work against growing after it
	ended  bool
	work   sync.WaitGroup // background goroutines and rounds
}

const shardCount = 1024

// shard is a part of the accounts. Readers take the map as it is; a writer
// copies it, so that looking up takes no lock.
type shard struct {
	m  atomic.Pointer[map[string]*account]
	mu sync.Mutex
}

// New returns an engine that draws on store and keeps records in recorder. It
// runs background work until Close. Call Replay before the first Admit when
// the node has a journal.
func New(cfg Config, store Store, recorder Recorder) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	e := newEngine(cfg, store, recorder)
	e.work.Go(e.flushLoop)
	e.work.Go(e.watchLoop)
	if e.cfg.TendEvery > 0 {
		e.work.Go(e.tendLoop)
	}
	return e, nil
}

// newEngine makes an engine without its background work.
func newEngine(cfg Config, store Store, recorder Recorder) *Engine {
	e := &Engine{
		cfg:      cfg.withDefaults(),
		store:    store,
		recorder: recorder,
		seed:     maphash.MakeSeed(),
		watched:  map[*account]struct{}{},
		earlier:  map[string][]*CloseRequest{},
		settled:  map[string][]*CloseRequest{},
	}
	e.now = cfg.Now
	switch {
	case cfg.Mono != nil:
		if e.now == nil {
			e.now = time.Now
		}
		e.mono = func() int64 { return int64(cfg.Mono()) + 1 }
	case e.now == nil:
		base := time.Now()
		e.now = time.Now
		e.mono = func() int64 { return int64(time.Since(base)) + 1 }
	default:
		base := e.now()
		e.mono = func() int64 { return int64(e.now().Sub(base)) + 1 }
	}
	e.holds.New = func() any { return new(Hold) }
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.workCtx, e.abort = context.WithCancel(context.Background())
	return e
}

// lookup returns the account of a subscription, or nil before its first call.
func (e *Engine) lookup(id string) *account {
	s := &e.shards[maphash.String(e.seed, id)%shardCount]
	if m := s.m.Load(); m != nil {
		return (*m)[id]
	}
	return nil
}

// account returns the account of a subscription and makes it when it is new.
func (e *Engine) account(id string) *account {
	if a := e.lookup(id); a != nil {
		return a
	}
	s := &e.shards[maphash.String(e.seed, id)%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.m.Load()
	var m map[string]*account
	if old == nil {
		m = make(map[string]*account, 1)
	} else {
		if a := (*old)[id]; a != nil {
			return a
		}
		m = make(map[string]*account, len(*old)+1)
		for k, v := range *old {
			m[k] = v
		}
	}
	a := &account{id: id, leases: map[bucketKey]*lease{}}
	m[id] = a
	s.m.Store(&m)
	return a
}

// each calls fn for every account.
func (e *Engine) each(fn func(*account)) {
	for i := range e.shards {
		if m := e.shards[i].m.Load(); m != nil {
			for _, a := range *m {
				fn(a)
			}
		}
	}
}

// spawn runs fn in the background, unless the engine has ended.
func (e *Engine) spawn(fn func()) bool {
	e.lifeMu.RLock()
	defer e.lifeMu.RUnlock()
	if e.ended {
		return false
	}
	e.work.Go(fn)
	return true
}

// Notify says that a subscription changed: a package was bought, renewed,
// withdrawn. Refusals end at once, idle units go back, and the next call draws
// from the lots in their new order. It does not wait.
func (e *Engine) Notify(subscription string) {
	a := e.lookup(subscription)
	if a == nil {
		return // nothing is cached of it
	}
	a.refusedUntil.Store(0)
	a.mu.Lock()
	a.giveBack = true
	a.view.Store(nil)
	a.mu.Unlock()
	e.start(a)
}

// Read returns the balance of a subscription as the store knows it. Use that
// was not reported yet counts as leased; FlushSubscription reports it.
func (e *Engine) Read(ctx context.Context, subscription string) (lot.Balance, error) {
	return e.store.Read(ctx, subscription)
}

// FlushSubscription reports the use of one subscription now, so that a read
// that follows shows the exact figure.
func (e *Engine) FlushSubscription(ctx context.Context, subscription string) error {
	a := e.lookup(subscription)
	if a == nil {
		return nil
	}
	return e.flush(ctx, a)
}

// Flush reports the use of every subscription now.
func (e *Engine) Flush(ctx context.Context) error {
	return e.parallel(ctx, e.takeWatched(), e.flush)
}

// flush runs a report that begins after the call and waits for its answer.
func (e *Engine) flush(ctx context.Context, a *account) error {
	e.watch(a)
	r := e.start(a)
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// parallel calls fn for each account, some at a time, and joins the errors.
func (e *Engine) parallel(ctx context.Context, accounts []*account, fn func(context.Context, *account) error) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		errs  []error
		slots = make(chan struct{}, 16)
	)
	for _, a := range accounts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := fn(ctx, a); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if len(errs) < 8 { // one store that is away is one fault, not a million
					errs = append(errs, fmt.Errorf("subscription %s: %w", a.id, err))
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close refuses new calls, returns what is idle and closes this incarnation in
// the store. Settle or release every hold first: a subscription with an open
// hold is left for the next start's Replay, and told in the error. Close does
// not close the store.
func (e *Engine) Close(ctx context.Context) error {
	if e.closed.Swap(true) {
		return nil
	}
	e.stop()
	defer context.AfterFunc(ctx, e.abort)()
	var all []*account
	e.each(func(a *account) { all = append(all, a) })
	err := e.parallel(ctx, all, e.retire)
	e.lifeMu.Lock()
	e.ended = true
	e.lifeMu.Unlock()
	e.abort()
	e.work.Wait()
	return err
}

// retire returns and reports everything of one account and closes the
// incarnation on it.
func (e *Engine) retire(ctx context.Context, a *account) error {
	a.mu.Lock()
	touched := a.contacted || len(a.leases) > 0
	a.giveBack = true
	a.mu.Unlock()
	if !touched {
		return nil
	}
	if err := e.flush(ctx, a); err != nil {
		return err
	}
	a.mu.Lock()
	req := &CloseRequest{Subscription: a.id, Incarnation: e.cfg.Incarnation, Final: true}
	held := int64(0)
	for _, l := range a.leases {
		held += max(0, l.held())
		req.Counters = append(req.Counters, Counter{Lot: l.lot, From: l.from, Used: l.used.Load()})
	}
	for u := range a.overrun {
		req.Overrun[u] = a.overrun[u].Load()
	}
	a.mu.Unlock()
	if held > 0 {
		return fmt.Errorf("quota: %d units are in open holds: settle or release them before closing", held)
	}
	return e.store.CloseIncarnation(ctx, req)
}

// Stats are figures of the engine since its start, for metrics.
type Stats struct {
	Admitted     int64 // calls admitted
	Slow         int64 // of them, or refused, after asking the store
	Exhausted    int64 // refused with ErrExhausted
	NoPackage    int64 // refused with ErrNoPackage
	Unavailable  int64 // refused with ErrUnavailable
	Settled      int64 // holds settled
	Released     int64 // holds released
	Overrun      int64 // units used beyond any lot, all billing items together
	Credit       int64 // units drawn on credit lines while the store was away
	Syncs        int64 // reports sent
	SyncFailures int64 // reports without an answer
	Skewed       int64 // answers that found this node's clock off
	Learning     int64 // answers of a store that relearns its state
	Recalls      int64 // recalls followed
	BreakerOpen  bool  // the store is taken to be away
	Outstanding  int64 // units leased to this node and not used, all billing items together
}

// Stats returns the figures of now.
func (e *Engine) Stats() Stats {
	s := e.stats.read()
	s.BreakerOpen = e.breaker.isOpen(e.mono())
	e.each(func(a *account) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, l := range a.leases {
			s.Outstanding += max(0, l.outstanding())
		}
	})
	return s
}

// counters are the figures behind Stats.
type counters struct {
	slow, exhausted, noPackage, unavailable       atomic.Int64
	overrun, credit                               atomic.Int64
	syncs, syncFailures, skewed, learning, recall atomic.Int64
	admitted, settled, released                   striped
}

func (c *counters) read() Stats {
	return Stats{
		Admitted:     c.admitted.sum(),
		Slow:         c.slow.Load(),
		Exhausted:    c.exhausted.Load(),
		NoPackage:    c.noPackage.Load(),
		Unavailable:  c.unavailable.Load(),
		Settled:      c.settled.sum(),
		Released:     c.released.sum(),
		Overrun:      c.overrun.Load(),
		Credit:       c.credit.Load(),
		Syncs:        c.syncs.Load(),
		SyncFailures: c.syncFailures.Load(),
		Skewed:       c.skewed.Load(),
		Learning:     c.learning.Load(),
		Recalls:      c.recall.Load(),
	}
}

// striped is a counter of the hot path: each hold keeps to one stripe, so that
// cores do not fight for one cache line.
type striped [8]struct {
	n atomic.Int64
	_ [56]byte
}

func (s *striped) add(stripe uint32) { s[stripe%8].n.Add(1) }

func (s *striped) sum() (n int64) {
	for i := range s {
		n += s[i].n.Load()
	}
	return n
}
