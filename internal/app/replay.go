package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"time"

	"tollgate/internal/config"
	"tollgate/internal/feed"
	"tollgate/internal/journal"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/quota"
)

// ReplayOptions say how a dead node's journal is replayed.
type ReplayOptions struct {
	DryRun bool // tell what would be done, and do nothing
	Fence  bool // also when the node may live: it is refused everything from then on
}

// Replayed is what a replay did, or would do.
type Replayed struct {
	Node    string         `json:"node"`
	Boot    uint64         `json:"boot"`
	Records int            `json:"records"` // usage records read
	Open    int            `json:"open"`    // calls that were running when the node died
	Rows    int            `json:"rows"`    // usage rows sent; those the store has stay as they are
	Settled []SettledUnits `json:"settled"` // what the quota store had not been told
	DryRun  bool           `json:"dry_run"`
	Report  string         `json:"journal"` // what was found in the journal
}

// SettledUnits are units of one subscription.
type SettledUnits struct {
	Subscription string `json:"subscription_id"`
	Unit         string `json:"unit"`
	Units        int64  `json:"units"`
}

// replayBatch is how many rows are sent at once.
const replayBatch = 1000

// Replay settles the journal of a node that will not start again where it died:
// what was used goes to the quota store, the units of its leases go back, and
// the rows that were not shipped go to the usage store: the admin role's where
// cfg is a gateway's, otherwise the one in the data folder. The journal is only
// read. Both stores take everything once, however often it is done, and also
// when the node starts again later.
func Replay(ctx context.Context, cfg config.Config, o ReplayOptions, log *slog.Logger) (out Replayed, err error) {
	dir := filepath.Join(cfg.Data, "journal")
	release, err := journal.Hold(dir)
	if err != nil {
		if errors.Is(err, journal.ErrNotJournal) {
			return out, fmt.Errorf("%s holds no journal: name the dead node's data folder with --data", cfg.Data)
		}
		return out, err
	}
	defer func() { err = errors.Join(err, release()) }()
	tally, rows, report, err := readAll(dir)
	if err != nil {
		return out, err
	}
	open, err := tally.Open(math.MaxUint64)
	if err != nil {
		return out, err
	}
	out = Replayed{Node: report.Node, Boot: report.Boot, Records: report.read, Open: len(open), Settled: []SettledUnits{}, DryRun: o.DryRun, Report: report.String()}
	rows = append(rows, open...)
	out.Rows = len(rows)

	store, err := openQuota(ctx, cfg, log, time.Now)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := mayReplay(ctx, store, report.Node, report.Boot, o.Fence); err != nil {
		return out, err
	}
	if out.Settled, err = unsettled(ctx, store, tally, report.Node); err != nil {
		return out, err
	}
	if !o.DryRun {
		if err := tally.CloseAll(ctx, store, report.Node, report.Boot); err != nil {
			return out, err
		}
		if err := insertRows(ctx, cfg, log, rows); err != nil {
			return out, err
		}
	}
	if !report.OK() {
		return out, fmt.Errorf("the journal is damaged: what can be read was taken; keep a copy of %s", dir)
	}
	return out, nil
}

// mayReplay refuses a node that may be serving elsewhere.
func mayReplay(ctx context.Context, store quota.Store, node string, boot uint64, fence bool) error {
	who, until, alive, err := quota.Alive(ctx, store, node, boot)
	switch {
	case err != nil:
		return err
	case !alive:
		return nil
	case until.IsZero():
		return fmt.Errorf("node %s has started again elsewhere since this copy was made (start %d, here %d): that start has settled what is here; stop it and replay its own folder if it is dead", node, who.Boot, boot)
	case fence:
		return nil
	}
	return fmt.Errorf("node %s may be alive: its lease runs until %s; make sure that it is dead and wait for that, or say --fence to have it refused everything until its next start", node, until.Format(time.RFC3339))
}

type journalReport struct {
	journal.Report
	read int
}

// readAll counts every record that is not in the tally's state, and returns
// those behind the shipper's cursor.
func readAll(dir string) (*quota.Tally, []usage.Record, journalReport, error) {
	tally, at, err := readTally(filepath.Join(dir, tallyFile))
	if err != nil {
		return nil, nil, journalReport{}, err
	}
	report, err := journal.Inspect(dir, func(journal.Record) error { return errStopped })
	if err != nil && !errors.Is(err, errStopped) {
		return nil, nil, journalReport{}, err
	}
	cursor := report.Cursors[consumerUsage]
	var rows []usage.Record
	read := 0
	report, err = journal.Inspect(dir, func(e journal.Record) error {
		if e.Kind != journal.KindUsage {
			return nil
		}
		var rec usage.Record
		if err := usage.DecodeRecord(e.Payload, &rec); err != nil {
			return fmt.Errorf("journal record %s: %w", e.Pos, err)
		}
		read++
		if !e.Pos.Before(at) {
			tally.Add(e.Boot, &rec)
		}
		if !rec.Has(usage.Provisional) && !e.Pos.Before(cursor) {
			rows = append(rows, rec)
		}
		return nil
	})
	return tally, rows, journalReport{report, read}, err
}

// unsettled lists what the quota store was not told of the tally.
func unsettled(ctx context.Context, store quotaStore, tally *quota.Tally, node string) ([]SettledUnits, error) {
	units := make(map[string]usage.Unit)
	for after := ""; ; {
		ids, err := store.Subscriptions(ctx, after, 500)
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			break
		}
		after = ids[len(ids)-1]
		for _, id := range ids {
			b, err := store.Read(ctx, id)
			if err != nil {
				return nil, err
			}
			for _, l := range b.Lots {
				units[l.ID] = l.Unit
			}
		}
	}
	left, err := tally.Unsettled(ctx, store, node, func(lot string) (usage.Unit, bool) { u, ok := units[lot]; return u, ok })
	if err != nil {
		return nil, err
	}
	out := []SettledUnits{}
	for id, sums := range left {
		for u, n := range sums {
			if n > 0 {
				out = append(out, SettledUnits{id, usage.Unit(u).String(), n})
			}
		}
	}
	slices.SortFunc(out, func(a, b SettledUnits) int {
		if a.Subscription != b.Subscription {
			if a.Subscription < b.Subscription {
				return -1
			}
			return 1
		}
		return len(a.Unit) - len(b.Unit)
	})
	return out, nil
}

// insertRows hands rows to where they live.
func insertRows(ctx context.Context, cfg config.Config, log *slog.Logger, rows []usage.Record) error {
	var sink metering.Sink
	if cfg.Role == config.RoleGateway && cfg.Usage.Store.Reveal() == config.Embedded {
		remote, err := feed.NewUsageSink(feed.Config{AdminURL: cfg.Admin.URL, Secret: cfg.Feed.Secret.Reveal(), Log: log})
		if err != nil {
			return err
		}
		sink = remote
	} else {
		store, err := openUsage(ctx, cfg, log, time.Now)
		if err != nil {
			return err
		}
		defer func() { _ = store.Close() }() // each insert is durable by itself
		sink = store
	}
	for part := range slices.Chunk(rows, replayBatch) {
		if err := sink.Insert(ctx, part); err != nil {
			return hint(fmt.Errorf("usage rows: %w", err), "the quota store has its part; run the same command again for the rest")
		}
	}
	return nil
}
