package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"tollgate/gateway"
	"tollgate/internal/config"
	"tollgate/internal/directory"
	"tollgate/internal/feed"
	"tollgate/internal/journal"
	"tollgate/metering"
	"tollgate/quota"
	"tollgate/quota/recovery"
)

// Names of the journal's consumers.
const consumerUsage = "usage"

// node is the gateway role: journal, quota engine, gateway, and what carries
// records and directory snapshots.
type node struct {
	app     *App
	journal *journal.Journal
	engine  *quota.Engine
	gateway *gateway.Gateway
	usage   usageStore // role all, and gateways with a usage store of their own; nil where records go to the admin role
	shipper *metering.Shipper
	source  directory.Source
	record  *recorder
	report  func(context.Context, directory.NodeStatus) error // to the admin role
	tally   *tally

	stopShipping, stopTally context.CancelFunc
	shipping, tallied       chan struct{} // closed when each has ended

	directed          chan struct{} // closed with the first directory in force
	directoryFailures atomic.Int64
	backlogFull       atomic.Bool // usage.max_backlog is reached

	store   quotaStore
	judging chan struct{} // one look at a time: marks must be judged in their order
	judge   recovery.Judge
	verdict atomic.Int32 // of the quota store's mark, a recovery.Verdict
}

// directoryWait is how long connections wait for the first directory before
// they are answered that there is none. It is shorter than most clients' and
// balancers' patience.
const directoryWait = 3 * time.Second

// awaitDirectory waits for the first directory, or directoryWait.
func (n *node) awaitDirectory(ctx context.Context) {
	t := time.NewTimer(directoryWait)
	defer t.Stop()
	select {
	case <-n.directed:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (a *App) openNode(ctx context.Context, store quotaStore) (*node, error) {
	cfg := a.cfg
	n := &node{app: a, store: store, directed: make(chan struct{}), judging: make(chan struct{}, 1)}
	var err error
	n.journal, err = journal.Open(filepath.Join(cfg.Data, "journal"), journal.Options{
		Node: cfg.Node, Consumers: []string{consumerUsage, consumerQuota},
		SegmentSize: int(cfg.Journal.Segment), SyncEvery: cfg.Journal.SyncInterval, Strict: cfg.Journal.Strict,
		FrontDir: cfg.Journal.FrontDir,
		Now:      a.now, Log: a.log,
	})
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	a.closers = append(a.closers, n.journal.Close)
	if r := n.journal.Recovered(); !r.OK() {
		a.log.Error("the journal is damaged; records after the damage are kept out", "report", r.String())
	}
	n.record = newRecorder(n.journal, a.log)
	n.engine, err = quota.New(quota.Config{
		Incarnation: quota.Incarnation{Node: n.journal.Node(), Boot: n.journal.Boot()},
		TTL:         cfg.Quota.LeaseTTL, FlushEvery: cfg.Quota.Sync, AwayFor: cfg.Quota.StoreAwayFor, Now: a.opts.Now, Mono: monotonic(), Log: a.log,
		Whole: n.believed,
	}, store, n.record)
	if err != nil {
		return nil, fmt.Errorf("quota engine: %w", err)
	}
	a.closers = append(a.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), cfg.ShutdownTimeout)
		defer cancel()
		return n.engine.Close(ctx)
	})
	// What was counted before a crash is settled before anything is sold.
	if n.tally, err = openTally(ctx, n.journal, filepath.Join(cfg.Data, "journal"), a.log); err != nil {
		return nil, err
	}
	if err := n.engine.CloseEarlier(ctx, n.tally.sum); err != nil {
		return nil, fmt.Errorf("settle what was used before the last stop: %w", err)
	}
	if err := a.openGateway(ctx, n); err != nil {
		return nil, err
	}
	if err := a.openShipping(ctx, n); err != nil {
		return nil, err
	}
	a.reg.MustRegister(newNodeCollector(n))
	return n, nil
}

