package accuracy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
)

// stopLimit is how long a drained node may take to end.
const stopLimit = 45 * time.Second

// node is one process of the program: of role all, admin or gateway.
type node struct {
	name    string
	role    string
	exe     string
	dir     string // its data folder
	gateway string // host:port of the gateway, empty for role admin
	admin   string // host:port of admin API, metrics and health
	args    []string
	env     []string
	wrap    []string // what runs the program; empty: it is run as it is
	hidden  bool     // its data folder is mounted where only it sees it
	proc    *process
}

// newNode describes a node with addresses that stay over its restarts.
func newNode(exe, dir, name, role string) (*node, error) {
	n := &node{name: name, role: role, exe: exe, dir: filepath.Join(dir, name)}
	var err error
	if n.admin, err = freeAddr(); err != nil {
		return nil, err
	}
	n.args = []string{"serve", "--role", role, "--data", n.dir, "--admin-listen", n.admin}
	if role != "admin" {
		if n.gateway, err = freeAddr(); err != nil {
			return nil, err
		}
		n.args = append(n.args, "--gateway-listen", n.gateway, "--node", name)
	}
	n.env = []string{"TOLLGATE_LOG_LEVEL=warn"}
	if role != "admin" {
		n.env = append(n.env, "TOLLGATE_GATEWAY_TLS_LISTEN=off")
	}
	return n, nil
}

// launch starts the process and does not wait for it.
func (n *node) launch() (err error) {
	line := slices.Concat(n.wrap, []string{n.exe}, n.args)
	n.proc, err = startProcess(line[0], line[1:], n.env)
	return err
}

// data is the node's data folder as this process sees it.
func (n *node) data() string {
	if n.hidden && n.proc != nil {
		return filepath.Join("/proc", strconv.Itoa(n.proc.cmd.Process.Pid), "root", n.dir)
	}
	return n.dir
}

// start starts the process and waits until it serves.
func (n *node) start(ctx context.Context) error {
	if err := n.launch(); err != nil {
		return err
	}
	return n.await(ctx)
}

// await waits until both ports say that they are ready.
func (n *node) await(ctx context.Context) error {
	err := n.proc.ready(ctx, startLimit, func(ctx context.Context) error {
		for _, addr := range []string{n.admin, n.gateway} {
			if addr == "" {
				continue
			}
			if err := probe(ctx, "http://"+addr+"/readyz"); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("node %s: %w", n.name, err)
	}
	return nil
}

// quick calls without keeping connections: what it calls is killed now and then.
var quick = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func probe(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := quick.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s", url, resp.Status, text)
	}
	return nil
}

// faults returns what the program's own output says went wrong that never may.
func (n *node) faults() []string {
	var out []string
	if n.proc == nil {
		return nil
	}
	text := n.proc.out.String()
	for _, bad := range []string{"panic: ", "fatal error: ", "DATA RACE", "the journal is damaged", "panic in a relay", "panic while"} {
		if i := strings.Index(text, bad); i >= 0 {
			line, _, _ := strings.Cut(text[i:], "\n")
			out = append(out, fmt.Sprintf("node %s: %.200s", n.name, line))
		}
	}
	return out
}

// readJournal hears what the node's journal holds. The node may be running,
// stopped or dead.
func (n *node) readJournal(o *oracle, unit func(subscription string) usage.Unit) error {
	if n.role == "admin" {
		return nil
	}
	var rec usage.Record
	_, err := journal.Inspect(filepath.Join(n.data(), "journal"), func(r journal.Record) error {
		if r.Kind != journal.KindUsage {
			return nil
		}
		if err := usage.DecodeRecord(r.Payload, &rec); err != nil {
			return err
		}
		o.record(&rec, unit(rec.Subscription))
		return nil
	})
	if errors.Is(err, journal.ErrNotJournal) {
		return nil // killed before it had made one
	}
	if err != nil {
		return fmt.Errorf("journal of node %s: %w", n.name, err)
	}
	return nil
}

// metric reads one figure of the node's /metrics: the sum over its labels.
func (n *node) metric(ctx context.Context, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := quick.Do(req)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[0] != name && !strings.HasPrefix(fields[0], name+"{") {
			continue
		}
		v, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("node %s has no metric %s", n.name, name)
	}
	return sum, nil
}

// with adds settings of the environment; the last of a name is in force.
func (n *node) with(env ...string) { n.env = append(slices.Clip(n.env), env...) }
