package accuracy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"tollgate/bench"
	"tollgate/internal/usage"
)

// plan says what a trial runs.
type plan struct {
	units    int64         // size of each demo package
	gateways int           // gateways in processes of their own; 0: one process of role all
	redis    bool          // one Redis; otherwise the embedded store
	store    string        // another address of the quota store
	lease    time.Duration // TOLLGATE_QUOTA_LEASE_TTL; 0: the default
	env      []string      // further settings of every process
	tokens   bool          // calls go to the product sold by tokens
	// prepare, when set, is called with each gateway before it starts.
	prepare func(w *world, n *node) error
}

// world is what a trial runs, and its witnesses.
type world struct {
	dir      string
	plan     plan
	oracle   *oracle
	mock     *bench.Upstream
	told     answered // the mock's word on realtime sessions
	mockURL  string
	redis    *redisServer
	admin    *node   // has the admin API
	gateways []*node // serve calls; admin itself in role all
	demo     bench.Demo
	api      control
	cut      bool // journals may have lost their beginning before they were read
	quick    bool // wait less for what may never come

	mu      sync.Mutex
	faults  []string // what went wrong beside the books
	closers []func()
}

// feedSecret ties the gateways of a trial to its admin role.
const feedSecret = "accuracy-trial-feed-secret-of-no-use-elsewhere"

