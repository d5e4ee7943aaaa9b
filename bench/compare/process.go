package compare

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that runs on one core.
type process struct {
	name string
	cmd  *exec.Cmd
	wait time.Duration // how long ready waits; 0: startLimit
	in   io.WriteCloser
	out  *bufio.Reader // its standard output, where piped
	log  tail
	done chan struct{} // closed once it is gone
}

// command describes a program to run.
type command struct {
	path string
	args []string
	env  []string
	dir  string
	core int
	pipe bool // talk to it over its standard input and output
}

// begin starts a program without the TOLLGATE_ settings of whoever runs the
// comparison. It dies with this process.
func begin(c command) (*process, error) {
	p := &process{name: filepath.Base(c.path), cmd: exec.Command(c.path, c.args...), done: make(chan struct{})}
	own := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "TOLLGATE_") || strings.HasPrefix(v, "GOMAXPROCS=")
	})
	p.cmd.Env, p.cmd.Dir = append(own, c.env...), c.dir
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = attributes()
	p.cmd.WaitDelay = time.Second
	var err error
	if c.pipe {
		var out io.ReadCloser
		if p.in, err = p.cmd.StdinPipe(); err != nil {
			return nil, err
		}
		if out, err = p.cmd.StdoutPipe(); err != nil {
			return nil, err
		}
		p.out = bufio.NewReaderSize(out, 64<<10)
	} else {
		p.cmd.Stdout = &p.log
	}
	if err := startOn(p.cmd, c.core); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.path, err)
	}
	go func() {
		defer close(p.done)
		_, _ = p.cmd.Process.Wait() // how it ended is told by its log
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// end stops the program, in order where it can.
func (p *process) end() {
	if p.in != nil {
		_ = p.in.Close() // parts end with their input
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // gone already is as good
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// line reads one line of the program's standard output. A program that hangs is
// ended when ctx is.
func (p *process) line(ctx context.Context) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	text, err := p.out.ReadString('\n')
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("%s: %w: %s", p.name, err, p.log.last())
	}
	return strings.TrimSuffix(text, "\n"), nil
}

// startLimit is how long a program may take until it answers.
const startLimit = 30 * time.Second

// ready asks probe until it returns nil.
func (p *process) ready(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(p.wait, startLimit))
	defer cancel()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s has ended: %s", p.name, p.log.last())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w: %s", p.name, err, p.log.last())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// errNotInstalled is why a target is left out.
var errNotInstalled = errors.New("not installed")

// find returns the path of a program, also where only root's PATH has it.
func find(name, remedy string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is %w: %s", name, errNotInstalled, remedy)
}

// tail keeps the end of what a program writes.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// tailSize bounds what is kept, in bytes.
const tailSize = 16 << 10

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

// last returns the last few lines, on one.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], " | ")
}
