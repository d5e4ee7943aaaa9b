package accuracy

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func shell(t *testing.T, line string, env ...string) *process {
	t.Helper()
	p, err := startProcess("/bin/sh", []string{"-c", line}, env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// TestProcessesEndAsTold holds starting, stopping and killing.
func TestProcessesEndAsTold(t *testing.T) {
	t.Setenv("TOLLGATE_QUOTA_STORE", "redis://developer")
	p := shell(t, `trap 'exit 5' TERM; echo "[$TOLLGATE_QUOTA_STORE][$MORE]"; while :; do sleep 0.05; done`, "MORE=more")
	err := p.ready(t.Context(), time.Minute, func(context.Context) error {
		if !strings.Contains(p.out.String(), "[][more]") {
			return errors.New("nothing printed")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.terminate(time.Minute); code != 5 || err != nil {
		t.Errorf("terminate: %d, %v, want 5", code, err)
	}
	if err := freeze(p); err != nil {
		t.Errorf("a signal to a process that is gone: %v", err)
	}

	stopped := shell(t, "exec sleep 600")
	if err := freeze(stopped); err != nil {
		t.Fatal(err)
	}
	stopped.kill()
	select {
	case <-stopped.done:
	default:
		t.Error("a killed process is not gone")
	}
}

// TestReadyTellsWhyNot holds the two ways a program may not come up.
func TestReadyTellsWhyNot(t *testing.T) {
	t.Parallel()
	never := func(context.Context) error { return errors.New("no answer") }
	if err := shell(t, "echo the reason; exit 7").ready(t.Context(), time.Minute, never); err == nil || !strings.Contains(err.Error(), "code 7") || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("%v, want the code and the output", err)
	}
	if err := shell(t, "exec sleep 600").ready(t.Context(), 30*time.Millisecond, never); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v, want the probe's error", err)
	}
}

// TestTailKeepsTheEnd holds that output is bounded.
func TestTailKeepsTheEnd(t *testing.T) {
	t.Parallel()
	var x tail
	for range 100 {
		if _, err := x.Write([]byte(strings.Repeat("x", 4000))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Write([]byte("the end\n")); err != nil {
		t.Fatal(err)
	}
	if got := x.String(); len(got) != tailSize || !strings.HasSuffix(got, "xthe end\n") {
		t.Errorf("%d bytes kept", len(got))
	}
}
