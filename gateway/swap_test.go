package gateway_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// TestSwapUnderLoad swaps the directory again and again while calls run: none is
// refused, and a key's limits are counted on from one directory to the next.
func TestSwapUnderLoad(t *testing.T) {
	t.Parallel()
	var snap *directory.Snapshot
	f := start(t, func(c *gateway.Config, s *directory.Snapshot) {
		c.Limits.MaxCalls = 1000
		s.APIKeys[1].Policy = policy(directory.Limits{RequestsPerMinute: 60})
		snap = s
	})
	other := func() int {
		return f.do("POST", "/v1/infers/"+tokenInfer+"/v1/chat/completions", greeting, "Authorization", "Bearer "+tokenKey, "Content-Type", "application/json").StatusCode
	}
	for range 60 {
		if got := other(); got != 200 {
			t.Fatal(got)
		}
	}
	var wg sync.WaitGroup
	var calls atomic.Int64
	for range 4 {
		wg.Go(func() {
			for calls.Add(1) < 800 {
				if r := f.chat(greeting); r.StatusCode != 200 {
					t.Errorf("%d %s", r.StatusCode, r.body)
					return
				}
			}
		})
	}
	swaps := 0
	for ; calls.Load() < 800 && !t.Failed(); swaps++ {
		next := *snap
		next.Version += int64(swaps) + 1
		if err := f.gateway.Swap(&next); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if swaps < 10 {
		t.Errorf("only %d swaps", swaps)
	}
	refused := 0
	for range 10 { // what came back meanwhile is one a second
		if other() == 429 {
			refused++
		}
	}
	if refused == 0 {
		t.Error("a swap filled the bucket again")
	}
}
