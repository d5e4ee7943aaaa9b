package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// bed holds what a comparison runs: the processes of both cores.
type bed struct {
	exe        string // this program
	dir        string // of everything the processes write
	portkeyDir string
	cores      cores
	shape      shape
	extraEnv   []string // of the Tollgate processes

	upstreamAddr string
	upstream     *process
	load         *process
	redisServer  *redisServer
	procs        []*process

	patience time.Duration // how long a gateway may take to be ready; 0: startLimit
	began    func()        // told when the next measurement begins, after its warm-up
}

// begin starts a process that ends with the comparison.
func (b *bed) begin(c command) (*process, error) {
	p, err := begin(c)
	if err == nil {
		b.procs = append(b.procs, p)
	}
	return p, err
}

// open starts upstream and generator.
func (b *bed) open(ctx context.Context) error {
	text, err := json.Marshal(b.shape)
	if err != nil {
		return err
	}
	if b.upstream, err = b.begin(command{path: b.exe, args: []string{"bench", "part", "upstream", "--shape", string(text)}, core: b.cores.Load, pipe: true}); err != nil {
		return err
	}
	if b.upstreamAddr, err = b.upstream.line(ctx); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(b.upstreamAddr); err != nil {
		return fmt.Errorf("the upstream says %q: %w", b.upstreamAddr, err)
	}
	b.load, err = b.begin(command{path: b.exe, args: []string{"bench", "part", "load"}, core: b.cores.Load, pipe: true, env: []string{"GOGC=400"}})
	return err
}

// close ends every process, last started first.
func (b *bed) close() {
	for i := len(b.procs) - 1; i >= 0; i-- {
		b.procs[i].end()
	}
	b.procs = nil
	client.CloseIdleConnections()
}

// clocks are the processor times of everything that takes part.
type clocks struct{ target, load, upstream, store time.Duration }

func (b *bed) clocks(t *target) (c clocks, err error) {
	read := func(into *time.Duration, list ...*process) {
		for _, p := range list {
			if p == nil || err != nil {
				continue
			}
			var d time.Duration
			d, err = cpuTime(p.pid())
			*into += d
		}
	}
	read(&c.target, t.proc)
	read(&c.load, b.load)
	read(&c.upstream, b.upstream)
	read(&c.store, t.stores...)
	return c, err
}

// measure runs one order against a target.
func (b *bed) measure(ctx context.Context, t *target, o order) (m measurement, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Warmup+o.Duration+startLimit)
	defer cancel()
	text, err := json.Marshal(o)
	if err != nil {
		return m, err
	}
	if _, err := fmt.Fprintf(b.load.in, "%s\n", text); err != nil {
		return m, fmt.Errorf("generator: %w: %s", err, b.load.log.last())
	}
	line, err := b.load.line(ctx)
	if err != nil {
		return m, err
	}
	if line != wordWarm {
		return m, fmt.Errorf("the generator says %q", line)
	}
	if _, err := t.settled(ctx, settleLimit(o.Warmup)); err != nil { // what the warm-up left is not the measurement's
		return m, err
	}
	before, err := b.clocks(t)
	if err != nil {
		return m, err
	}
	began := time.Now()
	if _, err := fmt.Fprintln(b.load.in, wordGo); err != nil {
		return m, fmt.Errorf("generator: %w", err)
	}
	if b.began != nil {
		b.began()
	}
	if line, err = b.load.line(ctx); err != nil {
		return m, err
	}
	took := time.Since(began)
	after, err := b.clocks(t)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal([]byte(line), &m.sample); err != nil {
		return m, fmt.Errorf("the generator says %q: %w", line, err)
	}
	if t.proc != nil {
		m.rss = residentMB(t.proc.pid())
	}
	if m.Requests == 0 {
		return m, fmt.Errorf("%s: not one of %d calls was answered rightly: %s", t, m.Errors, m.FirstErr)
	}
	m.busy = Busy{
		Target: (after.target - before.target).Seconds() / took.Seconds(), Load: (after.load - before.load).Seconds() / took.Seconds(),
		Upstream: (after.upstream - before.upstream).Seconds() / took.Seconds(), Store: (after.store - before.store).Seconds() / took.Seconds(),
	}
	if t.proc == nil {
		return m, nil
	}
	scrapes, err := t.settled(ctx, settleLimit(o.Duration))
	if err != nil {
		return m, err
	}
	end, err := b.clocks(t)
	if err != nil {
		return m, err
	}
	used := end.target - before.target - time.Duration(scrapes)*t.scrape
	m.cpu = float64(used.Nanoseconds()) / 1e3 / float64(m.Requests+m.Errors)
	if o.Scenario.Stream {
		m.chunk = m.cpu / float64(b.shape.flushes())
	}
	return m, nil
}

