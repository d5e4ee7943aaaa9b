package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// Options are what a Keeper needs and may be told.
type Options struct {
	DB     *sqldb.DB
	Store  Store
	Grants Grants

	// Learn is the longest time for which a node uses a lease without hearing
	// from the store: nothing new is leased for so long after a restoration.
	Learn time.Duration

	// Owner is the name of this process among those that may rebuild; default:
	// one made up.
	Owner string

	// Every is how often the store is looked at; default 250ms.
	Every time.Duration

	// CheckpointEvery is how often the store's counters are copied to the SQL
	// database; default 5s. A copy costs one read of each subscription and is
	// never made for more than a tenth of the time.
	CheckpointEvery time.Duration

	// Now is the clock; default time.Now.
	Now func() time.Time

	// Log takes what happens; default: nothing.
	Log *slog.Logger
}

const (
	claimFor      = time.Minute // how long a dead process keeps others from rebuilding
	lookTimeout   = 10 * time.Second
	checkpointGap = 9 // pauses are so many times as long as the last copy took
)

// ErrBusy says that another process is rebuilding the store.
var ErrBusy = errors.New("quota: another process is rebuilding the quota store: ask again when it is done")

var (
	errBusy = ErrBusy
	errAway = errors.New("quota: the quota store was lost again while it was rebuilt")
)

// Keeper looks after one quota store. Its methods are safe for concurrent use.
type Keeper struct {
	opt    Options
	store  Store
	grants Grants
	book   book

	kick chan struct{}

	run sync.Mutex // one look, rebuild or dry run at a time

	mu    sync.Mutex
	known int64 // the generation last seen whole in the store; 0: not since the start
	state State
	seen  map[string]uint64 // hash of each subscription's last checkpoint
	seed  maphash.Seed
}

// State is how the store stands, for readiness, metrics and the operator.
type State struct {
	Whole      bool      // the store has all it was told
	Rebuilding string    // why it is being rebuilt; empty: it is not
	Generation int64     // last given out
	Rebuilds   int64     // that restored something, by any process
	LastAt     time.Time // of the last of them
	LastReason string
	Last       Report    // of this process's last comparison
	Checkpoint time.Time // of the last complete copy of the counters
	Failures   int64     // looks, rebuilds and copies that failed, since the start
}

// New returns a Keeper after bringing its tables to the newest schema. Nothing
// is looked at before Start.
func New(ctx context.Context, o Options) (*Keeper, error) {
	if o.DB == nil || o.Store == nil || o.Grants == nil || o.Learn <= 0 {
		return nil, errors.New("quota: a keeper needs a database, a store, grants and a learning time")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Owner == "" {
		o.Owner = ids.New(o.Now())
	}
	if o.Every <= 0 {
		o.Every = 250 * time.Millisecond
	}
	if o.CheckpointEvery <= 0 {
		o.CheckpointEvery = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := o.DB.Migrate(ctx, Migrations); err != nil {
		return nil, err
	}
	return &Keeper{
		opt: o, store: o.Store, grants: o.Grants, book: book{o.DB},
		kick: make(chan struct{}, 1), seen: map[string]uint64{}, seed: maphash.MakeSeed(),
	}, nil
}

// State returns the state of now.
func (k *Keeper) State() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state
}

// Start compares the store with the books, whatever its mark says, and restores
// what it lacks. Call it before anything is served.
func (k *Keeper) Start(ctx context.Context) error {
	err := k.look(ctx)
	if errors.Is(err, ErrBusy) {
		return nil // the process that has the claim does it; Run follows
	}
	return err
}

// Run looks after the store until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { k.copyLoop(ctx) })
	defer wg.Wait()
	failing := 0
	for k.pause(ctx, k.opt.Every) {
		err := k.look(ctx)
		if err == nil || ctx.Err() != nil {
			failing = 0
			continue
		}
		if errors.Is(err, ErrBusy) {
			continue
		}
		k.failed()
		if failing++; failing&(failing-1) == 0 { // the 1st, 2nd, 4th, 8th, …
			k.opt.Log.Warn("quota: the quota store cannot be looked after", "failures", failing, "error", err)
		}
	}
}

// pause waits for d or a kick, and reports whether ctx goes on.
func (k *Keeper) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-k.kick:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

func (k *Keeper) failed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.Failures++
}

