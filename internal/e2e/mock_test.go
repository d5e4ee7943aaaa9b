package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"tollgate/internal/testkit/tollgate"
)

// mockStats is the part of the mock upstream's counters that tests judge.
type mockStats struct {
	Total2xx int64                       `json:"total_2xx"`
	Paths    map[string]map[string]int64 `json:"paths"`
	Usage    struct {
		TotalTokens int64 `json:"total_tokens"`
	} `json:"usage"`
}

// readMock returns what the node's mock upstream answered so far.
func readMock(t *testing.T, n *tollgate.Node) mockStats {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.Demo.MockUpstreamURL+"/mock/stats", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("mock stats: %s %v", resp.Status, err)
	}
	var s mockStats
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatalf("mock stats: %v in %s", err, data)
	}
	return s
}
