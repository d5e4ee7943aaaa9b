package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/admin"
	"tollgate/internal/config"
	"tollgate/quota/recovery"
)

// How a gateway follows the quota store's mark.
const (
	storeEvery   = 250 * time.Millisecond
	storeTimeout = 2 * time.Second

	// keepBoots is how long a node goes on counting what its earlier starts
	// used after they are closed in the quota store: a store that is lost
	// before the admin role has copied its counters is told again.
	keepBoots = 15 * time.Minute
)

// openKeeper makes the keeper of the quota store and has it compared with the
// books, before anything is served or sold.
func (c *control) openKeeper(ctx context.Context, store quotaStore) error {
	learn := c.app.cfg.Quota.LeaseTTL
	if c.app.cfg.Quota.Store.Reveal() == config.Embedded {
		learn = time.Millisecond // no other process holds units of it
	}
	var err error
	c.keeper, err = recovery.New(ctx, recovery.Options{
		DB: c.db, Store: store, Grants: grants{c.billing}, Learn: learn, Now: c.app.now, Log: c.app.log,
	})
	if err != nil {
		return fmt.Errorf("keeper of the quota store: %w", err)
	}
	if err := c.keeper.Start(ctx); err != nil {
		// It is tried again; until then readiness says why.
		c.app.log.Warn("the quota store could not be compared with the books", "error", err)
	}
	c.app.work.Go(func() { c.keeper.Run(c.app.ctx) })
	return nil
}

// errRebuilding is what readiness says while the quota store is not whole.
var errRebuilding = errors.New("the quota store lost what it was told and is being rebuilt: calls that no lease covers are refused with 503 meanwhile")

// ready reports whether the quota store has all that was sold.
func (c *control) ready() error {
	st := c.keeper.State()
	switch {
	case st.Whole:
		return nil
	case st.Rebuilding != "":
		return fmt.Errorf("the quota store is being compared with the books and rebuilt (%s)", st.Rebuilding)
	}
	return errors.New("the quota store could not be compared with the books yet: see the log for why it does not answer")
}

// lookAtStore judges the quota store by its mark once.
func (n *node) lookAtStore(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	_, _ = n.look(ctx) // a store that is away is the engine's matter
}

// look asks for the mark, judges it and tells the engine.
func (n *node) look(ctx context.Context) (recovery.Verdict, error) {
	select {
	case n.judging <- struct{}{}:
		defer func() { <-n.judging }()
	case <-ctx.Done():
		return recovery.Doubtful, ctx.Err()
	}
	m, err := n.store.Mark(ctx)
	if err != nil {
		return recovery.Doubtful, err
	}
	v := n.judge.Look(m)
	if old := recovery.Verdict(n.verdict.Swap(int32(v))); old != v {
		log := n.app.log.Warn
		if v == recovery.Whole {
			log = n.app.log.Info
		}
		log("the quota store's mark changed", "verdict", v.String(), "before", old.String(), "generation", m.Generation)
	}
	n.engine.Suspect(v == recovery.Lost)
	return v, nil
}

// believed implements quota.Config.Whole: the mark is read after the store's
// answer, so an answer that an emptied store gave is not believed.
func (n *node) believed(ctx context.Context) bool {
	v, err := n.look(ctx)
	return err == nil && v == recovery.Whole
}

// watchStore follows the quota store's mark.
func (n *node) watchStore(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, storeEvery)
		n.lookAtStore(ctx)
	}
}

// storeReady reports whether new units can be had.
func (n *node) storeReady() error {
	if recovery.Verdict(n.verdict.Load()) == recovery.Lost {
		return errRebuilding
	}
	return nil
}

// rebuilder is the keeper as the admin API sees it.
type rebuilder struct{ keeper *recovery.Keeper }

// Rebuild implements admin.Rebuilder.
func (r rebuilder) Rebuild(ctx context.Context, dry bool) (admin.QuotaRebuild, error) {
	rep, err := r.keeper.Rebuild(ctx, dry)
	if errors.Is(err, recovery.ErrBusy) {
		err = fmt.Errorf("%w: another process is rebuilding the quota store", admin.ErrBusy)
	}
	return admin.QuotaRebuild{
		DryRun: dry, Subscriptions: rep.Subscriptions, Lots: rep.Lots,
		Short: rep.Short, MissingLots: rep.MissingLots, MissingUnits: rep.MissingUse,
	}, err
}

// QuotaStore implements admin.Rebuilder.
func (r rebuilder) QuotaStore() admin.QuotaStore {
	st := r.keeper.State()
	out := admin.QuotaStore{Whole: st.Whole, Rebuilding: st.Rebuilding, Generation: st.Generation, Rebuilds: st.Rebuilds, LastReason: st.LastReason}
	if !st.LastAt.IsZero() {
		out.LastAt = &st.LastAt
	}
	if !st.Checkpoint.IsZero() {
		out.CopiedAt = &st.Checkpoint
	}
	return out
}