// newWorld starts everything p asks for.
func newWorld(ctx context.Context, b *bed, p plan) (_ *world, err error) {
	dir, err := os.MkdirTemp(b.dir, "trial-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, plan: p, oracle: newOracle(), quick: b.quick}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	w.mock = bench.NewUpstream(bench.UpstreamConfig{OnAnswer: w.oracle.answer, OnUsage: w.oracle.used, OnRealtime: w.told.realtime})
	w.onClose(func() { _ = w.mock.Close() }) // a client that hangs costs time, nothing else
	if w.mockURL, err = w.mock.Start("127.0.0.1:0"); err != nil {
		return nil, err
	}
	if p.redis {
		if w.redis, err = startRedis(ctx, filepath.Join(dir, "redis"), nil); err != nil {
			return nil, err
		}
		w.onClose(func() { w.redis.proc.kill() })
		w.plan.store = w.redis.url()
	}
	if err := w.startAdmin(ctx, b); err != nil {
		return nil, err
	}
	for i := range p.gateways {
		n, err := w.gateway(b, "node-"+strconv.Itoa(i+1))
		if err != nil {
			return nil, err
		}
		if p.prepare != nil {
			if err := p.prepare(w, n); err != nil {
				return nil, err
			}
		}
		if err := n.launch(); err != nil {
			return nil, err
		}
	}
	for _, n := range w.gateways {
		if err := n.await(ctx); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) startAdmin(ctx context.Context, b *bed) (err error) {
	role := "all"
	if w.plan.gateways > 0 {
		role = "admin"
	}
	if w.admin, err = newNode(b.exe, w.dir, "admin", role); err != nil {
		return err
	}
	n := w.admin
	n.args = append(n.args, "--demo", "--demo-upstream", w.mockURL, "--demo-units", strconv.FormatInt(w.plan.units, 10))
	w.settings(n)
	w.onClose(func() { n.end() })
	if err := n.start(ctx); err != nil {
		return err
	}
	// It is written once the ports are open.
	err = n.proc.ready(ctx, startLimit, func(context.Context) (err error) {
		w.demo, err = bench.ReadDemo(filepath.Join(n.dir, "demo.json"))
		return err
	})
	if err != nil {
		return err
	}
	w.api = control{addr: n.admin, token: w.demo.OperatorToken}
	if role == "all" {
		w.gateways = []*node{n}
	}
	return nil
}

// settings adds what every process of the trial is told.
func (w *world) settings(n *node) {
	n.with("TOLLGATE_FEED_SECRET=" + feedSecret)
	if w.plan.store != "" {
		n.with("TOLLGATE_QUOTA_STORE=" + w.plan.store)
	}
	if w.plan.lease > 0 {
		n.with("TOLLGATE_QUOTA_LEASE_TTL=" + w.plan.lease.String())
	}
	n.with(w.plan.env...)
}

// gateway describes one more gateway.
func (w *world) gateway(b *bed, name string) (*node, error) {
	n, err := newNode(b.exe, w.dir, name, "gateway")
	if err != nil {
		return nil, err
	}
	n.args = append(n.args, "--admin-url", "http://"+w.admin.admin)
	w.settings(n)
	w.gateways = append(w.gateways, n)
	w.onClose(func() { n.end() })
	return n, nil
}

// end kills the node's process if there is one.
func (n *node) end() {
	if n.proc != nil {
		n.proc.kill()
	}
}

func (w *world) onClose(f func()) { w.closers = append(w.closers, f) }

// close ends every process and removes the trial's files.
func (w *world) close() {
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
	w.closers = nil
	adminClient.CloseIdleConnections()
	_ = os.RemoveAll(w.dir) // a mount that stays costs an empty folder
}

// fault notes what went wrong beside the books. It may be called from any
// goroutine.
func (w *world) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) < 20 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// product is the product the trial's calls go to.
func (w *world) product() bench.DemoLLM {
	if w.plan.tokens {
		return w.demo.LLMTokens
	}
	return w.demo.LLM
}

// unit tells in what a subscription is charged.
func (w *world) unit(subscription string) usage.Unit {
	if subscription == w.demo.LLMTokens.SubscriptionID {
		return usage.Token
	}
	return usage.Call
}

// hosts are the addresses of the gateways.
func (w *world) hosts() []string {
	var list []string
	for _, n := range w.gateways {
		list = append(list, n.gateway)
	}
	return list
}

const question = `"messages":[{"role":"user","content":"What is counted once?"}]`

// chat is a plain call of the trial's product, to all gateways in turn.
func (w *world) chat(headers ...string) bench.Scenario {
	return w.call("chat", question, headers...)
}

// stream is a streamed call of the trial's product.
func (w *world) stream(headers ...string) bench.Scenario {
	s := w.call("stream", question+`,"stream":true`, headers...)
	s.Stream = true
	return s
}

// call is a call of the trial's product.
func (w *world) call(name, body string, headers ...string) bench.Scenario {
	p, hosts := w.product(), w.hosts()
	path := p.BaseURL
	if _, rest, ok := strings.Cut(path, "://"); ok { // in role all it names the gateway
		path = rest[strings.IndexByte(rest, '/'):]
	}
	return bench.Scenario{
		Name: name, URL: "http://" + hosts[0] + path + "/chat/completions", Hosts: hosts, Headers: headers,
		Body: fmt.Sprintf(`{"model":%q,%s}`, p.Model, body),
		Auth: bench.Auth{Kind: bench.AuthAPIKey, Key: p.APIKey}, Subscription: p.SubscriptionID, Units: 1,
	}
}

// traffic is a load under way.
type traffic struct {
	stop chan struct{}
	once sync.Once
	done chan struct{}
	res  bench.LoadResult
	err  error
}

// load runs calls to their end.
func (w *world) load(ctx context.Context, in bench.LoadInput) (bench.LoadResult, error) {
	t := w.begin(ctx, in)
	<-t.done
	return t.res, t.err
}

// begin starts calls in the background; end them with the traffic's end.
func (w *world) begin(ctx context.Context, in bench.LoadInput) *traffic {
	t := &traffic{stop: make(chan struct{}), done: make(chan struct{})}
	in.Stop = t.stop
	if in.Timeout == 0 {
		in.Timeout = 20 * time.Second
	}
	type target struct {
		subscription string
		stream       bool
	}
	targets := map[string]target{}
	for _, s := range in.Scenarios {
		targets[s.Name] = target{s.Subscription, s.Stream}
	}
	in.OnReply = func(r bench.Reply) {
		to := targets[r.Scenario]
		w.oracle.reply(r, to.subscription, to.stream)
	}
	go func() {
		defer close(t.done)
		t.res, t.err = bench.Load(ctx, in)
	}()
	return t
}

// end lets the calls under way finish and returns the whole.
func (t *traffic) end() (bench.LoadResult, error) {
	t.once.Do(func() { close(t.stop) })
	<-t.done
	return t.res, t.err
}

// kill ends a gateway by SIGKILL and reads what its journal holds.
func (w *world) kill(n *node) error {
	n.proc.kill()
	return n.readJournal(w.oracle, w.unit)
}

// terminate drains a gateway; it must end with exit code 0.
func (w *world) terminate(n *node) error {
	code, err := n.proc.terminate(stopLimit)
	if err != nil {
		return err
	}
	if code != 0 {
		w.fault("node %s ended with code %d after SIGTERM: %s", n.name, code, n.proc.out.last())
	}
	return n.readJournal(w.oracle, w.unit)
}

// freeze stops a process where it stands, thaw lets it go on.
func freeze(p *process) error { return p.signal(syscall.SIGSTOP) }

func thaw(p *process) error { return p.signal(syscall.SIGCONT) }

// reading keeps reading the gateways' journals until the returned function is
// called: small segments are gone soon after the usage store has them.
func (w *world) reading(ctx context.Context, every time.Duration) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		var failed error
		for pause(ctx, every) {
			for _, n := range w.gateways {
				if err := n.readJournal(w.oracle, w.unit); err != nil {
					failed = errors.Join(failed, err)
					cancel()
				}
			}
		}
		done <- failed
	}()
	return func() error {
		cancel()
		return <-done
	}
}
