package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tollgate/internal/lot"
	"tollgate/quota"
	"tollgate/quota/ledger"
)

// Options are the settings of a store. The zero value is usable.
type Options struct {
	// SyncEvery is how long reports may lie in the page cache; default 1s.
	SyncEvery time.Duration
	// CompactAbove is the least size of a log to be rewritten; default 8 MiB.
	CompactAbove int64
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Log takes what happens in the background; default: nothing.
	Log *slog.Logger
}

// Store is a quota store in one process. It implements quota.Store.
type Store struct {
	opt Options

	mu       sync.RWMutex // guards the map; each entry guards its account
	accounts map[string]*entry
	log      *logFile

	markMu sync.Mutex
	mark   int64

	watchMu  sync.Mutex
	watchers map[*watcher]struct{}

	stop chan struct{}
	done chan struct{}
	once sync.Once
}

// entry is one account with its lock. Entries are taken one at a time.
type entry struct {
	mu sync.Mutex
	a  *ledger.Account
}

type watcher struct{ ids chan string }

var _ quota.Store = (*Store)(nil)

// Open opens the store in dir and makes it when it is not there.
func Open(dir string, opt Options) (*Store, error) {
	if opt.SyncEvery == 0 {
		opt.SyncEvery = time.Second
	}
	if opt.CompactAbove == 0 {
		opt.CompactAbove = 8 << 20
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		opt:      opt,
		accounts: map[string]*entry{},
		watchers: map[*watcher]struct{}{},
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	log, err := openLog(dir, opt, func(a *ledger.Account) {
		s.accounts[a.Subscription] = &entry{a: a}
	})
	if err != nil {
		return nil, err
	}
	s.log = log
	if err := s.openMark(); err != nil {
		return nil, errors.Join(err, log.close())
	}
	go s.background()
	return s, nil
}

// Close syncs and closes the log.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.stop)
		<-s.done
		err = s.log.close()
	})
	return err
}

// background syncs the log and rewrites it when it has grown.
func (s *Store) background() {
	defer close(s.done)
	t := time.NewTicker(s.opt.SyncEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		if err := s.log.sync(); err != nil {
			s.opt.Log.Error("quota: the embedded store's log could not be synced", "error", err)
		}
		if s.log.bloated() {
			if err := s.Compact(); err != nil {
				s.opt.Log.Error("quota: the embedded store's log could not be rewritten", "error", err)
			}
		}
	}
}

