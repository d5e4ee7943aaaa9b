package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"tollgate/internal/testkit/wait"
)

func waitFor(t *testing.T, what string, probe func() error) {
	t.Helper()
	wait.Until(t, 30*time.Second, what, func(context.Context) error { return probe() })
}

// callUntilAccepted sends a call until the gateway knows its key, which takes a
// moment after it was made, and returns the request id.
func callUntilAccepted(t *testing.T, r *http.Request) string {
	t.Helper()
	var id string
	waitFor(t, "the gateway to know the key", func() error {
		try := r.Clone(t.Context())
		body, err := r.GetBody()
		if err != nil {
			return err
		}
		try.Body = body
		res, err := http.DefaultClient.Do(try)
		if err != nil {
			return err
		}
		res.Body.Close()
		id = res.Header.Get("X-Request-Id")
		if res.StatusCode != 200 {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	})
	return id
}
