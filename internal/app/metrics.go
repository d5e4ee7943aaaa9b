package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
)

// nodeCollector exports what the journal, the quota engine and the shipper
// count by themselves.
type nodeCollector struct {
	n *node

	outstanding, lag, away, unsynced, segments, journalFull        *prometheus.Desc
	admitted, settled, released, overrun, syncs, syncFails, refuse *prometheus.Desc
	lagBytes, shipAge, batches, changed, shipped, shipFails        *prometheus.Desc
	dropped, directory, lost                                       *prometheus.Desc
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

func newNodeCollector(n *node) *nodeCollector {
	return &nodeCollector{
		n:           n,
		outstanding: desc("tollgate_lease_outstanding_units", "Units leased to this node and not used yet, all billing items together."),
		lag:         desc("tollgate_journal_lag_records", "Records of the journal that a consumer has not acknowledged.", "consumer"),
		lagBytes:    desc("tollgate_journal_lag_bytes", "Bytes of the journal that a consumer has not acknowledged.", "consumer"),
		shipAge:     desc("tollgate_usage_ship_age_seconds", "How long ago the oldest call was settled that waits for the usage store; 0 when none waits."),
		batches:     desc("tollgate_usage_ship_batches_total", "Batches of usage records the usage store has confirmed."),
		changed:     desc("tollgate_usage_ship_changed_batches_total", "Batches whose records were not those written down before they were sent: the journal was restored or damaged."),
		away:        desc("tollgate_quota_store_away", "1 while the quota store is taken to be away and calls are served from leases."),
		lost:        desc("tollgate_quota_store_lost", "1 while the quota store has lost what it was told or is being rebuilt: nothing new is leased from it."),
		unsynced:    desc("tollgate_journal_unsynced_bytes", "Bytes of the journal not yet on disk."),
		segments:    desc("tollgate_journal_segments", "Segments of the journal that hold records."),
		journalFull: desc("tollgate_journal_full", "1 while the journal refuses new calls because its disk is full."),
		admitted:    desc("tollgate_quota_admitted_total", "Calls admitted by the quota engine."),
		settled:     desc("tollgate_quota_settled_total", "Holds settled: calls charged."),
		released:    desc("tollgate_quota_released_total", "Holds released: calls not charged."),
		refuse:      desc("tollgate_quota_refused_total", "Calls refused by the quota engine.", "reason"),
		overrun:     desc("tollgate_quota_overrun_units_total", "Units used beyond what any lot could give."),
		syncs:       desc("tollgate_quota_syncs_total", "Reports sent to the quota store."),
		syncFails:   desc("tollgate_quota_sync_failures_total", "Reports to the quota store without an answer."),
		shipped:     desc("tollgate_usage_shipped_records_total", "Usage records the usage store has confirmed."),
		shipFails:   desc("tollgate_usage_ship_failures_total", "Batches of usage records the usage store did not take."),
		directory:   desc("tollgate_directory_failures_total", "Attempts to take a directory snapshot that failed."),
		dropped:     desc("tollgate_usage_dropped_records_total", "Records of uncharged calls that could not be journalled."),
	}
}

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	q, j, s := c.n.engine.Stats(), c.n.journal.Stats(), c.n.shipper.Stats()
	gauge(c.outstanding, float64(q.Outstanding))
	for consumer, lag := range j.Lag {
		gauge(c.lag, float64(lag), consumer)
		gauge(c.lagBytes, float64(j.LagBytes[consumer]), consumer)
	}
	age := 0.0
	if !s.Waiting.IsZero() {
		age = max(0, c.n.app.now().Sub(s.Waiting).Seconds())
	}
	gauge(c.shipAge, age)
	counter(c.batches, s.Batches)
	counter(c.changed, s.Changed)
	open := 0.0
	if q.BreakerOpen {
		open = 1
	}
	gauge(c.away, open)
	lost := 0.0
	if c.n.storeReady() != nil {
		lost = 1
	}
	gauge(c.lost, lost)
	gauge(c.unsynced, float64(j.Unsynced))
	gauge(c.segments, float64(j.Segments))
	full := 0.0
	if j.Full || j.StopReason != nil {
		full = 1
	}
	gauge(c.journalFull, full)
	counter(c.admitted, q.Admitted)
	counter(c.settled, q.Settled)
	counter(c.released, q.Released)
	counter(c.refuse, q.Exhausted, "exhausted")
	counter(c.refuse, q.NoPackage, "no_package")
	counter(c.refuse, q.Unavailable, "unavailable")
	counter(c.overrun, q.Overrun)
	counter(c.syncs, q.Syncs)
	counter(c.syncFails, q.SyncFailures)
	counter(c.shipped, s.Shipped)
	counter(c.shipFails, s.Failures)
	counter(c.dropped, c.n.record.dropped.Load())
	counter(c.directory, c.n.directoryFailures.Load())
}