// Compact rewrites the log with only the present state.
func (s *Store) Compact() error {
	s.mu.RLock()
	entries := make([]*entry, 0, len(s.accounts))
	for _, e := range s.accounts {
		entries = append(entries, e)
	}
	s.mu.RUnlock()
	return s.log.rewrite(func(write func(*ledger.Account) error) error {
		for _, e := range entries {
			e.mu.Lock()
			err := write(e.a)
			e.mu.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) env() ledger.Env { return ledger.Env{Now: s.opt.Now().UnixMilli(), Run: "embedded"} }

// entry returns the entry of a subscription; with make set it makes a missing
// one.
func (s *Store) entry(id string, make bool) *entry {
	s.mu.RLock()
	e := s.accounts[id]
	s.mu.RUnlock()
	if e != nil || !make {
		return e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e = s.accounts[id]; e == nil {
		e = &entry{a: ledger.New(id)}
		s.accounts[id] = e
	}
	return e
}

// step runs one atomic step on a subscription and writes it to the log; with
// durable set it is also synced. When a durable step fails it did not happen.
// When another one fails its caller saw no answer and will ask again, which
// changes nothing twice.
func (s *Store) step(ctx context.Context, id string, durable bool, fn func(a *ledger.Account)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if id == "" {
		return errors.New("quota: the subscription's id is empty")
	}
	e := s.entry(id, true)
	e.mu.Lock()
	defer e.mu.Unlock()
	if durable {
		// A grant must not be half true: work on a copy until it is on disk.
		c := e.a.Clone()
		fn(c)
		if err := s.log.append(c); err != nil {
			return err
		}
		e.a = c
		return s.log.sync()
	}
	fn(e.a)
	return s.log.append(e.a)
}

// Sync implements quota.Leaser.
func (s *Store) Sync(ctx context.Context, req *quota.SyncRequest) (*quota.SyncReply, error) {
	if err := req.Incarnation.Validate(); err != nil {
		return nil, err
	}
	// A subscription that was never granted anything leaves no trace: calls
	// with made-up ids must not fill the disk.
	if s.entry(req.Subscription, false) == nil && len(req.Counters) == 0 && req.Overrun.IsZero() {
		reply, _ := ledger.New(req.Subscription).Sync(s.env(), req)
		return reply, nil
	}
	var reply *quota.SyncReply
	recall := false
	err := s.step(ctx, req.Subscription, false, func(a *ledger.Account) {
		reply, recall = a.Sync(s.env(), req)
	})
	if err != nil {
		return nil, err
	}
	if recall {
		s.recall(req.Subscription)
	}
	return reply, nil
}

// CloseIncarnation implements quota.Leaser.
func (s *Store) CloseIncarnation(ctx context.Context, req *quota.CloseRequest) error {
	if err := req.Incarnation.Validate(); err != nil {
		return err
	}
	return s.step(ctx, req.Subscription, false, func(a *ledger.Account) { a.Close(s.env(), req) })
}

// recall tells every watcher. One that is behind misses it: its next report
// makes up for that.
func (s *Store) recall(id string) {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	for w := range s.watchers {
		select {
		case w.ids <- id:
		default:
		}
	}
}

// Watch implements quota.Leaser.
func (s *Store) Watch(ctx context.Context, recall func(string)) error {
	w := &watcher{ids: make(chan string, 256)}
	s.watchMu.Lock()
	s.watchers[w] = struct{}{}
	s.watchMu.Unlock()
	defer func() {
		s.watchMu.Lock()
		delete(s.watchers, w)
		s.watchMu.Unlock()
	}()
	for {
		select {
		case id := <-w.ids:
			recall(id)
		case <-ctx.Done():
			return nil
		case <-s.stop:
			return nil
		}
	}
}

// ApplyGrant implements quota.Granter.
func (s *Store) ApplyGrant(ctx context.Context, g lot.Grant) (applied bool, err error) {
	if err := quota.ValidateGrant(&g); err != nil {
		return false, err
	}
	err = s.step(ctx, g.Subscription, true, func(a *ledger.Account) { applied = a.ApplyGrant(s.env(), g) })
	return applied && err == nil, err
}

// SetThresholds implements quota.Granter.
func (s *Store) SetThresholds(ctx context.Context, t quota.Thresholds) (applied bool, err error) {
	if err := t.Validate(); err != nil {
		return false, err
	}
	err = s.step(ctx, t.Subscription, true, func(a *ledger.Account) { applied = a.SetThresholds(s.env(), t) })
	return applied && err == nil, err
}

// Restore implements quota.Granter.
func (s *Store) Restore(ctx context.Context, g lot.Grant, floor []quota.Floor, learn time.Duration) error {
	if err := quota.ValidateGrant(&g); err != nil {
		return err
	}
	return s.step(ctx, g.Subscription, true, func(a *ledger.Account) {
		a.Restore(s.env(), g, floor, learn.Milliseconds())
	})
}

// look runs fn on an account without changing it; on an empty one when the
// store does not know the subscription.
func (s *Store) look(id string, fn func(a *ledger.Account)) {
	e := s.entry(id, false)
	if e == nil {
		fn(ledger.New(id))
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	fn(e.a)
}

// Read implements quota.Reader.
func (s *Store) Read(ctx context.Context, id string) (b lot.Balance, err error) {
	s.look(id, func(a *ledger.Account) { b = a.Balance(s.opt.Now().UnixMilli()) })
	return b, ctx.Err()
}

// Audit implements quota.Reader.
func (s *Store) Audit(ctx context.Context, id string) (d []quota.Difference, err error) {
	s.look(id, func(a *ledger.Account) { d = a.Audit() })
	return d, ctx.Err()
}

// Report implements quota.Reader.
func (s *Store) Report(ctx context.Context, id string) (r []quota.Reported, err error) {
	s.look(id, func(a *ledger.Account) { r = a.Report() })
	return r, ctx.Err()
}

// Subscriptions implements quota.Reader.
func (s *Store) Subscriptions(ctx context.Context, after string, limit int) ([]string, error) {
	s.mu.RLock()
	ids := make([]string, 0, len(s.accounts))
	for id := range s.accounts {
		if id > after {
			ids = append(ids, id)
		}
	}
	s.mu.RUnlock()
	slices.Sort(ids)
	return ids[:min(limit, len(ids))], ctx.Err()
}

// Tend implements quota.Reader.
func (s *Store) Tend(ctx context.Context, req *quota.TendRequest) error {
	if s.entry(req.Subscription, false) == nil {
		return nil
	}
	return s.step(ctx, req.Subscription, false, func(a *ledger.Account) { a.Tend(s.env(), req) })
}

// Crossings implements quota.Outbox.
func (s *Store) Crossings(ctx context.Context, limit int) ([]quota.Crossing, error) {
	s.mu.RLock()
	entries := make([]*entry, 0, len(s.accounts))
	for _, e := range s.accounts {
		entries = append(entries, e)
	}
	s.mu.RUnlock()
	var out []quota.Crossing
	for _, e := range entries {
		e.mu.Lock()
		out = append(out, e.a.Outbox...)
		e.mu.Unlock()
		if len(out) >= limit {
			break
		}
	}
	return out[:min(limit, len(out))], ctx.Err()
}

// Ack implements quota.Outbox.
func (s *Store) Ack(ctx context.Context, done ...quota.Crossing) error {
	by := map[string]map[string]bool{}
	for _, c := range done {
		if by[c.Subscription] == nil {
			by[c.Subscription] = map[string]bool{}
		}
		by[c.Subscription][c.ID] = true
	}
	for id, ids := range by {
		if s.entry(id, false) == nil {
			continue
		}
		if err := s.step(ctx, id, true, func(a *ledger.Account) { a.Ack(ids) }); err != nil {
			return fmt.Errorf("quota: acknowledge crossings of %s: %w", id, err)
		}
	}
	return nil
}
