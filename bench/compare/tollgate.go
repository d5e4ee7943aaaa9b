package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tollgate/bench"
)

// feedSecret ties a gateway of the comparison to its admin role.
const feedSecret = "compare-feed-secret-of-no-use-elsewhere"

// units is the size of the demo packages: more than any comparison calls.
const units = 1_000_000_000

// world is a Tollgate: one process of role all, or one of role gateway with its
// admin role in another process on the other core.
type world struct {
	proc  *process // what is measured
	addr  string   // of the gateway
	admin string   // of its own admin port: metrics
	api   string   // of the admin API
	demo  bench.Demo
}

// tollgateEmbedded is one process with embedded stores only.
func (b *bed) tollgateEmbedded(ctx context.Context) ([]*target, error) {
	w, err := b.roleAll(ctx, "embedded", "")
	if err != nil {
		return nil, err
	}
	return w.targets(ctx, "embedded", "all")
}

// tollgateRedis is one process whose quota lies in Redis.
func (b *bed) tollgateRedis(ctx context.Context) ([]*target, error) {
	redis, err := b.redis(ctx)
	if err != nil {
		return nil, err
	}
	w, err := b.roleAll(ctx, "redis", "redis://"+redis.addr+"/1")
	if err != nil {
		return nil, err
	}
	return withStore(redis.proc)(w.targets(ctx, "redis", "all"))
}

// tollgateGateway is a process of role gateway on Redis: what stands in the way
// of calls where Tollgate runs on more than one machine.
func (b *bed) tollgateGateway(ctx context.Context) ([]*target, error) {
	redis, err := b.redis(ctx)
	if err != nil {
		return nil, err
	}
	admin, err := b.roleAdmin(ctx, "admin", "redis://"+redis.addr+"/2")
	if err != nil {
		return nil, err
	}
	w, err := b.roleGateway(ctx, "gateway", admin, "redis://"+redis.addr+"/2", "http://"+admin.api)
	if err != nil {
		return nil, err
	}
	return withStore(redis.proc, admin.proc)(w.targets(ctx, "redis", "gateway"))
}

func withStore(stores ...*process) func([]*target, error) ([]*target, error) {
	return func(list []*target, err error) ([]*target, error) {
		for _, t := range list {
			t.stores = stores
		}
		return list, err
	}
}

// settings are those of every Tollgate here. All that is on by default stays
// on; AppCodes are let in over http because no target speaks https.
func settings(store string) []string {
	env := []string{
		"TOLLGATE_LOG_LEVEL=warn", "TOLLGATE_GATEWAY_TLS_LISTEN=off", "TOLLGATE_GATEWAY_PLAIN_APP_CODE=true",
		"TOLLGATE_FEED_SECRET=" + feedSecret,
	}
	if store != "" {
		env = append(env, "TOLLGATE_QUOTA_STORE="+store)
	}
	return env
}

func (b *bed) roleAll(ctx context.Context, name, store string) (*world, error) {
	return b.marketplace(ctx, "all", name, store, b.cores.Target)
}

func (b *bed) roleAdmin(ctx context.Context, name, store string) (*world, error) {
	return b.marketplace(ctx, "admin", name, store, b.cores.Load)
}

// marketplace starts a process with the demo marketplace in it.
func (b *bed) marketplace(ctx context.Context, role, name, store string, core int) (*world, error) {
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(b.dir, "tollgate-"+name)
	w := &world{addr: addrs[0], admin: addrs[1], api: addrs[1]}
	args := []string{
		"serve", "--role", role, "--data", data, "--admin-listen", w.admin,
		"--demo", "--demo-upstream", "http://" + b.upstreamAddr, "--demo-units", strconv.Itoa(units),
	}
	if role == "all" {
		args = append(args, "--gateway-listen", w.addr)
	}
	if w.proc, err = b.begin(command{path: b.exe, args: args, env: append(settings(store), b.extraEnv...), core: core}); err != nil {
		return nil, err
	}
	err = w.proc.ready(ctx, func(context.Context) (err error) { // it is written once the ports are open
		w.demo, err = bench.ReadDemo(filepath.Join(data, "demo.json"))
		return err
	})
	return w, err
}

