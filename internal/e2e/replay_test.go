package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/process"
	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// replayed is what `tollgate journal replay --json` prints.
type replayed struct {
	Node    string
	Rows    int
	Settled []struct {
		Subscription string `json:"subscription_id"`
		Unit         string
		Units        int64
	}
}

// TestReplayADeadNodesDisk: a gateway dies by SIGKILL with use that it has told
// nobody. Its folder is copied to another host, which settles it there. The
// books balance; a second replay changes nothing, nor does the original when it
// starts again after all.
func TestReplayADeadNodesDisk(t *testing.T) {
	t.Parallel()
	const secret = "a secret of sixteen bytes or more"
	store := startRedis(t)
	lease := []string{"TOLLGATE_QUOTA_LEASE_TTL=3s"}
	first := tollgate.Start(t, tollgate.Options{QuotaStore: store, FeedSecret: secret, Name: "first", Units: 1000, Env: lease})
	dead := tollgate.Start(t, tollgate.Options{
		Role: "gateway", QuotaStore: store, FeedSecret: secret, Name: "dead", AdminURL: first.Demo.AdminURL,
		Env: append(lease, "TOLLGATE_QUOTA_SYNC=1h"),
	})
	copied := t.TempDir()
	run := func(args ...string) (r replayed, text string, exit int) {
		t.Helper()
		p, exit := process.Run(t, time.Minute, process.Spec{
			Path: tollgate.Binary(t), Dir: t.TempDir(),
			Args: append([]string{"journal", "replay", "--json", "--admin-url", first.Demo.AdminURL}, args...),
			Env:  []string{"TOLLGATE_QUOTA_STORE=" + store, "TOLLGATE_FEED_SECRET=" + secret},
		})
		_ = json.Unmarshal([]byte(p.Stdout()), &r) // refusals print nothing
		return r, p.Output(), exit
	}
	if _, text, exit := run("--data", copied); exit != 1 || !strings.Contains(text, "holds no journal") {
		t.Errorf("an empty folder: exit %d, %s", exit, text)
	}
	if _, text, exit := run("--data", dead.Dir()); exit != 1 || !strings.Contains(text, "in use") && !strings.Contains(text, "lock") {
		t.Errorf("a running gateway's folder: exit %d, %s", exit, text)
	}

	base, err := url.Parse(first.Demo.LLM.BaseURL)
	if err != nil {
		t.Fatal(err)
	}
	const calls = 200
	load(t, calls, func(client *http.Client, _ int) error {
		req, err := http.NewRequestWithContext(t.Context(), "POST", dead.Demo.GatewayURL+base.Path+"/chat/completions",
			strings.NewReader(`{"model":"demo-chat","messages":[{"role":"user","content":"hello"}]}`))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+first.Demo.LLM.APIKey)
		req.Header.Set("Content-Type", "application/json")
		_, _, err = answer(client, req, false)
		return err
	})
	dead.Kill()
	if err := os.CopyFS(copied, os.DirFS(dead.Dir())); err != nil {
		t.Fatal(err)
	}

	if _, text, exit := run("--data", copied); exit != 1 || !strings.Contains(text, "may be alive") {
		t.Errorf("with the lease still running: exit %d, %s", exit, text)
	}
	var plan replayed
	wait.Until(t, time.Minute, "the dead node's lease to end", func(context.Context) error {
		r, text, exit := run("--data", copied, "--dry-run")
		if exit != 0 {
			return &refused{text}
		}
		plan = r
		return nil
	})
	if len(plan.Settled) != 1 || plan.Settled[0].Units < 1 {
		t.Fatalf("dry run: %+v, want units to be settled", plan)
	}
	if again, _, _ := run("--data", copied, "--dry-run"); len(again.Settled) != 1 || again.Settled[0] != plan.Settled[0] {
		t.Errorf("a dry run changed something: %+v, then %+v", plan, again)
	}
	r, text, exit := run("--data", copied)
	if exit != 0 || r.Node != "dead" || len(r.Settled) != 1 || r.Settled[0] != plan.Settled[0] {
		t.Fatalf("exit %d, %s", exit, text)
	}
	sub := first.Demo.LLM.SubscriptionID
	balanced := func(when string) {
		t.Helper()
		wait.Until(t, 30*time.Second, "the books to balance "+when, func(context.Context) error {
			var q struct{ Used, Leased, Remaining int64 }
			var rec struct {
				Drift         int64
				Subscriptions []struct {
					Subscription string `json:"subscription_id"`
					Quota, Usage int64
				}
			}
			getJSON(t, first, "/api/v1/subscriptions/"+sub+"/quota", &q)
			getJSON(t, first, "/api/v1/reconciliation", &rec)
			rows := int64(0)
			for _, s := range rec.Subscriptions {
				if s.Subscription == sub {
					rows = s.Usage
				}
			}
			if q.Used != calls || q.Leased != 0 || rows != calls || rec.Drift != 0 {
				text, _ := json.Marshal(map[string]any{"quota": q, "reconciliation": rec})
				return &refused{string(text)}
			}
			return nil
		})
	}
	balanced("after the replay")
	if r, text, exit := run("--data", copied); exit != 0 || len(r.Settled) != 0 {
		t.Errorf("a second replay: exit %d, %s", exit, text)
	}
	balanced("after the second replay")
	dead.Restart()
	balanced("after the original has started again")
	if _, text, exit := run("--data", copied); exit != 1 || !strings.Contains(text, "started again elsewhere") && !strings.Contains(text, "may be alive") {
		// Only a start that has reported is known to the store.
		if exit != 0 {
			t.Errorf("a copy of a node that lives: exit %d, %s", exit, text)
		}
	}
	balanced("at the end")
	if _, err := os.Stat(filepath.Join(copied, "journal", "node")); err != nil {
		t.Error(err)
	}
}

