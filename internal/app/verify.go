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
	"slices"
	"time"

	"tollgate/admin"
	"tollgate/internal/config"
	"tollgate/internal/ids"
	"tollgate/internal/journal"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/quota"
)

// Verify compares journal, quota store and usage store of a data folder, per
// subscription and billing item. A program that is running there is asked, by
// its operator's token; otherwise the stores are read as they lie, and what a
// start would settle and ship is added. What the journal still holds is also
// compared with the usage rows one by one. Nothing is changed.
//
// ErrDamaged comes with the comparison of what could be read.
func Verify(ctx context.Context, cfg config.Config, log *slog.Logger) (admin.Reconciliation, error) {
	dir := filepath.Join(cfg.Data, "journal")
	tally, at, err := readTally(filepath.Join(dir, tallyFile))
	if err != nil {
		return admin.Reconciliation{}, err
	}
	// The cursors are told before the first record.
	report, err := journal.Inspect(dir, func(journal.Record) error { return errStopped })
	if err != nil && !errors.Is(err, errStopped) {
		if _, token := Operator(cfg); errors.Is(err, journal.ErrNotJournal) && token != "" {
			return verifyRunning(ctx, cfg) // the folder of an admin role alone
		}
		if errors.Is(err, journal.ErrNotJournal) {
			return admin.Reconciliation{}, fmt.Errorf("%s holds no journal: name the data folder with --data", cfg.Data)
		}
		return admin.Reconciliation{}, err
	}
	if report.InUse {
		return verifyRunning(ctx, cfg)
	}
	cursor := report.Cursors[consumerUsage]
	held := make(charges)
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
		if rec.Has(usage.Counted) && !rec.Has(usage.Provisional) {
			held.add(&rec, e.Pos.Before(cursor))
		}
		return nil
	})
	if err != nil {
		return admin.Reconciliation{}, err
	}
	if cfg.Quota.Store.Reveal() == config.Embedded {
		if _, err := os.Stat(filepath.Join(cfg.Data, "quota")); errors.Is(err, fs.ErrNotExist) {
			return admin.Reconciliation{}, fmt.Errorf("%s has no quota store: its folder was removed; the next start rebuilds it", cfg.Data)
		}
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
	for i := range open {
		held.add(&open[i], false)
	}
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
	var kept time.Time
	if cfg.Usage.Retention > 0 {
		kept = time.Now().Add(-cfg.Usage.Retention)
	}
	pending, missing, err := held.compare(ctx, rows, kept, log)
	if err != nil {
		return admin.Reconciliation{}, err
	}
	out, err := compareOffline(ctx, store, rows, tally, report.Node, pending, missing)
	if err == nil && !report.OK() {
		err = fmt.Errorf("%w: %s", ErrDamaged, report.String())
	}
	return out, err
}

// ErrDamaged is returned by Verify when records of the journal cannot be read.
var ErrDamaged = errors.New("the journal is damaged")

// errStopped ends a walk through the journal early.
var errStopped = errors.New("stopped")

// charges is what counted records of a journal charged, by request.
type charges map[ids.Request]*charged

type charged struct {
	sub, node string
	at        time.Time
	shipped   bool // the usage store confirmed it
	units     usage.Units
}

func (c charges) add(rec *usage.Record, shipped bool) {
	if had := c[rec.ID]; had != nil { // written twice: the first one counts
		had.shipped = had.shipped || shipped
		return
	}
	one := &charged{sub: rec.Subscription, node: rec.Node, at: rec.Time, shipped: shipped}
	for _, ch := range rec.Charges {
		one.units[ch.Unit] += ch.Amount
	}
	c[rec.ID] = one
}

