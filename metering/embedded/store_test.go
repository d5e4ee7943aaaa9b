package embedded

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/metering/metertest"
)

func openTestStore(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, Options{Now: func() time.Time { return metertest.Noon }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	metertest.Run(t, func(t *testing.T) metertest.Backend { return openTestStore(t, filepath.Join(t.TempDir(), "usage.db")) })
}

func TestStoreKeepsOverRestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a folder, 100% odd?#", "usage.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	r := metertest.Call(1)
	for round := range 3 {
		s, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		more := metertest.Call(round)
		more.Account = "ACC1" // a name known from the round before
		metertest.MustInsert(t, s, r, more)
		if n := metertest.MustQuery(t, s, metering.QueryInput{GroupBy: metering.GroupAccount}).Rows[0].Calls; n != int64(round)+2 {
			t.Fatalf("round %d: %d calls", round, n)
		}
		if n, err := s.Prune(t.Context()); n != 0 || err != nil {
			t.Fatalf("without a retention Prune = %d, %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the file is elsewhere: %v", err)
	}
}

// TestStoreForgetsGroupsOfARolledBackBatch: a number given in a transaction
// that did not commit must not be used in the next.
func TestStoreForgetsGroupsOfARolledBackBatch(t *testing.T) {
	t.Parallel()
	s := openTestStore(t, filepath.Join(t.TempDir(), "usage.db"))
	fresh := metertest.Call(1)
	fresh.Account = "ACC9"
	broken := errors.New("the disk is full")
	s.beforeCommit = func() error { return broken }
	if err := s.Insert(t.Context(), []usage.Record{fresh}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	s.beforeCommit = nil
	other := metertest.Call(2)
	metertest.MustInsert(t, s, other, fresh)
	got := map[string]int64{}
	for _, r := range metertest.MustQuery(t, s, metering.QueryInput{GroupBy: metering.GroupAccount}).Rows {
		got[r.Key] = r.Calls
	}
	if got["ACC9"] != 1 || got["ACC1"] != 1 || len(got) != 2 {
		t.Fatalf("rows = %+v", got)
	}
}

// TestRetention: each kind of row goes when its own time has passed, figures
// stay exact as finely as they are kept, and nothing that has just arrived
// goes.
func TestRetention(t *testing.T) {
	t.Parallel()
	now := metertest.Noon
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "usage.db"), Options{
		Retention: 48 * time.Hour, MinuteRetention: 4 * 24 * time.Hour, RollupRetention: 10 * 24 * time.Hour, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := metertest.Call(0) // a day ago, at noon
	metertest.MustInsert(t, s, r)
	f := func(after time.Duration, pruned int64, record bool, calls int64) {
		t.Helper()
		now = metertest.Noon.Add(after)
		if n, err := s.Prune(t.Context()); n != pruned || err != nil {
			t.Errorf("after %s Prune = %d, %v, want %d", after, n, err, pruned)
		}
		_, err := s.ByRequest(t.Context(), r.ID)
		if record && err != nil || !record && !errors.Is(err, metering.ErrNotFound) {
			t.Errorf("after %s the record: %v", after, err)
		}
		res, err := s.Query(t.Context(), metering.QueryInput{From: r.Time.Add(-10 * time.Second), To: r.Time.Add(10 * time.Second)})
		if err != nil || res.Total.Calls != calls {
			t.Errorf("after %s: %d calls, %v, want %d", after, res.Total.Calls, err, calls)
		}
		if res.To.Sub(res.From) < 20*time.Second {
			t.Errorf("after %s: covers [%s, %s)", after, res.From, res.To)
		}
	}
	day := 24 * time.Hour
	f(0, 0, true, 1)
	f(day, 0, true, 1)
	f(day+time.Second, 1, false, 1) // the minute still tells
	f(5*day, 0, false, 1)           // the hour does
	f(9*day, 0, false, 1)
	f(11*day, 0, false, 0)
	if n := len(s.dims.list); n != 0 {
		t.Errorf("%d groups are kept for nothing", n)
	}
	old := metertest.Call(0)
	old.Time = now.AddDate(-1, 0, 0) // from a node whose clock is a year behind
	old.ID = ids.NewRequest(old.Time)
	metertest.MustInsert(t, s, old)
	f(11*day, 0, false, 0)
	metertest.MustInsert(t, s, old) // the batch once more
	if _, err := s.ByRequest(t.Context(), old.ID); err != nil {
		t.Errorf("a record that has just arrived: %v", err)
	}
}

// TestCarryOverFromVersion1: the calls of a store without rollups are there
// afterwards, in the rollups too.
func TestCarryOverFromVersion1(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile(filepath.Join("testdata", "version1.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), string(schema)); err != nil {
		t.Fatal(err)
	}
	for i := range 4500 {
		r := metertest.Call(i)
		if _, err := db.ExecContext(t.Context(), "INSERT INTO record VALUES (?, ?, ?, ?, ?)", r.ID[:], milli(r.Time), milli(r.Finished), int64(r.Flags), usage.AppendRecord(nil, &r)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s := openTestStore(t, path)
		if got := metertest.MustQuery(t, s, metering.QueryInput{}).Total; got.Calls != 4500 || got.Charged[usage.Token] != 45000 {
			t.Fatalf("carried over: %+v", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newer := filepath.Join(dir, "newer.db")
	db, err := sql.Open("sqlite", newer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("not a database", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		opt  Options
		hint string
	}{
		"a newer schema":     {newer, Options{}, "use the newer Tollgate"},
		"another file":       {junk, Options{}, "junk.db"},
		"no such folder":     {filepath.Join(dir, "none", "usage.db"), Options{}, "none"},
		"negative retention": {filepath.Join(dir, "x.db"), Options{Retention: -1}, "give 0 to keep everything"},
	} {
		s, err := Open(t.Context(), c.path, c.opt)
		if err == nil || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.hint)
		}
		if s != nil {
			_ = s.Close()
		}
	}
}

// TestPruneGivesSpaceBack: the file does not grow for ever.
func TestPruneGivesSpaceBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.db")
	now := metertest.Noon
	s, err := Open(t.Context(), path, Options{Retention: time.Hour, MinuteRetention: time.Hour, RollupRetention: time.Hour, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	recs := make([]usage.Record, 6_000)
	for i := range recs {
		recs[i] = metertest.Call(i)
	}
	metertest.MustInsert(t, s, recs...)
	checkpoint := func() int64 {
		if _, err := s.db.ExecContext(t.Context(), "PRAGMA wal_checkpoint(truncate)"); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	before := checkpoint()
	now = now.Add(30 * time.Hour) // a day after they arrived
	if n, err := s.Prune(t.Context()); n != 6_000 || err != nil {
		t.Fatalf("Prune = %d, %v", n, err)
	}
	if after := checkpoint(); after > before/2 {
		t.Fatalf("the file has %d bytes after the prune, %d before", after, before)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkInsert(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "usage.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		recs := make([]usage.Record, 1000)
		for i := range recs {
			recs[i] = metertest.Call(n % 80_000)
			n++
		}
		if err := s.Insert(b.Context(), recs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
