package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// settleLimit is how long the derived counters may trail the calls.
const settleLimit = 30 * time.Second

// quota is the part of a subscription's quota that tests judge.
type quota struct {
	Unit      string `json:"unit"`
	Granted   int64  `json:"granted"`
	Used      int64  `json:"used"`
	Leased    int64  `json:"leased"`
	Remaining int64  `json:"remaining"`
	Lapsed    int64  `json:"lapsed"`
	Overrun   int64  `json:"overrun"`
}

// check returns which invariant of the quota (design.md, section 4) is broken.
func (q quota) check() error {
	if q.Granted != q.Remaining+q.Leased+q.Used+q.Lapsed {
		return fmt.Errorf("granted ≠ remaining + leased + used + lapsed: %+v", q)
	}
	if q.Used > q.Granted || q.Used < 0 || q.Remaining < 0 || q.Leased < 0 || q.Lapsed < 0 || q.Overrun < 0 {
		return fmt.Errorf("a figure out of its range: %+v", q)
	}
	return nil
}

// admin asks the admin API and decodes its answer into out unless that is nil.
// It returns the status.
func admin(ctx context.Context, n *tollgate.Node, token, method, path string, in, out any) (int, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, n.Demo.AdminURL+path, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode/100 != 2 {
		return resp.StatusCode, fmt.Errorf("%s %s: %s %s", method, path, resp.Status, data)
	}
	if out == nil {
		return resp.StatusCode, nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return resp.StatusCode, fmt.Errorf("%s %s: %w in %s", method, path, err, data)
	}
	return resp.StatusCode, nil
}

// readQuota returns a subscription's quota and fails the test when it breaks
// an invariant.
func readQuota(ctx context.Context, t *testing.T, n *tollgate.Node, subscription string) (quota, error) {
	t.Helper()
	var q quota
	if _, err := admin(ctx, n, n.Demo.BuyerToken, http.MethodGet, "/api/v1/subscriptions/"+subscription+"/quota", nil, &q); err != nil {
		return quota{}, err
	}
	if err := q.check(); err != nil {
		t.Error(err)
	}
	return q, nil
}

// waitUsed returns the quota once exactly want units are used and none is out
// on a running call. More than want fails at once: a unit once charged is not
// given back.
func waitUsed(t *testing.T, n *tollgate.Node, subscription string, want int64) quota {
	t.Helper()
	var last quota
	wait.Until(t, settleLimit, fmt.Sprintf("%d used units", want), func(ctx context.Context) error {
		q, err := readQuota(ctx, t, n, subscription)
		if err != nil {
			return err
		}
		last = q
		if q.Used > want {
			t.Fatalf("used %d units, want %d: %+v", q.Used, want, q)
		}
		if q.Used < want {
			return fmt.Errorf("used %d units so far: %+v", q.Used, q)
		}
		return nil
	})
	return last
}
