package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/admin"
	"tollgate/internal/config"
	"tollgate/internal/testkit/redis"
	"tollgate/internal/testkit/wait"
)

// drift asks the program for its own comparison.
func drift(t *testing.T, d *Demo) int64 {
	t.Helper()
	status, text := call(t, "GET", d.AdminURL+"/api/v1/reconciliation", d.OperatorToken, "")
	var r admin.Reconciliation
	if err := json.Unmarshal([]byte(text), &r); err != nil || status != http.StatusOK || !r.Complete {
		t.Fatalf("reconciliation: %d %s", status, text)
	}
	return r.Drift
}

// TestARemovedQuotaFolderIsRecovered removes the embedded quota store, and puts
// an older copy in its place, between runs of the program: packages and what
// was used of them must be back at the next start, over several starts.
func TestARemovedQuotaFolderIsRecovered(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	folder, copied := filepath.Join(cfg.Data, "quota"), filepath.Join(t.TempDir(), "copy")
	opts := Options{Demo: true, DemoUnits: 20}
	lose := []func() error{
		func() error { return os.CopyFS(copied, os.DirFS(folder)) }, // nothing is lost yet
		func() error { return os.RemoveAll(folder) },
		func() error { return nil },
		func() error {
			if err := os.RemoveAll(folder); err != nil {
				return err
			}
			return os.CopyFS(folder, os.DirFS(copied))
		},
		func() error { return os.RemoveAll(folder) },
	}
	for round := range 6 {
		info, stop := run(t, cfg, opts)
		d := info.Demo
		if g, u := used(t, d, d.LLM.SubscriptionID); g != 20 || u != int64(3*round) {
			t.Fatalf("start %d: granted %d, used %d, want 20 and %d", round, g, u, 3*round)
		}
		for range 3 {
			if status, text := call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello); status != 200 {
				t.Fatalf("start %d: %d %s", round, status, text)
			}
		}
		if n := drift(t, d); n != 0 {
			t.Fatalf("start %d: drift %d", round, n)
		}
		if round == 5 { // the package ends where it must
			for n := 18; ; n++ {
				status, text := call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello)
				if status == 200 && n < 20 {
					continue
				}
				if n != 20 || status == 503 {
					t.Errorf("call %d: %d %s", n+1, status, text)
				}
				break
			}
		}
		stop()
		if round < len(lose) {
			if err := lose[round](); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAnEmptiedRedisIsRebuilt empties the Redis of a running program. It comes
// back by itself; meanwhile nobody is told that the package is used up, and the
// operator sees what happened.
func TestAnEmptiedRedisIsRebuilt(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	cfg := testConfig(t)
	cfg.Quota.Store = config.NewSecret(server.URL())
	cfg.Quota.LeaseTTL = 2 * time.Second
	info, _ := run(t, cfg, Options{Demo: true, DemoUnits: 100})
	d := info.Demo
	chat := func() (int, string) {
		t.Helper()
		return call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello)
	}
	served := int64(0)
	for range 10 {
		if status, text := chat(); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		served++
	}
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, 30*time.Second, "the rebuild", func(context.Context) error {
		status, text := chat()
		switch status {
		case 200:
			served++
		case 503:
		default:
			t.Fatalf("while the store is rebuilt: %d %s", status, text)
		}
		var st admin.QuotaStore
		if _, text := call(t, "GET", d.AdminURL+"/api/v1/quota/store", d.OperatorToken, ""); json.Unmarshal([]byte(text), &st) != nil || !st.Whole || st.Rebuilds == 0 {
			return fmt.Errorf("quota store: %s", text)
		}
		if status != 200 {
			return fmt.Errorf("call: %d", status)
		}
		return nil
	})
	// Whatever was leased before and after, the package ends at its last unit.
	wait.Until(t, 60*time.Second, "the end of the package", func(context.Context) error {
		for {
			switch status, text := chat(); status {
			case 200:
				served++
			case 503:
				return fmt.Errorf("%d %s", status, text)
			default:
				return nil
			}
		}
	})
	if g, u := used(t, d, d.LLM.SubscriptionID); served != 100 || g != 100 || u != 100 {
		t.Errorf("served %d, granted %d, used %d, want 100 of each", served, g, u)
	}
	if n := drift(t, d); n != 0 {
		t.Errorf("drift %d", n)
	}
	if _, text := call(t, "GET", d.AdminURL+"/metrics", "", ""); !strings.Contains(text, "\ntollgate_quota_rebuilds_total 1\n") || !strings.Contains(text, "\ntollgate_quota_store_whole 1\n") {
		t.Error("the metrics do not tell of the rebuild")
	}
	for _, body := range []string{`{}`, `{"dry_run":false}`} {
		var r admin.QuotaRebuild
		status, text := call(t, "POST", d.AdminURL+"/api/v1/quota/rebuild", d.OperatorToken, body)
		if err := json.Unmarshal([]byte(text), &r); err != nil || status != 200 || r.DryRun != (body == `{}`) || r.Lots == 0 || r.Short != 0 {
			t.Errorf("rebuild %s: %d %s", body, status, text)
		}
	}
}
