package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tollgate/admin"
	"tollgate/internal/config"
	"tollgate/internal/journal"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/quota"
)

// Verify compares journal, quota store and usage store of a data folder, per
// subscription and billing item. A program that is running there is asked, by
// its operator's token; otherwise the stores are read as they lie, and what a
// start would settle and ship is added. Nothing is changed.
func Verify(ctx context.Context, cfg config.Config, log *slog.Logger) (admin.Reconciliation, error) {
	dir := filepath.Join(cfg.Data, "journal")
	tally, at, err := readTally(filepath.Join(dir, tallyFile))
	if err != nil {
		return admin.Reconciliation{}, err
	}
	// The cursors are told before the first record.
	report, err := journal.Inspect(dir, func(journal.Record) error { return errStopped })
	if err != nil && !errors.Is(err, errStopped) {
		if errors.Is(err, journal.ErrNotJournal) {
			return admin.Reconciliation{}, fmt.Errorf("%s holds no journal: name the data folder with --data", cfg.Data)
		}
		return admin.Reconciliation{}, err
	}
	if report.InUse {
		return verifyRunning(ctx, cfg)
	}
	cursor := report.Cursors[consumerUsage]
	var tail []usage.Record // what the usage store may not have: behind its cursor
	report, err = journal.Inspect(dir, func(e journal.Record) error {
		if e.Kind != journal.KindUsage {
			return nil
		}
		var rec usage.Record
		if err := usage.DecodeRecord(e.Payload, &rec); err != nil {
			return fmt.Errorf("journal record %s: %w", e.Pos, err)
		}
		if !e.Pos.Before(at) {
			tally.Add(e.Boot, &rec)
		}
		if rec.Has(usage.Counted) && !rec.Has(usage.Provisional) && !e.Pos.Before(cursor) {
			tail = append(tail, rec)
		}
		return nil
	})
	if err != nil {
		return admin.Reconciliation{}, err
	}
	if !report.OK() {
		log.Error("the journal is damaged", "report", report.String())
	}
	if _, err := os.Stat(filepath.Join(cfg.Data, "usage.db")); errors.Is(err, fs.ErrNotExist) && cfg.Usage.Store.Reveal() == config.Embedded {
		return admin.Reconciliation{}, fmt.Errorf("%s is the folder of a gateway alone: verify where the admin role keeps its data", cfg.Data)
	}
	// The next start writes the records of calls that were open, and charges
	// them.
	open, err := tally.Open(math.MaxUint64)
	if err != nil {
		return admin.Reconciliation{}, err
	}
	tail = append(tail, open...)
	store, err := openQuota(ctx, cfg, log, time.Now)
	if err != nil {
		return admin.Reconciliation{}, err
	}
	defer func() { _ = store.Close() }()
	rows, err := openUsage(ctx, cfg, log, time.Now)
	if err != nil {
		return admin.Reconciliation{}, err
	}
	defer func() { _ = rows.Close() }()
	pending, err := notShipped(ctx, rows, tail)
	if err != nil {
		return admin.Reconciliation{}, err
	}
	return compareOffline(ctx, store, rows, tally, report.Node, pending)
}

// errStopped ends a walk through the journal early.
var errStopped = errors.New("stopped")

// notShipped sums the charges of those records that the usage store does not
// have.
func notShipped(ctx context.Context, rows usageStore, tail []usage.Record) (map[string]usage.Units, error) {
	out := make(map[string]usage.Units)
	for i := range tail {
		_, err := rows.ByRequest(ctx, tail[i].ID)
		switch {
		case errors.Is(err, metering.ErrNotFound):
			addCharges(out, &tail[i])
		case err != nil:
			return nil, err
		}
	}
	return out, nil
}

func addCharges(sums map[string]usage.Units, rec *usage.Record) {
	units := sums[rec.Subscription]
	for _, ch := range rec.Charges {
		units[ch.Unit] += ch.Amount
	}
	sums[rec.Subscription] = units
}

