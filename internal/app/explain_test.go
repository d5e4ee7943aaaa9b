package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"tollgate/admin"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/wait"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/quota"
)

// TestDriftIsExplained tampers with each store of a running program: the drift
// must show, and be explained down to the request or the lot.
func TestDriftIsExplained(t *testing.T) {
	t.Parallel()
	a, err := start(t.Context(), testConfig(t), Options{Demo: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.stop(); err != nil {
			t.Error(err)
		}
	})
	d := a.demo
	sub := d.LLM.SubscriptionID
	for range 4 {
		if status, text := call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
	}
	rows := func() []usage.Record {
		t.Helper()
		var recs []usage.Record
		wait.Until(t, 20*time.Second, "four rows", func(ctx context.Context) error {
			page, err := a.control.usage.List(ctx, listAll(sub))
			if recs = page.Records; err == nil && len(recs) < 4 {
				err = errStopped
			}
			return err
		})
		return recs
	}
	explain := func() (x admin.Explanation) {
		t.Helper()
		status, text := call(t, "GET", a.info().AdminURL+"/api/v1/reconciliation/"+sub, d.OperatorToken, "")
		if err := json.Unmarshal([]byte(text), &x); err != nil || status != http.StatusOK || x.Truncated {
			t.Fatalf("%d %s", status, text)
		}
		return x
	}
	drifts := func(want int64) {
		t.Helper()
		if got := drift(t, d); got != want {
			t.Errorf("drift %d, want %d", got, want)
		}
	}
	recs := rows()
	drifts(0)
	if x := explain(); len(x.Missing)+len(x.Unknown)+len(x.Different) > 0 || len(x.Lots) != 1 || x.Lots[0].Drift != 0 || x.Lots[0].Quota != 4 || len(x.Journals) != 1 || x.Journals[0].Records != 4 {
		t.Errorf("a sound store: %+v", x)
	}

	// A row nobody recorded.
	forged := recs[0]
	forged.ID = ids.NewRequest(forged.Time)
	forged.Time, forged.Finished = recs[0].Time, recs[0].Finished.Add(time.Second)
	if err := a.control.usage.Insert(t.Context(), []usage.Record{forged}); err != nil {
		t.Fatal(err)
	}
	drifts(1)
	x := explain()
	if len(x.Unknown) != 1 || x.Unknown[0].RequestID != forged.ID.String() || x.Unknown[0].Charged["call"] != 1 || len(x.Missing) > 0 || x.Lots[0].Drift != -1 {
		t.Errorf("a forged row: %+v", x)
	}

	// A row that was removed and one that was changed, in the file itself.
	db, err := sqldb.Open(t.Context(), sqldb.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	file := filepath.Join(a.cfg.Data, "usage.db")
	if _, err := db.Exec(t.Context(), "ATTACH DATABASE $1 AS u", file); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), "DELETE FROM u.call WHERE request = $1", recs[1].ID[:]); err != nil {
		t.Fatal(err)
	}
	changed := recs[2]
	changed.Charges = []usage.Charge{{Lot: recs[2].Charges[0].Lot, Unit: usage.Call, Amount: 7, Bucket: recs[2].Charges[0].Bucket}}
	if _, err := db.Exec(t.Context(), "UPDATE u.call SET body = $1 WHERE request = $2", usage.AppendRecord(nil, &changed), recs[2].ID[:]); err != nil {
		t.Fatal(err)
	}
	x = explain()
	if len(x.Missing) != 1 || x.Missing[0].RequestID != recs[1].ID.String() {
		t.Errorf("a removed row: %+v", x.Missing)
	}
	if len(x.Different) != 1 || x.Different[0].RequestID != recs[2].ID.String() || x.Different[0].Charged["call"] != 1 || x.Different[0].Row["call"] != 7 {
		t.Errorf("a changed row: %+v", x.Different)
	}

	// Use that no gateway had.
	req := &quota.SyncRequest{
		Subscription: sub, Incarnation: quota.Incarnation{Node: "ghost", Boot: 1}, Now: time.Now().UnixMilli(), TTL: time.Minute, Quarantine: time.Minute,
		Demands: []quota.Demand{{Unit: usage.Call, Floor: 5, Target: 5}},
	}
	reply, err := a.control.quota.store.Sync(t.Context(), req)
	if err != nil || len(reply.Buckets) != 1 || reply.Buckets[0].Granted < 3 {
		t.Fatalf("%+v, %v", reply, err)
	}
	used := reply.Buckets[0].Counter
	used.Used = 3
	req.Demands, req.Counters = nil, []quota.Counter{used}
	if _, err := a.control.quota.store.Sync(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	x = explain()
	// Four calls and three that no gateway had; of the rows, one is forged, one
	// is gone and one says six too many.
	if l := x.Lots[0]; l.Quota != 7 || l.Calls != 4+1-1+6 {
		t.Errorf("foreign use: %+v", l)
	}
	drifts(2) // by the rollups, which only the forged row reached
}

// listAll asks for all rows of a subscription.
func listAll(sub string) metering.ListInput {
	return metering.ListInput{From: time.UnixMilli(0), To: time.Now().Add(time.Hour), Limit: 100, Filter: metering.Filter{Subscriptions: []string{sub}}}
}