// Granted notes that the store took a change of a grant. Call it after each one
// and before the change is taken for delivered: should the store forget it, the
// generation tells. When the store was lost meanwhile, the rebuild finds the
// change in the books.
func (k *Keeper) Granted(ctx context.Context) error {
	generation, err := k.book.next(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	known := k.known
	k.mu.Unlock()
	done := false
	if known > 0 {
		if done, err = k.store.SetMark(ctx, known, generation); err != nil {
			done = false // the next look makes up for it
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if done {
		k.known = max(k.known, generation)
		k.state.Generation = k.known
		return nil
	}
	select {
	case k.kick <- struct{}{}:
	default:
	}
	return nil
}

// look looks at the store once and rebuilds it if it must.
func (k *Keeper) look(ctx context.Context) error {
	k.run.Lock()
	defer k.run.Unlock()
	lctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	// The mark is read before the book: a generation that is given out between
	// the two only makes the mark seem late, which is put right below.
	m, err := k.store.Mark(lctx)
	if err != nil {
		return err
	}
	p, err := k.book.read(lctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	known := k.known
	k.state.Generation, k.state.Rebuilds, k.state.LastAt, k.state.LastReason = p.generation, p.rebuilds, p.rebuilt, p.reason
	k.mu.Unlock()
	reason := ""
	switch {
	case m.Generation == 0:
		reason = "the store is empty"
	case m.Generation < 0:
		reason = "a rebuild was not finished"
	case m.Server != p.server:
		reason = "the store's server was started or replaced"
	case m.Generation < known:
		reason = "the store was put back to an earlier state"
	case known == 0:
		// This process has just started. The mark says that nothing is wrong,
		// and gateways are not disturbed unless something is.
		r, err := k.sweep(ctx, true)
		if err != nil {
			return err
		}
		if known = m.Generation; r.Short > 0 {
			reason = "the store lacks what the books have"
		}
	}
	if reason != "" {
		_, err := k.rebuild(ctx, reason)
		return err
	}
	if m.Generation > p.generation {
		k.opt.Log.Warn("quota: the quota store is ahead of the SQL database, which was put back to an earlier state", "store", m.Generation, "database", p.generation)
		if err := k.book.atLeast(lctx, m.Generation); err != nil {
			return err
		}
	}
	if m.Generation < p.generation {
		// A grant was applied and its mark is still on its way, or was lost.
		// The store is the one of before, so the grant is in it.
		if done, err := k.store.SetMark(lctx, known, p.generation); err != nil || !done {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known = max(k.known, m.Generation, p.generation)
	k.state.Whole = true
	return nil
}

// Rebuild compares the store with the books now and, unless dry, restores what
// it lacks, as after a loss. It returns ErrBusy while another process does.
func (k *Keeper) Rebuild(ctx context.Context, dry bool) (Report, error) {
	k.run.Lock()
	defer k.run.Unlock()
	if dry {
		return k.sweep(ctx, true)
	}
	return k.rebuild(ctx, "an operator asked for it")
}

// rebuild does what the package's comment says. The caller holds k.run.
func (k *Keeper) rebuild(ctx context.Context, reason string) (r Report, err error) {
	k.mu.Lock()
	k.state.Whole, k.state.Rebuilding = false, reason
	k.mu.Unlock()
	began := k.opt.Now()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.state.Rebuilding, k.state.Last = "", r
		if err == nil {
			k.state.Whole = true
		}
	}()
	generation, err := k.book.claim(ctx, k.opt.Owner, began, began.Add(claimFor))
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil && !errors.Is(err, ErrBusy) {
			// Whatever ended it, another try must not wait for the claim's end.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
			defer cancel()
			_ = k.book.release(ctx, k.opt.Owner)
		}
	}()
	m, err := k.store.Mark(ctx)
	if err != nil {
		return r, err
	}
	if m.Generation >= generation {
		if err := k.book.atLeast(ctx, m.Generation); err != nil {
			return r, err
		}
		if generation, err = k.book.next(ctx); err != nil {
			return r, err
		}
	}
	if _, err := k.store.SetMark(ctx, 0, -generation); err != nil {
		return r, err
	}
	if r, err = k.sweep(ctx, false); err != nil {
		return r, fmt.Errorf("quota: rebuild the quota store (%s): %w", reason, err)
	}
	done, err := k.store.SetMark(ctx, -generation, generation)
	if err != nil {
		return r, err
	}
	if !done {
		return r, errAway
	}
	if err := k.book.done(ctx, k.opt.Owner, m.Server, reason, r.Short > 0, k.opt.Now()); err != nil {
		return r, err
	}
	k.mu.Lock()
	k.known = generation
	k.state.Generation = generation
	if r.Short > 0 {
		k.state.Rebuilds++
		k.state.LastAt, k.state.LastReason = k.opt.Now(), reason
	}
	clear(k.seen) // copy everything again
	k.mu.Unlock()
	log, what := k.opt.Log.Info, "quota: the quota store was compared with the books and lacks nothing"
	if r.Short > 0 {
		log, what = k.opt.Log.Error, "quota: the quota store had lost what it was told and was rebuilt"
	}
	log(what, "reason", reason, "generation", generation, "subscriptions", r.Subscriptions, "lots", r.Lots,
		"short", r.Short, "missing_lots", r.MissingLots, "missing_units", r.MissingUse, "took", k.opt.Now().Sub(began))
	return r, nil
}

// copyLoop copies the store's counters to the book until ctx ends.
func (k *Keeper) copyLoop(ctx context.Context) {
	took := time.Duration(0)
	for {
		t := time.NewTimer(max(k.opt.CheckpointEvery, checkpointGap*took))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		began := time.Now()
		if err := k.Copy(ctx); err != nil && ctx.Err() == nil {
			k.failed()
			k.opt.Log.Warn("quota: the quota store's counters could not be copied", "error", err)
		}
		took = time.Since(began)
	}
}

// Copy copies the counters of every subscription to the book. Those of a store
// that has lost some are merged like any others: nothing in the book shrinks.
func (k *Keeper) Copy(ctx context.Context) error {
	for after := ""; ; {
		list, err := k.store.Subscriptions(ctx, after, 500)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		for _, sub := range list {
			if err := k.copyOne(ctx, sub); err != nil {
				return err
			}
		}
		after = list[len(list)-1]
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state.Checkpoint = k.opt.Now()
	return nil
}

func (k *Keeper) copyOne(ctx context.Context, sub string) error {
	cp, err := k.store.Checkpoint(ctx, sub)
	if err != nil {
		return err
	}
	text, err := json.Marshal(cp.Incarnations)
	if err != nil {
		return err
	}
	sum := maphash.Bytes(k.seed, text)
	k.mu.Lock()
	old, known := k.seen[sub]
	k.mu.Unlock()
	if known && old == sum {
		return nil
	}
	if err := k.book.keep(ctx, &cp); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen[sub] = sum
	return nil
}