// roleGateway starts a gateway that takes its directory from feed.
func (b *bed) roleGateway(ctx context.Context, name string, admin *world, store, feed string) (*world, error) {
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	w := &world{addr: addrs[0], admin: addrs[1], api: admin.api, demo: admin.demo}
	args := []string{
		"serve", "--role", "gateway", "--data", filepath.Join(b.dir, "tollgate-"+name), "--node", name,
		"--gateway-listen", w.addr, "--admin-listen", w.admin, "--admin-url", feed,
	}
	if w.proc, err = b.begin(command{path: b.exe, args: args, env: append(settings(store), b.extraEnv...), core: b.cores.Target}); err != nil {
		return nil, err
	}
	w.proc.wait = b.patience
	return w, w.proc.ready(ctx, func(ctx context.Context) error {
		_, err := fetch(ctx, "http://"+w.admin+"/readyz", "")
		return err
	})
}

// targets are the process with each kind of credential. A call by AppCode or
// signature goes to the API product, by API key to the LLM product; both send
// the same request on and get the same answer.
func (w *world) targets(ctx context.Context, store, role string) ([]*target, error) {
	var list []*target
	for _, auth := range []bench.Auth{
		{Kind: bench.AuthAPIKey, Key: w.demo.LLM.APIKey},
		{Kind: bench.AuthAppCode, Key: w.demo.API.AppCode},
		{Kind: bench.AuthSignature, Key: w.demo.API.AppKey, Secret: w.demo.API.AppSecret},
	} {
		base := w.demo.API.URL
		t := &target{
			name: nameTollgate, auth: string(auth.Kind), store: store, role: role, proc: w.proc,
			exact: true, charge: "call=1", lag: w.lag,
		}
		if auth.Kind == bench.AuthAPIKey {
			base = strings.TrimSuffix(w.demo.LLM.BaseURL, "/v1")
		} else {
			t.only = map[string]bool{scenarioClosed: true}
		}
		address := "http://" + w.addr + pathOf(base) + chatPath
		t.call = func(stream bool) bench.Scenario {
			return bench.Scenario{
				Name: "call", URL: address, Headers: clientHeaders, Body: question(w.demo.LLM.Model, stream), Stream: stream, Auth: auth,
			}
		}
		list = append(list, t)
	}
	cost, err := w.scrapeCost(ctx)
	for _, t := range list {
		t.scrape = cost
	}
	return list, err
}

// pathOf is the path of an address, which the admin role writes without a host.
func pathOf(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.Path
	}
	return address
}

// lag is how many journal records are not yet in quota store and usage store.
func (w *world) lag(ctx context.Context) (int64, error) {
	text, err := fetch(ctx, "http://"+w.admin+"/metrics", "")
	if err != nil {
		return 0, err
	}
	var sum float64
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "tollgate_journal_lag_records{") {
			fields := strings.Fields(line)
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				return 0, fmt.Errorf("metrics: %q: %w", line, err)
			}
			sum += n
		}
	}
	return int64(sum), nil
}

// scrapeCost is the processor time one look at the metrics takes, so that it
// can be left out of what the calls cost.
func (w *world) scrapeCost(ctx context.Context) (time.Duration, error) {
	if _, err := w.lag(ctx); err != nil {
		return 0, err
	}
	const n = 5
	before, err := cpuTime(w.proc.pid())
	if err != nil {
		return 0, err
	}
	for range n {
		if _, err := w.lag(ctx); err != nil {
			return 0, err
		}
	}
	after, err := cpuTime(w.proc.pid())
	return (after - before) / n, err
}

var client = &http.Client{Timeout: 10 * time.Second}

// fetch returns the text of a page that answers 200.
func fetch(ctx context.Context, address, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %.200s", address, resp.Status, text)
	}
	return string(text), nil
}
