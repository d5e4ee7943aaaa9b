package metering

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/usage"
)

func openTestStore(t *testing.T, path string) *Store {
	t.Helper()
	s, err := OpenStore(t.Context(), path, StoreOptions{Retention: suiteRetention, Now: func() time.Time { return noon }})
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
	runSuite(t, func(t *testing.T) backend { return openTestStore(t, filepath.Join(t.TempDir(), "usage.db")) })
}

func TestStoreKeepsOverRestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a folder, 100% odd?#", "usage.db")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	r := call(1)
	for round := range 3 {
		s, err := OpenStore(t.Context(), path, StoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		more := call(round)
		more.Account = "ACC1" // a name known from the round before
		mustInsert(t, s, r, more)
		if n := mustQuery(t, s, QueryInput{GroupBy: GroupAccount}).Rows[0].Calls; n != int64(round)+2 {
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

// TestStoreForgetsNamesOfARolledBackBatch: a number given in a transaction
// that did not commit must not be used in the next.
func TestStoreForgetsNamesOfARolledBackBatch(t *testing.T) {
	t.Parallel()
	s := openTestStore(t, filepath.Join(t.TempDir(), "usage.db"))
	ctx, cancel := context.WithCancel(t.Context())
	fresh := call(1)
	fresh.Account = "ACC9"
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := writer{ctx: ctx, tx: tx, known: s.names, fresh: map[string]int64{}}
	if err := w.put(&fresh); err != nil {
		t.Fatal(err)
	}
	w.close()
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	cancel()
	mustInsert(t, s, fresh)
	if rows := mustQuery(t, s, QueryInput{GroupBy: GroupAccount}).Rows; len(rows) != 1 || rows[0].Key != "ACC9" {
		t.Fatalf("rows = %+v", rows)
	}
}

func TestOpenStoreRefuses(t *testing.T) {
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
		opt  StoreOptions
		hint string
	}{
		"a newer schema":     {newer, StoreOptions{}, "use the newer Tollgate"},
		"another file":       {junk, StoreOptions{}, "junk.db"},
		"no such folder":     {filepath.Join(dir, "none", "usage.db"), StoreOptions{}, "none"},
		"negative retention": {filepath.Join(dir, "x.db"), StoreOptions{Retention: -1}, "give 0 to keep everything"},
	} {
		s, err := OpenStore(t.Context(), c.path, c.opt)
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
	now := noon
	s, err := OpenStore(t.Context(), path, StoreOptions{Retention: time.Hour, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	recs := make([]usage.Record, 6_000)
	for i := range recs {
		recs[i] = call(i)
	}
	mustInsert(t, s, recs...)
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
	s, err := OpenStore(b.Context(), filepath.Join(b.TempDir(), "usage.db"), StoreOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		recs := make([]usage.Record, 1000)
		for i := range recs {
			recs[i] = call(n % 80_000)
			n++
		}
		if err := s.Insert(b.Context(), recs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
