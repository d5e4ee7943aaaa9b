package wait

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestForAsksUntilTheAnswerIsRight(t *testing.T) {
	t.Parallel()
	asked := 0
	err := For(t.Context(), 10*time.Second, func(context.Context) error {
		asked++
		if asked < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || asked != 3 {
		t.Fatalf("For = %v after %d questions, want nil after 3", err, asked)
	}
}

func TestForReturnsTheLastErrorAtTheLimit(t *testing.T) {
	t.Parallel()
	never := errors.New("never")
	start := time.Now()
	err := For(t.Context(), 50*time.Millisecond, func(ctx context.Context) error {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("the probe's context has no deadline")
		}
		return never
	})
	if !errors.Is(err, never) {
		t.Fatalf("For = %v, want the probe's error", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Fatalf("For took %s for a limit of 50ms", took)
	}
}
