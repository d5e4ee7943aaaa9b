package tollgate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/testkit/process"
)

const (
	// startLimit is how long a node may take to be ready; with a binary built
	// for the race detector on a loaded machine it is far from instant.
	startLimit = 60 * time.Second
	// stopLimit is how long a drained node may take to end.
	stopLimit = 60 * time.Second
	// startTries bounds the search for ports nobody took meanwhile.
	startTries = 5
	// loopback lets the program pick its port.
	loopback = "127.0.0.1:0"
)

// Options say how a node runs. The zero value is `serve --demo` with embedded
// stores in a fresh data folder.
type Options struct {
	Dir   string // data folder; empty: a fresh one
	Role  string // empty: all
	Units int64  // size of each demo package; 0: the program's default

	// Stores, as in the environment; empty: embedded.
	QuotaStore string
	SQLStore   string
	UsageStore string

	Upstream string // --demo-upstream

	// FeedSecret is what admin and gateways share (TOLLGATE_FEED_SECRET).
	FeedSecret string
	// AdminURL is where a node with Role gateway takes its directory.
	AdminURL string
	// Name is the node's name; empty: kept in its data folder.
	Name string

	Args []string // further arguments of serve
	Env  []string // further KEY=value
}

// Node is a running program. Its methods must be called from the test's own
// goroutine, but Kill, which may be called from any.
type Node struct {
	t    testing.TB
	opts Options
	dir  string
	proc *process.Process

	// Demo is the node's demo.json. For a node with Role gateway only
	// GatewayURL and AdminURL are set.
	Demo Demo
}

// Start runs a node until the test ends and returns when it is ready. The test
// fails if the node ever reported a panic or a data race.
func Start(t testing.TB, o Options) *Node {
	t.Helper()
	n := &Node{t: t, opts: o, dir: o.Dir}
	if n.dir == "" {
		n.dir = t.TempDir()
	}
	if err := n.run(); err != nil {
		t.Fatal(err)
	}
	return n
}

// run starts the process and returns when it is ready.
func (n *Node) run() error {
	if n.opts.Role != "gateway" {
		return n.runDemo()
	}
	// A gateway alone writes no demo.json, so its ports must be known before.
	var err error
	for range startTries {
		gateway := "127.0.0.1:" + strconv.Itoa(process.FreePort(n.t))
		admin := "127.0.0.1:" + strconv.Itoa(process.FreePort(n.t))
		n.start(gateway, admin, "--role", "gateway", "--admin-url", n.opts.AdminURL)
		n.Demo = Demo{GatewayURL: "http://" + gateway, AdminURL: "http://" + admin}
		if err = n.proc.Ready(n.t.Context(), startLimit, n.ready); err == nil {
			return nil
		}
		if !strings.Contains(err.Error(), "in use") {
			return err
		}
	}
	return err
}

// runDemo starts a node that writes demo.json and waits for the new one.
func (n *Node) runDemo() error {
	before := modified(demoFile(n.dir))
	args := []string{"--demo"}
	if n.opts.Role != "" {
		args = append(args, "--role", n.opts.Role)
	}
	if n.opts.Units != 0 {
		args = append(args, "--demo-units", strconv.FormatInt(n.opts.Units, 10))
	}
	if n.opts.Upstream != "" {
		args = append(args, "--demo-upstream", n.opts.Upstream)
	}
	n.start(loopback, loopback, args...)
	return n.proc.Ready(n.t.Context(), startLimit, func(ctx context.Context) error {
		if modified(demoFile(n.dir)).Equal(before) {
			return errors.New("demo.json is not written yet")
		}
		var err error
		if n.Demo, err = readDemo(demoFile(n.dir)); err != nil {
			return err
		}
		return n.ready(ctx)
	})
}

// start runs `serve` with what every role takes.
func (n *Node) start(gateway, admin string, args ...string) {
	args = append([]string{"serve", "--data", n.dir, "--gateway-listen", gateway, "--admin-listen", admin}, args...)
	if n.opts.Name != "" {
		args = append(args, "--node", n.opts.Name)
	}
	env := slices.Clone(n.opts.Env)
	for name, value := range map[string]string{
		"TOLLGATE_QUOTA_STORE": n.opts.QuotaStore,
		"TOLLGATE_SQL_STORE":   n.opts.SQLStore,
		"TOLLGATE_USAGE_STORE": n.opts.UsageStore,
		"TOLLGATE_FEED_SECRET": n.opts.FeedSecret,
	} {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	proc := process.Start(n.t, process.Spec{Path: Binary(n.t), Args: append(args, n.opts.Args...), Dir: n.t.TempDir(), Env: env})
	n.proc = proc
	n.t.Cleanup(func() {
		for _, bad := range []string{"panic: ", "fatal error: ", "WARNING: DATA RACE"} {
			if strings.Contains(proc.Stderr(), bad) {
				n.t.Errorf("the node reported %q", strings.TrimSpace(bad))
			}
		}
	})
}

// ready asks both ports whether the node serves.
func (n *Node) ready(ctx context.Context) error {
	for _, base := range []string{n.Demo.GatewayURL, n.Demo.AdminURL} {
		if base == "" { // an admin role has no gateway
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		body, _ := io.ReadAll(resp.Body) // only for the message
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s/readyz: %s %s", base, resp.Status, body)
		}
	}
	return nil
}

// modified returns when a file was last written; the zero time if it was not.
func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Dir returns the node's data folder.
func (n *Node) Dir() string { return n.dir }

// Process returns the running process.
func (n *Node) Process() *process.Process { return n.proc }

// Kill ends the node with SIGKILL and returns when it is gone.
func (n *Node) Kill() { n.proc.Kill() }

// Terminate drains the node (SIGTERM) and returns its exit code.
func (n *Node) Terminate() int {
	n.t.Helper()
	return n.stop(syscall.SIGTERM)
}

// Interrupt ends the node as Ctrl-C does (SIGINT) and returns its exit code.
func (n *Node) Interrupt() int {
	n.t.Helper()
	return n.stop(syscall.SIGINT)
}

func (n *Node) stop(sig os.Signal) int {
	n.t.Helper()
	exit, err := n.proc.Stop(sig, stopLimit)
	if err != nil {
		n.t.Fatal(err)
	}
	return exit
}

// Restart starts an ended node again on the same data. Its ports, and so
// everything in Demo that names one, are other ones afterwards.
func (n *Node) Restart() {
	n.t.Helper()
	n.proc.Kill()
	if err := n.run(); err != nil {
		n.t.Fatal(err)
	}
}
