package node

import (
	"testing"

	"tollgate/bench"
)

// TestScriptsRunHere proves that the installed Node.js and the pinned packages
// go together, without a gateway in between.
func TestScriptsRunHere(t *testing.T) {
	t.Parallel()
	mock := bench.NewUpstream(bench.UpstreamConfig{Models: []string{"demo-chat"}})
	url, err := mock.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mock.Close(); err != nil {
			t.Error(err)
		}
	})
	product := map[string]any{"base_url": url + "/v1", "api_key": "sk-any", "model": "demo-chat"}
	input := map[string]any{"exhausted": product, "dry": map[string]any{"dry_stream": product, "dry_responses": product}}
	for k, v := range product {
		input[k] = v
	}
	var got map[string]any
	Run(t, "openai.mjs", input, &got)
	t.Logf("%v", got)
	if models, ok := got["models"].([]any); !ok || len(models) != 1 || models[0] != "demo-chat" {
		t.Fatalf("the script printed %v", got)
	}

	var signed map[string]struct {
		Status int `json:"status"`
	}
	Run(t, "huawei.mjs", map[string]any{"url": url + "/demo/weather", "app_key": "key", "app_secret": "secret"}, &signed)
	for name, answer := range signed {
		if answer.Status != 200 {
			t.Errorf("%s: status %d from a mock that answers everything", name, answer.Status)
		}
	}
}

func TestMajorVersion(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]int{"v20.20.2\n": 20, "v18.0.0": 18, "v9": 9} {
		if got, err := majorVersion(version); err != nil || got != want {
			t.Errorf("majorVersion(%q) = %d, %v, want %d", version, got, err, want)
		}
	}
	if _, err := majorVersion("nightly"); err == nil {
		t.Error("a version that is none was read")
	}
}