// openShipping connects the journal with the usage store, here or at the admin
// role's process.
func (a *App) openShipping(ctx context.Context, n *node) error {
	var sink metering.Sink
	if a.cfg.Role == config.RoleGateway {
		fc := feed.Config{AdminURL: a.cfg.Admin.URL, Secret: a.cfg.Feed.Secret.Reveal(), File: filepath.Join(a.cfg.Data, "directory.sealed"), Now: a.opts.Now, Log: a.log}
		src, err := feed.NewSource(fc)
		if err != nil {
			return err
		}
		remote, err := feed.NewUsageSink(fc)
		if err != nil {
			return err
		}
		n.source, n.report = src, remote.Report
		if a.cfg.Usage.Store.Reveal() == config.Embedded {
			sink = remote
		} else {
			// Straight to ClickHouse: batches keep their identity, and the admin
			// role is no bottleneck. It may be away at the start, too.
			lazy := &lazyUsage{open: func(ctx context.Context) (usageStore, error) { return openUsage(ctx, a.cfg, a.log, a.now) }}
			a.closers = append(a.closers, lazy.Close)
			sink = lazy
		}
	} else {
		store, err := openUsage(ctx, a.cfg, a.log, a.now)
		if err != nil {
			return err
		}
		a.closers = append(a.closers, store.Close)
		sink, n.usage = store, store
	}
	cursor, err := n.journal.Consumer(consumerUsage)
	if err != nil {
		return err
	}
	batch := a.cfg.Usage.Batch
	if batch == 0 {
		batch = 2000
		if a.cfg.Usage.Store.Reveal() != config.Embedded {
			batch = 50_000 // ClickHouse is made for few large inserts
		}
	}
	// A row must not outlive a crash of the machine that its record does not.
	cursor.DurableOnly()
	n.shipper = metering.NewShipper(cursor, sink, metering.ShipperOptions{
		BatchSize: batch, Linger: a.cfg.Usage.Linger, Timeout: a.cfg.Usage.Timeout,
		Bounds: filepath.Join(a.cfg.Data, "journal", "usage.batch"), Fresh: n.journal.End(),
		Now: a.now, Log: a.log,
	})
	return nil
}

