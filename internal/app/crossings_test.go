package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/admin"
	"tollgate/billing"
	"tollgate/internal/config"
	"tollgate/internal/testkit/redis"
	"tollgate/internal/testkit/wait"
	"tollgate/quota"
)

// crossingsOf reads the crossings of a subscription by the admin API, oldest
// first.
func crossingsOf(t *testing.T, d *Demo, subscription string) (ids []string) {
	t.Helper()
	status, text := call(t, "GET", d.AdminURL+"/api/v1/subscriptions/"+subscription+"/crossings", d.BuyerToken, "")
	var page struct{ Items []struct{ ID string } }
	if err := json.Unmarshal([]byte(text), &page); err != nil || status != 200 {
		t.Fatalf("crossings: %d %s", status, text)
	}
	for _, c := range page.Items {
		ids = append([]string{c.ID}, ids...)
	}
	return ids
}

// wantCrossings waits until the crossings of a subscription are these.
func wantCrossings(t *testing.T, d *Demo, subscription string, want ...string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; pause(t.Context(), 20*time.Millisecond) {
		got := crossingsOf(t, d, subscription)
		full := make([]string, len(want))
		for i, w := range want {
			full[i] = subscription + "/" + w
		}
		if fmt.Sprint(got) == fmt.Sprint(full) {
			return
		}
		if len(got) > len(want) || time.Now().After(deadline) {
			t.Fatalf("crossings %v, want %v", got, full)
		}
	}
}

// TestCrossings: calls use a package up; each level is told once (ALERT-20,
// ALERT-24); a purchase above the level arms it again (ALERT-14), and it is told
// again. All of it through the program as it is, on both kinds of store.
func TestCrossings(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"embedded", "redis"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			cfg.Quota.Crossings, cfg.Quota.Sync = 20*time.Millisecond, 50*time.Millisecond
			if store == "redis" {
				cfg.Quota.Store = config.NewSecret(redis.Start(t, redis.Options{}).URL())
			}
			info, stop := run(t, cfg, Options{Demo: true, DemoUnits: 10})
			d := info.Demo
			sub := d.LLM.SubscriptionID
			withoutAlert(t, d, sub)
			status, text := call(t, "PUT", d.AdminURL+"/api/v1/subscriptions/"+sub+"/thresholds/call", d.BuyerToken, `{"levels":[{"kind":"percent","value":50}]}`)
			if status != 200 {
				t.Fatalf("%d %s", status, text)
			}
			calls := func(n, want int) {
				t.Helper()
				for i := range n {
					if status, text := call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello); status != want {
						t.Fatalf("call %d: %d %s, want %d", i, status, text, want)
					}
				}
			}
			calls(4, 200)
			if got := crossingsOf(t, d, sub); len(got) != 0 {
				t.Errorf("after 4 of 10: %v", got)
			}
			calls(1, 200)
			wantCrossings(t, d, sub, "call/percent-50/1")
			calls(5, 200)
			wantCrossings(t, d, sub, "call/percent-50/1", "call/absolute-0/1")
			calls(1, 429)

			// 10 more: 10 of 20 remain, which is no more than half; 20 more arm it.
			buy := func() {
				t.Helper()
				spec := specOf(t, d, sub)
				status, text := call(t, "POST", d.AdminURL+"/api/v1/orders", d.BuyerToken, fmt.Sprintf(`{"spec_id":%q,"quantity":1}`, spec))
				if status/100 != 2 {
					t.Fatalf("buy: %d %s", status, text)
				}
			}
			buy()
			buy()
			calls(1, 200)
			calls(5, 200) // 14 of 30 remain
			wantCrossings(t, d, sub, "call/percent-50/1", "call/absolute-0/1", "call/percent-50/2")
			stop()

			// A new start tells nothing again.
			info, _ = run(t, cfg, Options{Demo: true, DemoUnits: 10})
			pause(t.Context(), 200*time.Millisecond)
			wantCrossings(t, info.Demo, sub, "call/percent-50/1", "call/absolute-0/1", "call/percent-50/2")
		})
	}
}

// TestCrossingsAfterTheStoreWasEmptied: Redis is emptied under a program that has
// told a level. It is not told again while nothing was bought, and when a
// purchase has armed it the next crossing arrives under an id of its own.
func TestCrossingsAfterTheStoreWasEmptied(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	cfg := testConfig(t)
	cfg.Quota.Crossings, cfg.Quota.Sync, cfg.Quota.LeaseTTL = 20*time.Millisecond, 50*time.Millisecond, 2*time.Second
	cfg.Quota.Store = config.NewSecret(server.URL())
	info, _ := run(t, cfg, Options{Demo: true, DemoUnits: 10})
	d := info.Demo
	sub := d.LLM.SubscriptionID
	if status, text := call(t, "PUT", d.AdminURL+"/api/v1/subscriptions/"+sub+"/thresholds/call", d.BuyerToken, `{"levels":[{"kind":"percent","value":50}]}`); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	calls := func(n int) {
		t.Helper()
		for served := 0; served < n; {
			switch status, text := call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello); status {
			case 200:
				served++
			case 503: // the store relearns its state
				pause(t.Context(), 50*time.Millisecond)
			default:
				t.Fatalf("call %d: %d %s", served, status, text)
			}
		}
	}
	flush := func(rebuilds int64) {
		t.Helper()
		if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		wait.Until(t, 30*time.Second, "the rebuild", func(context.Context) error {
			var st admin.QuotaStore
			if _, text := call(t, "GET", d.AdminURL+"/api/v1/quota/store", d.OperatorToken, ""); json.Unmarshal([]byte(text), &st) != nil || !st.Whole || st.Rebuilds < rebuilds {
				return fmt.Errorf("quota store: %s", text)
			}
			return nil
		})
	}
	calls(5)
	wantCrossings(t, d, sub, "call/percent-50/1")
	flush(1)
	calls(1) // all is known again
	wantCrossings(t, d, sub, "call/percent-50/1")
	spec := specOf(t, d, sub)
	if status, text := call(t, "POST", d.AdminURL+"/api/v1/orders", d.BuyerToken, fmt.Sprintf(`{"spec_id":%q,"quantity":2}`, spec)); status/100 != 2 {
		t.Fatalf("buy: %d %s", status, text)
	}
	calls(8) // 16 of 30 remain
	wantCrossings(t, d, sub, "call/percent-50/1")
	calls(1)
	wantCrossings(t, d, sub, "call/percent-50/1", "call/percent-50/2")
	flush(2)
	calls(1)
	wantCrossings(t, d, sub, "call/percent-50/1", "call/percent-50/2")
}