// buildInfo is the metric that names what runs: always 1, after the practice of
// Prometheus, so that other metrics can be joined with its labels.
func buildInfo(role string) prometheus.Collector {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		revision = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tollgate_build_info", Help: "What runs: always 1.",
		ConstLabels: prometheus.Labels{"revision": revision, "goversion": runtime.Version(), "role": role},
	})
	g.Set(1)
	return g
}

// figures are what the admin role looks up at intervals rather than at each
// scrape.
type figures struct {
	drift     int64
	remaining map[[2]string]int64 // by product and unit
}

// controlCollector exports what the admin role knows.
type controlCollector struct {
	remaining, drift, failures, backlog  *prometheus.Desc
	whole, rebuilds, keeperFails, copied *prometheus.Desc
	crossings, crossingFails             *prometheus.Desc
	buckets                              *prometheus.Desc

	c *control
}

func newControlCollector(c *control) *controlCollector {
	return &controlCollector{
		c:           c,
		remaining:   desc("tollgate_quota_remaining", "Units left in the packages of all buyers, by product and billing item.", "product", "unit"),
		drift:       desc("tollgate_ledger_drift_units", "Sum of the differences between journal, quota store and usage store over all subscriptions; 0 in a healthy system."),
		failures:    desc("tollgate_admin_failures_total", "Requests of the admin API that ended in an internal error."),
		backlog:     desc("tollgate_billing_undelivered_lots", "Paid lots that the quota store has not confirmed yet."),
		whole:       desc("tollgate_quota_store_whole", "1 while the quota store has everything that was sold; 0 while it is compared or rebuilt."),
		rebuilds:    desc("tollgate_quota_rebuilds_total", "How often the quota store had lost what it was told and was rebuilt, by any process."),
		keeperFails: desc("tollgate_quota_keeper_failures_total", "Failed looks at the quota store, rebuilds and copies of its counters since the start."),
		copied:      desc("tollgate_quota_checkpoint_timestamp_seconds", "When the quota store's counters were last copied to the SQL database; 0: not since the start."),

		buckets:       desc("tollgate_rating_buckets_total", "Hour buckets of on-demand use that this process sealed, and adjustments of them.", "kind"),
		crossings:     desc("tollgate_crossings_total", "Crossings of thresholds taken from the quota store; repeated ones were known.", "outcome"),
		crossingFails: desc("tollgate_crossing_failures_total", "Failed tries to take crossings of thresholds from the quota store."),
	}
}