// compare looks for the row of each record. It returns, by subscription, what
// rows will still come for, and what rows lack that were confirmed. Rows from
// before kept may have been removed with reason.
func (c charges) compare(ctx context.Context, rows usageStore, kept time.Time, log *slog.Logger) (pending, missing map[string]usage.Units, err error) {
	pending, missing = make(map[string]usage.Units), make(map[string]usage.Units)
	counted := true
	in := metering.ListInput{Limit: metering.MaxPage, Filter: metering.Filter{Counted: &counted}}
	for id, r := range c {
		if r.shipped && r.at.Before(kept) {
			delete(c, id)
			continue
		}
		if in.From.IsZero() || r.at.Before(in.From) {
			in.From = r.at
		}
		if !r.at.Before(in.To) {
			in.To = r.at.Add(time.Millisecond)
		}
		if !slices.Contains(in.Nodes, r.node) {
			in.Nodes = append(in.Nodes, r.node)
		}
	}
	told := 0
	differ := func(id ids.Request, what string, sub string, units usage.Units) {
		all := missing[sub]
		for u, n := range units {
			all[u] += n
		}
		missing[sub] = all
		if told++; told <= 10 {
			log.Error(what, "request_id", id.String(), "subscription", sub)
		}
	}
	for more := len(c) > 0; more; more = in.After != "" {
		page, err := rows.List(ctx, in)
		if err != nil {
			return nil, nil, err
		}
		for i := range page.Records {
			row := &page.Records[i]
			r := c[row.ID]
			if r == nil {
				continue
			}
			delete(c, row.ID)
			for _, ch := range row.Charges {
				r.units[ch.Unit] -= ch.Amount
			}
			if !r.units.IsZero() {
				differ(row.ID, "the usage row of a call is not what its journal record charged", r.sub, r.units)
			}
		}
		in.After = page.Next
	}
	for id, r := range c {
		if r.shipped {
			differ(id, "a call is in the journal and has no usage row, though the usage store confirmed it", r.sub, r.units)
			continue
		}
		units := pending[r.sub]
		for u, n := range r.units {
			units[u] += n
		}
		pending[r.sub] = units
	}
	return pending, missing, nil
}

func addCharges(sums map[string]usage.Units, rec *usage.Record) {
	units := sums[rec.Subscription]
	for _, ch := range rec.Charges {
		units[ch.Unit] += ch.Amount
	}
	sums[rec.Subscription] = units
}

func compareOffline(ctx context.Context, store quotaStore, rows usageStore, tally *quota.Tally, node string, pending, missing map[string]usage.Units) (admin.Reconciliation, error) {
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
	charged, err := chargedRows(ctx, rows)
	if err != nil {
		return out, err
	}
	// Use of subscriptions that the quota store has never heard of is drift.
	for id := range charged {
		if id != "" && !slices.ContainsFunc(balances, func(b lot.Balance) bool { return b.Subscription == id }) {
			balances = append(balances, lot.Balance{Subscription: id})
		}
	}
	for _, b := range balances {
		all := lines(&b, unsettled[b.Subscription], charged[b.Subscription], pending[b.Subscription])
		for i := range all {
			lack(&all[i], missing[b.Subscription][all[i].Unit])
		}
		out.Subscriptions = append(out.Subscriptions, all...)
	}
	for _, l := range out.Subscriptions {
		out.Drift += max(l.Drift, -l.Drift)
	}
	return out, nil
}

// lack corrects a line by n units that rows lack of what the journal charged.
// The sums that the line was made of may have them yet, or not either.
func lack(l *admin.ReconciliationLine, n int64) {
	switch {
	case n == 0:
	case l.Drift == 0:
		l.Usage -= n
		l.Drift = -n
	case l.Drift == n:
		l.Journal += n
		l.Drift = -n
	}
}

// chargedRows sums, by subscription, what the usage rows say lots paid. It is
// one question: rows are summed up per day already.
func chargedRows(ctx context.Context, rows usageStore) (map[string]usage.Units, error) {
	res, err := rows.Query(ctx, metering.QueryInput{From: time.UnixMilli(0), To: endOfTime, GroupBy: metering.GroupSubscription})
	if err != nil {
		return nil, fmt.Errorf("sum up the usage rows: %w", err)
	}
	out := make(map[string]usage.Units, len(res.Rows))
	for i := range res.Rows {
		out[res.Rows[i].Key] = res.Rows[i].Charged
	}
	return out, nil
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
	base, token := Operator(cfg)
	if token == "" {
		return out, fmt.Errorf("a program is running on %s and there is no operator's token to ask it with: name the data folder of the admin role, or ask %s/api/v1/reconciliation there with a token of your own", cfg.Data, base)
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

// endOfTime is after every row: those of a node whose clock was ahead are rows
// like others. Stores keep instants up to it.
var endOfTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