// specOf returns the spec that a subscription's first order bought.
func specOf(t *testing.T, d *Demo, subscription string) string {
	t.Helper()
	status, text := call(t, "GET", d.AdminURL+"/api/v1/orders?limit=100", d.BuyerToken, "")
	var page struct {
		Items []struct {
			Spec         string `json:"spec_id"`
			Subscription string `json:"subscription_id"`
		}
	}
	if err := json.Unmarshal([]byte(text), &page); err != nil || status != 200 {
		t.Fatalf("orders: %d %s", status, text)
	}
	for _, o := range page.Items {
		if o.Subscription == subscription {
			return o.Spec
		}
	}
	t.Fatalf("no order of %s in %s", subscription, text)
	return ""
}

// dyingOutbox does not get to acknowledge: the process dies before it.
type dyingOutbox struct {
	quota.Outbox
	dead atomic.Bool
}

var errDied = errors.New("the process died")

func (d *dyingOutbox) Ack(ctx context.Context, done ...quota.Crossing) error {
	if d.dead.Load() {
		return errDied
	}
	return d.Outbox.Ack(ctx, done...)
}

// TestCrossingsSurviveADeathBeforeTheAck: what was kept and not acknowledged
// comes again, and is kept once; what was not kept is never acknowledged.
func TestCrossingsSurviveADeathBeforeTheAck(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"embedded", "redis"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			cfg.Quota.Sync, cfg.Quota.Crossings = 50*time.Millisecond, time.Hour // nobody else fetches
			if store == "redis" {
				cfg.Quota.Store = config.NewSecret(redis.Start(t, redis.Options{}).URL())
			}
			a := started(t, cfg, Options{Demo: true, DemoUnits: 3})
			outbox := &dyingOutbox{Outbox: a.control.crossings.outbox}
			log := slog.New(slog.NewTextHandler(io.Discard, nil))
			carry := func(k crossingKeeper) (*crossings, int, error) {
				c := &crossings{outbox: outbox, keeper: k, log: log}
				n, err := c.carry(t.Context())
				return c, n, err
			}
			d := a.demo
			withoutAlert(t, d, d.LLM.SubscriptionID)
			for range 3 {
				if status, text := call(t, "POST", d.LLM.BaseURL+"/chat/completions", d.LLM.APIKey, hello); status != 200 {
					t.Fatalf("%d %s", status, text)
				}
			}
			if err := a.node.engine.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, _, err := carry(failingKeeper{}); !errors.Is(err, errDied) {
				t.Fatalf("with billing away: %v", err)
			}
			outbox.dead.Store(true)
			c, _, err := carry(a.control.billing)
			if !errors.Is(err, errDied) || c.recorded.Load() != 1 || c.repeated.Load() != 0 {
				t.Fatalf("first delivery: %v, %d new, %d known", err, c.recorded.Load(), c.repeated.Load())
			}
			outbox.dead.Store(false)
			c, _, err = carry(a.control.billing)
			if err != nil || c.recorded.Load() != 0 || c.repeated.Load() != 1 {
				t.Fatalf("second delivery: %v, %d new, %d known, want the same one", err, c.recorded.Load(), c.repeated.Load())
			}
			if _, n, err := carry(a.control.billing); n != 0 || err != nil {
				t.Fatalf("after the acknowledgement %d came, %v", n, err)
			}
			list, _, err := a.control.billing.Crossings(t.Context(), billing.CrossingFilter{Subscription: d.LLM.SubscriptionID})
			if err != nil || len(list) != 1 || list[0].Level.Value != 0 || list[0].Total != 3 || list[0].Remaining != 0 {
				t.Fatalf("kept: %+v, %v", list, err)
			}
		})
	}
}

type failingKeeper struct{}

func (failingKeeper) RecordCrossings(context.Context, []billing.Crossing) (int, error) {
	return 0, errDied
}

// started starts the program within the test and stops it at its end.
func started(t *testing.T, cfg config.Config, opts Options) *App {
	t.Helper()
	opts.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	a, err := start(t.Context(), cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.stop(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// withoutAlert switches off the alert that a first purchase gets (ALERT-4), so
// that only the levels a test sets are crossed.
func withoutAlert(t *testing.T, d *Demo, subscription string) {
	t.Helper()
	body := fmt.Sprintf(`{"spec_ids":[%q],"enabled":false,"threshold":{"kind":"percent","value":20}}`, specOf(t, d, subscription))
	if status, text := call(t, "PUT", d.AdminURL+"/api/v1/alerts", d.BuyerToken, body); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
}
