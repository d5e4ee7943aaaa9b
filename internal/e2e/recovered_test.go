package e2e

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/journal"
	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
	"tollgate/internal/usage"
)

// TestKillMidStreamKeepsWhatWasDelivered: a node that dies under a stream
// charges at its next start what it had delivered, once, as one usage row that
// says so, and stays exact when it dies again.
func TestKillMidStreamKeepsWhatWasDelivered(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 10_000, Env: []string{"TOLLGATE_GATEWAY_CHECKPOINT_UNITS=5"}})
	ids := map[string]string{} // request id by subscription
	delivered := 0
	for _, p := range []tollgate.LLM{n.Demo.LLM, n.Demo.LLMTokens} {
		req := chatRequest(t, p, strings.Replace(chatBody, "{", `{"stream":true,`, 1), steer{"X-Mock-Chunks": "1000", "X-Mock-Chunk-Delay": "5ms"})
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		ids[p.SubscriptionID] = resp.Header.Get("X-Request-Id")
		lines := bufio.NewScanner(resp.Body)
		for delivered = 0; delivered < 40 && lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "data: {") {
				delivered++
			}
		}
	}
	n.Kill()
	if out := verifyJournal(t, n); !strings.Contains(out, "calls without a final record: 2: the next start charges them") {
		t.Errorf("before the restart: %s", out)
	}
	verifyExact(t, n)

	check := func() {
		t.Helper()
		q := waitRow(t, n, n.Demo.LLM.SubscriptionID, ids)
		if q.charged != 1 {
			t.Errorf("the stream by calls: %+v", q)
		}
		waitUsed(t, n, n.Demo.LLM.SubscriptionID, 1)
		q = waitRow(t, n, n.Demo.LLMTokens.SubscriptionID, ids)
		// No more than five tokens behind what the client has, and the prompt.
		if q.output < int64(delivered)-1-5 || q.output > 1000 || q.charged != q.total {
			t.Errorf("the stream by tokens: %+v, %d chunks were delivered", q, delivered)
		}
		waitUsed(t, n, n.Demo.LLMTokens.SubscriptionID, q.charged)
	}
	n.Restart()
	check()
	n.Kill()
	verifyExact(t, n)
	if out := verifyJournal(t, n); !strings.Contains(out, "2 recovered after a crash") || strings.Contains(out, "without a final") {
		t.Errorf("after the restart: %s", out)
	}
	recovered := 0
	_, err := journal.Inspect(filepath.Join(n.Dir(), "journal"), func(r journal.Record) error {
		var rec usage.Record
		if r.Kind != journal.KindUsage {
			return nil
		}
		if err := usage.DecodeRecord(r.Payload, &rec); err != nil {
			return err
		}
		if rec.Basis == usage.BasisRecovered {
			recovered++
			if rec.Boot != 1 || r.Boot != 2 {
				t.Errorf("start %d recovered a call of start %d", r.Boot, rec.Boot)
			}
		}
		return nil
	})
	if err != nil || recovered != 2 {
		t.Errorf("%d recovered records, %v", recovered, err)
	}
	n.Restart()
	check()
	if code := n.Terminate(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	verifyExact(t, n)
}

// recoveredRow is what a usage row says of a recovered call.
type recoveredRow struct{ charged, output, total int64 }

// waitRow waits for the usage row of a subscription's call, which must be a
// recovered one.
func waitRow(t *testing.T, n *tollgate.Node, subscription string, ids map[string]string) (r recoveredRow) {
	t.Helper()
	wait.Until(t, settleLimit, "the usage row", func(ctx context.Context) error {
		var row struct {
			Counted    bool             `json:"counted"`
			Incomplete bool             `json:"incomplete"`
			Basis      string           `json:"basis"`
			Units      map[string]int64 `json:"units"`
			Charges    []struct {
				Amount int64 `json:"amount"`
			} `json:"charges"`
		}
		if _, err := admin(ctx, n, n.Demo.BuyerToken, http.MethodGet, "/api/v1/usage/requests/"+ids[subscription], nil, &row); err != nil {
			return err
		}
		if !row.Counted || !row.Incomplete || row.Basis != "recovered" || len(row.Charges) != 1 {
			return errors.New("it is no recovered one")
		}
		r = recoveredRow{row.Charges[0].Amount, row.Units["output_token"], row.Units["token"]}
		return nil
	})
	return r
}

func verifyJournal(t *testing.T, n *tollgate.Node) string {
	t.Helper()
	p, code := tollgate.Run(t, 10*time.Second, "journal", "verify", "--data", n.Dir())
	if code != 0 {
		t.Errorf("journal verify: exit code %d: %s", code, p.Output())
	}
	return p.Output()
}

// verifyExact holds that nothing drifts, with the program down.
func verifyExact(t *testing.T, n *tollgate.Node) {
	t.Helper()
	if p, code := tollgate.Run(t, 20*time.Second, "verify", "--data", n.Dir()); code != 0 {
		t.Errorf("verify: exit code %d: %s", code, p.Output())
	}
}