func compareOffline(ctx context.Context, store quotaStore, rows usageStore, tally *quota.Tally, node string, pending map[string]usage.Units) (admin.Reconciliation, error) {
	out := admin.Reconciliation{AsOf: time.Now().UTC(), Complete: true}
	units := make(map[string]usage.Unit)
	var balances []lot.Balance
	for after := ""; ; {
		ids, err := store.Subscriptions(ctx, after, 500)
		if err != nil {
			return out, err
		}
		if len(ids) == 0 {
			break
		}
		after = ids[len(ids)-1]
		for _, id := range ids {
			b, err := store.Read(ctx, id)
			if err != nil {
				return out, err
			}
			balances = append(balances, b)
			for _, l := range b.Lots {
				units[l.ID] = l.Unit
			}
		}
	}
	unsettled, err := tally.Unsettled(ctx, store, node, func(lot string) (usage.Unit, bool) {
		u, ok := units[lot]
		return u, ok
	})
	if err != nil {
		return out, err
	}
	for _, b := range balances {
		charged, err := chargedRows(ctx, rows, b.Subscription)
		if err != nil {
			return out, err
		}
		out.Subscriptions = append(out.Subscriptions, lines(&b, unsettled[b.Subscription], charged, pending[b.Subscription])...)
	}
	for _, l := range out.Subscriptions {
		out.Drift += max(l.Drift, -l.Drift)
	}
	return out, nil
}

// chargedRows sums what the usage rows of a subscription say lots paid.
func chargedRows(ctx context.Context, rows usageStore, subscription string) (usage.Units, error) {
	res, err := rows.Query(ctx, metering.QueryInput{
		From: time.UnixMilli(0), To: time.Now().Add(24 * time.Hour),
		Filter: metering.Filter{Subscriptions: []string{subscription}},
	})
	if err != nil {
		return usage.Units{}, fmt.Errorf("usage of %s: %w", subscription, err)
	}
	return res.Total.Charged, nil
}

// lines compares one subscription: what the quota store counts, with what it
// was not told yet, against the usage rows, with what was not shipped yet.
func lines(b *lot.Balance, unsettled, charged, pending usage.Units) []admin.ReconciliationLine {
	var used usage.Units
	has := [usage.NumUnits]bool{}
	for _, l := range b.Lots {
		used[l.Unit] += l.Used
		has[l.Unit] = true
	}
	var out []admin.ReconciliationLine
	for u := range usage.NumUnits {
		if !has[u] && charged[u] == 0 && pending[u] == 0 {
			continue
		}
		l := admin.ReconciliationLine{
			Subscription: b.Subscription, Unit: u,
			Journal: charged[u] + pending[u], Quota: used[u] + unsettled[u], Usage: charged[u],
		}
		l.Drift = l.Quota - l.Journal
		out = append(out, l)
	}
	return out
}

// verifyRunning asks the program that runs on the data folder.
func verifyRunning(ctx context.Context, cfg config.Config) (admin.Reconciliation, error) {
	var out admin.Reconciliation
	base, token := "http://"+reachable(cfg.Admin.Listen), ""
	if d, err := readDemo(filepath.Join(cfg.Data, demoFile)); err == nil && d.OperatorToken != "" {
		base, token = d.AdminURL, d.OperatorToken
	} else if text, err := os.ReadFile(filepath.Join(cfg.Data, operatorFile)); err == nil {
		token = strings.TrimSpace(string(text))
	}
	if token == "" {
		return out, fmt.Errorf("a program is running on %s and there is no operator's token to ask it with: stop it, or ask %s/api/v1/reconciliation with your own", cfg.Data, base)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/reconciliation", nil)
	if err != nil {
		return out, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return out, hint(fmt.Errorf("ask the program that runs on %s: %w", cfg.Data, err), "give its address with --admin-listen")
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<30))
	if err != nil {
		return out, err
	}
	if resp.StatusCode != http.StatusOK {
		return out, fmt.Errorf("%s/api/v1/reconciliation answers %d: %.300s", base, resp.StatusCode, text)
	}
	return out, json.Unmarshal(text, &out)
}
