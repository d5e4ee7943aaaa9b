package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tollgate/internal/testkit/wait"
)

func TestShiftedClock(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "clock")
	c, err := NewShiftedClock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []time.Duration{0, 36 * time.Hour, -90 * time.Second, 0} {
		if err := os.WriteFile(file, []byte(want.String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		wait.Until(t, 10*time.Second, "the clock to be moved", func(context.Context) error {
			if off := time.Until(c.Now()) - want; off < -time.Minute || off > time.Minute {
				return fmt.Errorf("it is off by %v", off)
			}
			return nil
		})
	}
	if err := os.WriteFile(file, []byte("tomorrow"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewShiftedClock(t.Context(), file); err == nil {
		t.Error("a shift that is no duration was taken")
	}
}
