package app

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"
)

// TestVerifyNoticesTamperedStores takes one thing away from each store of a
// stopped program: the books must not balance any more.
func TestVerifyNoticesTamperedStores(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	info, stop := run(t, cfg, Options{Demo: true})
	d := info.Demo
	for range 5 {
		call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello)
	}
	stop()
	whole := cfg.Data
	exec := func(t *testing.T, dir, query string) {
		db, err := sql.Open("sqlite", filepath.Join(dir, "usage.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	const noRow = "DELETE FROM call WHERE request = (SELECT request FROM call LIMIT 1)"
	const noSums = "DELETE FROM minute; DELETE FROM hour; DELETE FROM day"
	for _, c := range []struct {
		name                        string
		tamper                      func(t *testing.T, dir string)
		journal, quota, used, drift int64
		fails, damaged              bool
	}{
		{"nothing", func(*testing.T, string) {}, 5, 5, 5, 0, false, false},
		{"a usage row", func(t *testing.T, dir string) { exec(t, dir, noRow) }, 5, 5, 4, -1, false, false},
		{"every usage row", func(t *testing.T, dir string) { exec(t, dir, "DELETE FROM call;"+noSums) }, 5, 5, 0, -5, false, false},
		{"the sums of rows", func(t *testing.T, dir string) { exec(t, dir, noSums) }, 5, 5, 0, -5, false, false},
		{"the quota store", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "quota")); err != nil {
				t.Fatal(err)
			}
		}, 0, 0, 0, 0, true, false},
		{"what the quota store holds", func(t *testing.T, dir string) {
			for _, name := range []string{"quota.log", "quota.mark"} {
				if err := os.Remove(filepath.Join(dir, "quota", name)); err != nil {
					t.Fatal(err)
				}
			}
		}, 5, 0, 5, -5, false, false},
		{"a byte of the journal", func(t *testing.T, dir string) {
			name := filepath.Join(dir, "journal", "000000000001.seg")
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b[700] ^= 1
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, 5, 5, 5, 0, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg.Data = t.TempDir()
			if err := os.CopyFS(cfg.Data, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			c.tamper(t, cfg.Data)
			r, err := Verify(context.Background(), cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
			if c.fails {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if c.damaged != errors.Is(err, ErrDamaged) || err != nil && !c.damaged {
				t.Fatalf("error %v", err)
			}
			for _, l := range r.Subscriptions {
				if l.Subscription != d.LLM.SubscriptionID {
					continue
				}
				if l.Journal != c.journal || l.Quota != c.quota || l.Usage != c.used || l.Drift != c.drift || r.Drift != max(c.drift, -c.drift) {
					t.Errorf("%+v, in all %d", l, r.Drift)
				}
				return
			}
			t.Errorf("the subscription is not compared: %+v", r)
		})
	}
}