// Describe implements prometheus.Collector.
func (c *controlCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.remaining, c.drift, c.failures, c.backlog, c.whole, c.rebuilds, c.keeperFails, c.copied, c.crossings, c.crossingFails, c.buckets} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *controlCollector) Collect(ch chan<- prometheus.Metric) {
	if f := c.c.figures.Load(); f != nil {
		ch <- prometheus.MustNewConstMetric(c.drift, prometheus.GaugeValue, float64(f.drift))
		for k, v := range f.remaining {
			ch <- prometheus.MustNewConstMetric(c.remaining, prometheus.GaugeValue, float64(v), k[0], k[1])
		}
	}
	if c.c.server != nil {
		ch <- prometheus.MustNewConstMetric(c.failures, prometheus.CounterValue, float64(c.c.server.Failures()))
	}
	if c.c.keeper != nil {
		st := c.c.keeper.State()
		whole, copied := 0.0, 0.0
		if st.Whole {
			whole = 1
		}
		if !st.Checkpoint.IsZero() {
			copied = float64(st.Checkpoint.UnixMilli()) / 1000
		}
		ch <- prometheus.MustNewConstMetric(c.whole, prometheus.GaugeValue, whole)
		ch <- prometheus.MustNewConstMetric(c.rebuilds, prometheus.CounterValue, float64(st.Rebuilds))
		ch <- prometheus.MustNewConstMetric(c.keeperFails, prometheus.CounterValue, float64(st.Failures))
		ch <- prometheus.MustNewConstMetric(c.copied, prometheus.GaugeValue, copied)
	}
	if x := c.c.crossings; x != nil {
		ch <- prometheus.MustNewConstMetric(c.crossings, prometheus.CounterValue, float64(x.recorded.Load()), "recorded")
		ch <- prometheus.MustNewConstMetric(c.crossings, prometheus.CounterValue, float64(x.repeated.Load()), "repeated")
		ch <- prometheus.MustNewConstMetric(c.crossingFails, prometheus.CounterValue, float64(x.failures.Load()))
	}
	if r := c.c.rating; r != nil {
		st := r.Stats()
		ch <- prometheus.MustNewConstMetric(c.buckets, prometheus.CounterValue, float64(st.Sealed), "sealed")
		ch <- prometheus.MustNewConstMetric(c.buckets, prometheus.CounterValue, float64(st.Adjustments), "adjustment")
	}
	ctx, cancel := context.WithTimeout(c.c.app.ctx, time.Second)
	defer cancel()
	if b, err := c.c.billing.Backlog(ctx); err == nil {
		ch <- prometheus.MustNewConstMetric(c.backlog, prometheus.GaugeValue, float64(b.Lots))
	}
}

// watch refreshes the figures until ctx ends.
func (c *control) watch(ctx context.Context) {
	took := time.Duration(0)
	for {
		pause(ctx, max(figuresLeast, figuresShare*took))
		t := time.NewTimer(max(0, figuresEvery-figuresShare*took))
		select {
		case <-t.C:
		case <-c.changed:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		if err := c.refresh(ctx); err != nil && ctx.Err() == nil {
			c.app.log.Warn("the ledger could not be reconciled", "error", err)
		}
		took = time.Since(began)
	}
}

// The figures cost two reads of the quota store and a sum over all usage rows
// for each subscription. They are looked up after a sale and this often, with a
// pause between, and never for more than one part of the time in figuresShare.
const (
	figuresEvery = 15 * time.Second
	figuresLeast = 500 * time.Millisecond
	figuresShare = 50
)

func (c *control) refresh(ctx context.Context) error {
	rec, err := reconciler{c}.Reconcile(ctx)
	if err != nil {
		return err
	}
	f := &figures{remaining: make(map[[2]string]int64)}
	if rec.Complete {
		f.drift = rec.Drift
	}
	subs, err := c.billing.DirectorySubscriptions(ctx)
	if err != nil {
		return err
	}
	for _, s := range subs {
		b, err := c.quota.store.Read(ctx, s.ID)
		if err != nil {
			return err
		}
		for _, u := range s.Units {
			f.remaining[[2]string{s.Product, u.String()}] += left(b.Lots, u)
		}
	}
	if f.drift != 0 {
		c.app.log.Error("the ledger drifts", "units", f.drift)
	}
	c.figures.Store(f)
	return nil
}

// left is what a balance's lots still have of u, leased units included.
func left(lots []lot.State, u usage.Unit) (n int64) {
	for _, l := range lots {
		if l.Unit == u {
			n += l.Remaining + l.Leased
		}
	}
	return n
}