// refused is an answer that was not what it should be yet.
type refused struct{ text string }

func (r *refused) Error() string { return r.text }

// getJSON reads from the admin API as the operator.
func getJSON(t *testing.T, n *tollgate.Node, path string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", n.Demo.AdminURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+n.Demo.OperatorToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != 200 {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// TestReplayEndsOpenCalls: a gateway dies by SIGKILL under a stream. Another host
// replays a copy of its disk: the call becomes one recovered row with what had
// been delivered, charged once, also after a second replay and after the
// original has started and has ended the call itself.
func TestReplayEndsOpenCalls(t *testing.T) {
	t.Parallel()
	const secret = "a secret of sixteen bytes or more"
	store := startRedis(t)
	lease := []string{"TOLLGATE_QUOTA_LEASE_TTL=2s", "TOLLGATE_GATEWAY_CHECKPOINT_UNITS=5"}
	first := tollgate.Start(t, tollgate.Options{QuotaStore: store, FeedSecret: secret, Name: "first", Units: 10_000, Env: lease})
	dead := tollgate.Start(t, tollgate.Options{
		Role: "gateway", QuotaStore: store, FeedSecret: secret, Name: "dead", AdminURL: first.Demo.AdminURL,
		Env: append(lease, "TOLLGATE_QUOTA_SYNC=1h"),
	})
	base, err := url.Parse(first.Demo.LLMTokens.BaseURL)
	if err != nil {
		t.Fatal(err)
	}
	p := first.Demo.LLMTokens
	p.BaseURL = dead.Demo.GatewayURL + base.Path
	resp, err := http.DefaultClient.Do(chatRequest(t, p, strings.Replace(chatBody, "{", `{"stream":true,`, 1), steer{"X-Mock-Chunks": "1000", "X-Mock-Chunk-Delay": "5ms"}))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ids := map[string]string{p.SubscriptionID: resp.Header.Get("X-Request-Id")}
	delivered := int64(0)
	for lines := bufio.NewScanner(resp.Body); delivered < 40 && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data: {") {
			delivered++
		}
	}
	dead.Kill()
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dead.Dir())); err != nil {
		t.Fatal(err)
	}
	replay := func() (r replayed, text string, exit int) {
		t.Helper()
		p, exit := process.Run(t, time.Minute, process.Spec{
			Path: tollgate.Binary(t), Dir: t.TempDir(),
			Args: []string{"journal", "replay", "--json", "--admin-url", first.Demo.AdminURL, "--data", copied},
			Env:  []string{"TOLLGATE_QUOTA_STORE=" + store, "TOLLGATE_FEED_SECRET=" + secret},
		})
		_ = json.Unmarshal([]byte(p.Stdout()), &r) // refusals print nothing
		return r, p.Output(), exit
	}
	var r replayed
	wait.Until(t, time.Minute, "the dead node's lease to end", func(context.Context) error {
		var text string
		var exit int
		if r, text, exit = replay(); exit != 0 {
			return &refused{text}
		}
		return nil
	})
	if r.Rows != 1 || len(r.Settled) != 1 || r.Settled[0].Units < delivered-6 {
		t.Errorf("replay: %+v, %d chunks were delivered", r, delivered)
	}
	var charged int64
	exact := func(when string) {
		t.Helper()
		row := waitRow(t, first, p.SubscriptionID, ids)
		if charged == 0 {
			charged = row.charged
		}
		if row.charged != charged || row.charged != row.total || row.output < delivered-6 || row.output > 1000 {
			t.Errorf("%s: %+v, %d chunks were delivered", when, row, delivered)
		}
		waitUsed(t, first, p.SubscriptionID, charged)
		wait.Until(t, settleLimit, "the books to balance "+when, func(ctx context.Context) error {
			var rec struct {
				Drift         int64
				Subscriptions []struct {
					Subscription string `json:"subscription_id"`
					Usage        int64
				}
			}
			getJSON(t, first, "/api/v1/reconciliation", &rec)
			rows := int64(0)
			for _, s := range rec.Subscriptions {
				if s.Subscription == p.SubscriptionID {
					rows += s.Usage
				}
			}
			if rec.Drift != 0 || rows != charged {
				return &refused{fmt.Sprintf("drift %d, rows of %d units, want %d", rec.Drift, rows, charged)}
			}
			return nil
		})
	}
	exact("after the replay")
	if r, text, exit := replay(); exit != 0 || len(r.Settled) != 0 {
		t.Errorf("a second replay: exit %d, %s", exit, text)
	}
	exact("after the second replay")
	dead.Restart()
	exact("after the original has started")
	if code := dead.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	exact("after the original has ended")
}
