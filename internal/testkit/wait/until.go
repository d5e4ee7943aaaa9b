package wait

import (
	"context"
	"testing"
	"time"
)

// interval is the pause between two questions: short enough to add nothing to
// a test's time, long enough to leave the processor to who is waited for.
const interval = 10 * time.Millisecond

// Until asks probe until it returns nil and fails the test with probe's last
// error when that has not happened within limit. The context given to probe
// ends with the limit. It must be called from the test's own goroutine.
func Until(t testing.TB, limit time.Duration, what string, probe func(ctx context.Context) error) {
	t.Helper()
	if err := For(t.Context(), limit, probe); err != nil {
		t.Fatalf("waited %s for %s: %v", limit, what, err)
	}
}

// For asks probe until it returns nil, within limit, and returns probe's last
// error otherwise. Unlike Until it may be called from any goroutine and in
// cleanup functions, where the test's own context is already over.
func For(ctx context.Context, limit time.Duration, probe func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
