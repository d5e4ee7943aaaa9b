package accuracy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// killLimit is how long a killed process may take to be gone.
const killLimit = 10 * time.Second

// process is a program under trial. Its methods may be called from any
// goroutine.
type process struct {
	name string
	cmd  *exec.Cmd
	out  tail
	done chan struct{} // closed once it is gone and its output was read
}

// startProcess runs a program without the TOLLGATE_ settings of whoever runs
// the trials. It dies with this process where the system can see to that.
func startProcess(path string, args, env []string) (*process, error) {
	p := &process{name: filepath.Base(path), cmd: exec.Command(path, args...), done: make(chan struct{})}
	own := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "TOLLGATE_") })
	p.cmd.Env = append(own, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = attributes()
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is read from ProcessState
	}()
	return p, nil
}

// signal sends sig; a program that is gone already is no error.
func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to %s: %w", sig, p.name, err)
	}
	return nil
}

// kill ends the program by SIGKILL and returns when it is gone. A stopped one
// dies as well.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // gone already is as good
	select {
	case <-p.done:
	case <-time.After(killLimit):
	}
}

// terminate asks the program to end and returns its exit code.
func (p *process) terminate(limit time.Duration) (int, error) {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-t.C:
		return 0, fmt.Errorf("%s still runs %s after SIGTERM: %s", p.name, limit, p.out.last())
	}
}

// ready asks probe until it returns nil. It fails early when the program ends.
func (p *process) ready(ctx context.Context, limit time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := until(ctx, limit, probe)
	if err == nil {
		return nil
	}
	select {
	case <-p.done:
		return fmt.Errorf("%s ended with code %d: %s", p.name, p.cmd.ProcessState.ExitCode(), p.out.last())
	default:
		return fmt.Errorf("%s is not ready after %s: %w: %s", p.name, limit, err, p.out.last())
	}
}

// until asks probe until it returns nil, for no longer than limit, and returns
// its last error otherwise.
func until(ctx context.Context, limit time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		if !pause(ctx, 10*time.Millisecond) {
			return err
		}
	}
}

// pause waits and reports whether ctx still runs.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tail keeps the end of what a program writes.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// tailSize bounds what is kept, in bytes.
const tailSize = 64 << 10

// Write keeps b and forgets the oldest bytes past tailSize. It never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// last returns the last few lines, on one.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}
