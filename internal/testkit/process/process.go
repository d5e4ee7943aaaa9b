package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/testkit/wait"
)

// killLimit is how long a killed process may take to be gone.
const killLimit = 10 * time.Second

// Spec says what to run.
type Spec struct {
	Path string   // program: a path, or a name looked up by Find
	Args []string // arguments, without the program's name
	Dir  string   // working directory; empty: the test's own
	Env  []string // KEY=value, added to the test's own environment less TOLLGATE_*

	Stdin io.Reader // nil: nothing to read

	Credential *syscall.Credential // run as another user, which only root may; nil: as the test
}

// Process is a started program. Its methods may be called from any goroutine.
type Process struct {
	name   string
	cmd    *exec.Cmd
	stdout tail
	stderr tail
	done   chan struct{} // closed once the program is gone and its output read
}

// Find returns the path of a program, which must be installed: the test fails
// with the name of the Debian package that has it otherwise. Programs outside
// PATH are looked for in the places where Debian keeps servers.
func Find(t testing.TB, name, debianPackage string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/bin", "/usr/local/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path
		}
	}
	t.Fatalf("%s is not installed: run `make setup`, or `apt-get install %s`", name, debianPackage)
	return ""
}

// Start runs the program and has it killed when the test ends. If the test
// has failed by then, the end of the program's output is logged.
func Start(t testing.TB, s Spec) *Process {
	t.Helper()
	p, err := start(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", p.name, p.Output())
		}
	})
	return p
}

// start runs the program without tying it to a test.
func start(s Spec) (*Process, error) {
	p := &Process{name: filepath.Base(s.Path), done: make(chan struct{})}
	p.cmd = exec.Command(s.Path, s.Args...)
	p.cmd.Dir = s.Dir
	p.cmd.Env = append(environment(), s.Env...)
	p.cmd.Stdin = s.Stdin
	p.cmd.Stdout = &p.stdout
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = attributes()
	p.cmd.SysProcAttr.Credential = s.Credential
	// A grandchild that keeps the pipes open must not keep Wait from returning.
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Path, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is read from ProcessState
	}()
	return p, nil
}

// environment returns the test's own environment without the settings a
// developer may have made for a Tollgate of their own.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TOLLGATE_") })
}

// PID returns the program's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed once the program is gone and its output has been read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stdout returns the end of what the program wrote to its standard output.
func (p *Process) Stdout() string { return p.stdout.String() }

// Stderr returns the end of what the program wrote to its standard error.
func (p *Process) Stderr() string { return p.stderr.String() }

// Output returns the end of both streams, one after the other.
func (p *Process) Output() string {
	return strings.TrimSpace(p.Stdout() + "\n" + p.Stderr())
}

// Signal sends sig to the program. A program that is gone already is no error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to %s: %w", sig, p.name, err)
	}
	return nil
}

// Kill ends the program with SIGKILL, as a power cut would, and returns when
// it is gone. A paused program dies as well.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // gone already is as good
	select {
	case <-p.done:
	case <-time.After(killLimit):
	}
}

// Pause stops the program where it stands (SIGSTOP): its connections stay
// open and nothing answers.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume lets a paused program go on (SIGCONT).
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// Wait returns the program's exit code once it has ended by itself, or an
// error when it has not within limit. A program ended by a signal has the exit
// code -1.
func (p *Process) Wait(limit time.Duration) (int, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-timer.C:
		return 0, fmt.Errorf("%s still runs after %s; its output so far:\n%s", p.name, limit, p.Output())
	}
}

// Stop asks the program to end with sig and returns its exit code.
func (p *Process) Stop(sig os.Signal, limit time.Duration) (int, error) {
	if err := p.Signal(sig); err != nil {
		return 0, err
	}
	return p.Wait(limit)
}

// Ready asks probe until it returns nil, and returns an error with the
// program's output when the program ends first or the limit passes.
func (p *Process) Ready(ctx context.Context, limit time.Duration, probe func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := wait.For(ctx, limit, probe)
	if err == nil {
		return nil
	}
	select {
	case <-p.done:
		return fmt.Errorf("%s ended with code %d before it was ready:\n%s", p.name, p.cmd.ProcessState.ExitCode(), p.Output())
	default:
		return fmt.Errorf("%s not ready after %s: %w\n%s", p.name, limit, err, p.Output())
	}
}

// Run runs a program to its end and returns it. The test fails when it cannot
// be started or still runs after limit; how it ended is for the caller to
// judge.
func Run(t testing.TB, limit time.Duration, s Spec) (p *Process, exit int) {
	t.Helper()
	p = Start(t, s)
	exit, err := p.Wait(limit)
	if err != nil {
		p.Kill()
		t.Fatal(err)
	}
	return p, exit
}