// settleLimit is how long settled waits for records on their way, which is long
// enough for what a measurement of that length leaves.
func settleLimit(d time.Duration) time.Duration { return max(time.Second, 4*d) }

// settled waits until the target has done what calls leave behind: records on
// their way from the journal to the stores, or freeing memory. That work belongs
// to what the calls cost. It returns how often the target was asked.
func (t *target) settled(ctx context.Context, limit time.Duration) (asked int, err error) {
	if t.proc == nil {
		return 0, nil
	}
	const look = 20 * time.Millisecond
	deadline := time.Now().Add(limit)
	for {
		if err := pause(ctx, look); err != nil {
			return asked, err
		}
		if t.lag == nil {
			return asked, nil
		}
		n, err := t.lag(ctx)
		if err != nil {
			return asked, err
		}
		asked++
		if n == 0 || time.Now().After(deadline) {
			return asked, nil
		}
		if err := pause(ctx, 4*look); err != nil {
			return asked, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// starter starts a program and returns it as targets, one for each kind of
// credential.
type starter struct {
	name  string
	start func(*bed, context.Context) ([]*target, error)
	// peer says that it is foreign: when it fails, the comparison goes on
	// without it and tells why.
	peer bool
}

// starters are all targets, in the order they are reported in.
var starters = []starter{
	{nameDirect, (*bed).direct, false},
	{nameFasthttp, (*bed).fasthttp, false},
	{nameNginx, (*bed).nginx, true},
	{nameHAProxy, (*bed).haproxy, true},
	{nameRedis, (*bed).redisProxy, false},
	{namePortkey, (*bed).portkey, true},
	{"tollgate-gateway", (*bed).tollgateGateway, false},
	{"tollgate-embedded", (*bed).tollgateEmbedded, false},
	{"tollgate-redis", (*bed).tollgateRedis, false},
}

// start starts the wanted targets and checks their answers. What is not
// installed is left out and told.
func (b *bed) start(ctx context.Context, wanted []starter) (list []*target, skipped []Skipped, err error) {
	for _, s := range wanted {
		targets, err := s.start(b, ctx)
		for _, t := range targets {
			if err == nil {
				err = b.checked(ctx, t)
			}
		}
		switch {
		case err == nil:
			list = append(list, targets...)
		case missing(err), s.peer && ctx.Err() == nil:
			skipped = append(skipped, Skipped{s.name, err.Error()})
		default:
			return nil, nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return list, skipped, nil
}

// checked waits until a target answers rightly: a gateway may just be taking its
// first directory.
func (b *bed) checked(ctx context.Context, t *target) error {
	if t.proc == nil {
		return t.check(ctx, b.shape)
	}
	return t.proc.ready(ctx, func(ctx context.Context) error { return t.check(ctx, b.shape) })
}

// pickStarters returns the targets of those names, all for none.
func pickStarters(names []string) ([]starter, error) {
	if len(names) == 0 {
		return starters, nil
	}
	var list []starter
	var all []string
	for _, s := range starters {
		all = append(all, s.name)
	}
	for _, n := range names {
		found := false
		for _, s := range starters {
			if s.name == n || n == nameTollgate && strings.HasPrefix(s.name, nameTollgate+"-") {
				list, found = append(list, s), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no target %q: use some of %s, or tollgate for all three", n, strings.Join(all, ", "))
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no target")
	}
	return list, nil
}
