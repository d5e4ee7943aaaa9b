package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell runs a line of shell as a Spec.
func shell(line string) Spec { return Spec{Path: "/bin/sh", Args: []string{"-c", line}} }

func TestRunKeepsOutputAndExitCode(t *testing.T) {
	t.Parallel()
	p, exit := Run(t, time.Minute, shell("echo out; echo err >&2; exit 3"))
	if exit != 3 || p.Stdout() != "out\n" || p.Stderr() != "err\n" {
		t.Fatalf("exit %d, stdout %q, stderr %q", exit, p.Stdout(), p.Stderr())
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	p, _ := Run(t, time.Minute, shell("head -c 1000000 /dev/zero | tr '\\0' x; echo end"))
	if got := p.Stdout(); len(got) != tailSize || !strings.HasSuffix(got, "xend\n") {
		t.Fatalf("kept %d bytes ending in %q, want the last %d", len(got), got[max(0, len(got)-10):], tailSize)
	}
}

func TestSettingsOfADeveloperDoNotReachTheProgram(t *testing.T) {
	t.Setenv("TOLLGATE_QUOTA_STORE", "redis://developer")
	s := shell("echo [$TOLLGATE_QUOTA_STORE][$TOLLGATE_SQL_STORE]")
	s.Env = []string{"TOLLGATE_SQL_STORE=embedded"}
	p, _ := Run(t, time.Minute, s)
	if got := p.Stdout(); got != "[][embedded]\n" {
		t.Fatalf("the program saw %q", got)
	}
}

func TestReadyTellsOfAnEarlyEnd(t *testing.T) {
	t.Parallel()
	p := Start(t, shell("echo the reason >&2; exit 7"))
	err := p.Ready(t.Context(), time.Minute, func(context.Context) error { return errors.New("no answer") })
	if err == nil || !strings.Contains(err.Error(), "code 7") || !strings.Contains(err.Error(), "the reason") {
		t.Fatalf("Ready = %v, want the exit code and the output", err)
	}
}

func TestReadyTellsOfTheLimit(t *testing.T) {
	t.Parallel()
	p := Start(t, shell("exec sleep 60"))
	err := p.Ready(t.Context(), 50*time.Millisecond, func(context.Context) error { return errors.New("no answer") })
	if err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Fatalf("Ready = %v, want the probe's error", err)
	}
}

func TestKillEndsAPausedProgram(t *testing.T) {
	t.Parallel()
	p := Start(t, shell("exec sleep 60"))
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if exit, err := p.Wait(time.Second); err != nil || exit != -1 {
		t.Fatalf("exit %d, %v, want -1 for a signal", exit, err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("a signal to a program that is gone: %v", err)
	}
}

func TestStopReturnsTheProgramsOwnExitCode(t *testing.T) {
	t.Parallel()
	p := Start(t, shell(`trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done`))
	err := p.Ready(t.Context(), time.Minute, func(context.Context) error {
		if p.Stdout() == "" {
			return errors.New("nothing printed")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Stop(syscall.SIGTERM, time.Minute); err != nil || exit != 5 {
		t.Fatalf("Stop = %d, %v, want 5", exit, err)
	}
}

func TestFreePortsAreFreeAndDiffer(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 50 {
		port := FreePort(t, 10_000)
		if seen[port] {
			t.Fatalf("port %d was given twice", port)
		}
		seen[port] = true
		for _, p := range []int{port, port + 10_000} {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if err != nil {
				t.Fatalf("port %d: %v", p, err)
			}
			l.Close()
		}
	}
}
