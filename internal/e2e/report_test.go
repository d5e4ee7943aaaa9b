package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// TestReportUsage writes the report of a running Tollgate, as its operator and
// as a buyer, and finds the calls in it.
func TestReportUsage(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	for range 3 {
		if got := chat(t, n.Demo.LLM, nil); got != 200 {
			t.Fatalf("status %d", got)
		}
	}
	out := filepath.Join(t.TempDir(), "usage.html")
	written := func(args ...string) string {
		t.Helper()
		p, exit := tollgate.Run(t, settleLimit, append([]string{"report", "usage", "--out", out}, args...)...)
		if exit != 0 {
			t.Fatalf("%d: %s", exit, p.Output())
		}
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	wait.Until(t, settleLimit, "the calls in the report", func(context.Context) error {
		text := written("--data", n.Dir(), "--subscription", n.Demo.LLM.SubscriptionID)
		for _, want := range []string{"Usage report", "<svg", "call 3", n.Demo.LLM.Model, n.Demo.LLM.SubscriptionID} {
			if !strings.Contains(text, want) {
				return errors.New("it lacks " + want)
			}
		}
		return nil
	})
	text := written("--data", t.TempDir(), "--admin-url", n.Demo.AdminURL, "--token", n.Demo.BuyerToken, "--lang", "zh", "--from", time.Now().AddDate(0, 0, -2).Format(time.DateOnly))
	if !strings.Contains(text, "用量报告") || !strings.Contains(text, "call 3") {
		t.Errorf("the buyer's report:\n%s", text)
	}
	if _, exit := tollgate.Run(t, settleLimit, "report", "usage", "--data", n.Dir(), "--from", "yesterday"); exit != 1 {
		t.Errorf("a time that is none: %d", exit)
	}
}