// begin starts the node's background work and waits for its first directory.
func (n *node) begin(ctx context.Context) error {
	a := n.app
	if a.control != nil {
		n.source = a.control.server.Source()
		n.report = func(_ context.Context, st directory.NodeStatus) error {
			a.control.server.ReportUpstreams(st)
			return nil
		}
	}
	n.gateway.Balance(ctx)
	a.work.Go(func() { n.gateway.Maintain(a.ctx) })
	shipCtx, cancel := context.WithCancel(a.ctx)
	n.stopShipping, n.shipping = cancel, make(chan struct{})
	a.work.Go(func() {
		defer close(n.shipping)
		if err := n.shipper.Run(shipCtx); err != nil && !errors.Is(err, journal.ErrClosed) {
			a.log.Error("usage records are no longer shipped", "error", err)
		}
	})
	tallyCtx, cancel := context.WithCancel(a.ctx)
	n.stopTally, n.tallied = cancel, make(chan struct{})
	a.work.Go(func() {
		defer close(n.tallied)
		began := time.Now()
		n.tally.run(tallyCtx, func() (uint64, bool) {
			return n.journal.Boot(), !n.engine.EarlierOpen() && time.Since(began) > keepBoots
		})
	})
	a.work.Go(func() { n.watchBacklog(a.ctx) })
	if n.usage != nil {
		a.work.Go(func() { n.prune(a.ctx) })
	}
	n.lookAtStore(a.ctx)
	a.work.Go(func() { n.watchStore(a.ctx) })
	a.work.Go(func() { n.reportUpstreams(a.ctx) })
	first := make(chan error, 1)
	a.work.Go(func() { n.follow(a.ctx, first) })
	if a.control == nil {
		return nil // the admin role may be away; readiness tells
	}
	select {
	case err := <-first:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow puts each directory snapshot into force. first gets the outcome of the
// first one.
func (n *node) follow(ctx context.Context, first chan<- error) {
	log := n.app.log
	failures := 0
	for told := false; ctx.Err() == nil; {
		s, err := n.source.Next(ctx, n.gateway.Version())
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if failures++; failures&(failures-1) == 0 { // the 1st, 2nd, 4th, 8th, …
				log.Warn("the directory cannot be taken; the last one stays in force", "failures", failures, "error", err)
			}
			n.directoryFailures.Add(1)
			if n.app.control != nil {
				if !told {
					first <- fmt.Errorf("first directory snapshot: %w", err)
					return
				}
				pause(ctx, time.Second) // the remote source paces itself
			}
			continue
		}
		failures = 0
		if err := n.gateway.Swap(s); err != nil {
			log.Error("rows of the directory cannot be used", "version", s.Version, "error", err)
		}
		log.Debug("directory in force", "version", s.Version)
		if !told {
			told = true
			close(n.directed)
			first <- nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// reportEvery is how often the state of the upstreams is told to the admin role.
const reportEvery = 5 * time.Second

// reportUpstreams tells the admin role, for people to see, how the upstreams
// are. What is lost is told again soon, so an error is for the debug log.
func (n *node) reportUpstreams(ctx context.Context) {
	for ctx.Err() == nil {
		st := directory.NodeStatus{
			Node: n.journal.Node(), At: n.app.now(), Upstreams: n.gateway.Upstreams(),
			Unshipped: n.shipper.Stats().Waiting, StoreAway: n.engine.Stats().BreakerOpen,
		}
		if err := n.report(ctx, st); err != nil && ctx.Err() == nil {
			n.app.log.Debug("the state of the upstreams was not told", "error", err)
		}
		pause(ctx, reportEvery)
	}
}

// prune removes usage rows past their retention, once an hour.
func (n *node) prune(ctx context.Context) {
	for ctx.Err() == nil {
		if removed, err := n.usage.Prune(ctx); err != nil && ctx.Err() == nil {
			n.app.log.Error("prune usage rows", "error", err)
		} else if removed > 0 {
			n.app.log.Info("usage rows past their retention were removed", "rows", removed)
		}
		pause(ctx, time.Hour)
	}
}

// drain ends the serving of calls.
func (n *node) drain(ctx context.Context) error {
	var doors sync.WaitGroup
	for _, ln := range n.app.doors {
		doors.Go(func() {
			if err := ln.Drain(); err != nil {
				n.app.log.Warn("a port was closed with connections that waited", "address", ln.Addr().String(), "error", err)
			}
		})
	}
	doors.Wait()
	if err := n.gateway.Shutdown(ctx); err != nil {
		n.app.log.Warn("calls were still running at the end of the shutdown limit", "error", err)
	}
	return nil
}

// settle reports what was used and ships what is journalled. What cannot be
// delivered now is left for the next start, which is no failure.
func (n *node) settle(ctx context.Context) error {
	if err := n.engine.Flush(ctx); err != nil {
		n.app.log.Warn("use is reported to the quota store at the next start", "error", err)
	}
	n.stopShipping()
	<-n.shipping
	if err := n.journal.Sync(ctx); err != nil {
		n.app.log.Error("the journal is not on disk", "error", err)
	}
	if err := n.ship(ctx); err != nil {
		n.app.log.Warn("usage records are shipped at the next start", "error", err)
	}
	n.stopTally()
	<-n.tallied
	return nil
}

// ship sends what the journal still holds. A store that is away is not waited
// for: the next start sends it.
func (n *node) ship(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before := n.shipper.Stats().Failures
	go func() {
		for ctx.Err() == nil {
			pause(ctx, 50*time.Millisecond)
			if st := n.shipper.Stats(); st.Failures > before+1 {
				cancel(st.LastErr)
			}
		}
	}()
	return n.shipper.Drain(ctx)
}
