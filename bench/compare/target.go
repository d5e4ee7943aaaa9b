package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tollgate/bench"
)

// target is one thing to be measured with one kind of credential.
type target struct {
	name, auth, store, role string

	proc   *process   // nil: nothing stands between generator and upstream
	stores []*process // what it asks on the way, on the other core
	call   func(stream bool) bench.Scenario
	only   map[string]bool                      // scenarios it is measured in; nil: all
	exact  bool                                 // it relays answers byte for byte
	charge string                               // X-Tollgate-Charged of an answer that is not streamed
	lag    func(context.Context) (int64, error) // journal records not yet in the stores; nil: there are none
	scrape time.Duration                        // processor time one call of lag costs the target
}

func (t *target) String() string {
	return strings.Join(strings.Fields(strings.Join([]string{t.name, t.auth, t.store, t.role}, " ")), " ")
}

func (t *target) in(scenario string) bool { return t.only == nil || t.only[scenario] }

// chatPath is the path of a call where the target has none of its own.
const chatPath = "/v1/chat/completions"

// demoKey stands for an API key towards targets that do not look at it, so that
// their requests are as long as Tollgate's.
const demoKey = "sk-0000000000000000000000000000000000000000000000"

// plainCall is a call of a target that knows no credentials.
func plainCall(whole, stream string, headers ...string) func(bool) bench.Scenario {
	return func(s bool) bench.Scenario {
		addr := whole
		if s {
			addr = stream
		}
		return bench.Scenario{
			Name: "call", URL: "http://" + addr + chatPath, Body: question("demo-chat", s), Stream: s,
			Headers: append(append([]string(nil), clientHeaders...), headers...),
			Auth:    bench.Auth{Kind: bench.AuthAPIKey, Key: demoKey},
		}
	}
}

// direct has the generator call the upstream itself: what is left is the cost
// of both, and how much they can.
func (b *bed) direct(context.Context) ([]*target, error) {
	return []*target{{name: nameDirect, auth: "none", call: plainCall(b.upstreamAddr, b.upstreamAddr), exact: true}}, nil
}

func (b *bed) fasthttp(ctx context.Context) ([]*target, error) {
	t, err := b.startProxy(ctx, nameFasthttp, "")
	return []*target{t}, err
}

// redisProxy is the same proxy with one round trip to Redis in each call.
func (b *bed) redisProxy(ctx context.Context) ([]*target, error) {
	redis, err := b.redis(ctx)
	if err != nil {
		return nil, err
	}
	t, err := b.startProxy(ctx, nameRedis, redis.addr)
	if err != nil {
		return nil, err
	}
	t.store, t.stores = "redis", []*process{redis.proc}
	t.only = map[string]bool{scenarioClosed: true, scenarioOpen: true}
	return []*target{t}, nil
}

func (b *bed) startProxy(ctx context.Context, name, redis string) (*target, error) {
	args := []string{"bench", "part", "fasthttp", "--upstream", b.upstreamAddr}
	if redis != "" {
		args = append(args, "--redis", redis)
	}
	p, err := b.begin(command{path: b.exe, args: args, core: b.cores.Target, pipe: true})
	if err != nil {
		return nil, err
	}
	line, err := p.line(ctx)
	if err != nil {
		return nil, err
	}
	var ports proxyPorts
	if err := json.Unmarshal([]byte(line), &ports); err != nil {
		return nil, fmt.Errorf("%s says %q: %w", name, line, err)
	}
	return &target{name: name, auth: "none", proc: p, call: plainCall(ports.Whole, ports.Stream), exact: true}, nil
}

const aptRemedy = "run `make setup`, `tollgate bench compare --install`, or apt-get install -y --no-install-recommends "

// nginx is the usual way to run it as a reverse proxy; the port for streams does
// not buffer answers.
func (b *bed) nginx(ctx context.Context) ([]*target, error) {
	path, err := find("nginx", aptRemedy+"nginx-light")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "nginx")
	conf := fmt.Sprintf(`daemon off;
master_process off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr error;
events { worker_connections 8192; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  client_body_buffer_size 64k;
  upstream mock { server %[2]s; keepalive 1024; keepalive_requests 1000000000; }
  server {
    listen %[3]s;
    location / { proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
  server {
    listen %[4]s;
    location / { proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }
  }
}
`, dir, b.upstreamAddr, addrs[0], addrs[1])
	if err := writeConfig(dir, "nginx.conf", conf); err != nil {
		return nil, err
	}
	p, err := b.begin(command{path: path, args: []string{"-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf")}, core: b.cores.Target})
	if err != nil {
		return nil, err
	}
	return []*target{{name: nameNginx, auth: "none", proc: p, call: plainCall(addrs[0], addrs[1]), exact: true}}, p.ready(ctx, dialable(addrs...))
}

func (b *bed) haproxy(ctx context.Context) ([]*target, error) {
	path, err := find("haproxy", aptRemedy+"haproxy")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(1)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "haproxy")
	conf := fmt.Sprintf(`global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 75s
  timeout server 300s
  option http-keep-alive
  http-reuse always
frontend in
  bind %s
  default_backend mock
backend mock
  server mock %s
`, addrs[0], b.upstreamAddr)
	if err := writeConfig(dir, "haproxy.cfg", conf); err != nil {
		return nil, err
	}
	p, err := b.begin(command{path: path, args: []string{"-db", "-q", "-f", filepath.Join(dir, "haproxy.cfg")}, core: b.cores.Target})
	if err != nil {
		return nil, err
	}
	return []*target{{name: nameHAProxy, auth: "none", proc: p, call: plainCall(addrs[0], addrs[0]), exact: true}}, p.ready(ctx, dialable(addrs...))
}

// portkey is Portkey's gateway from npm, as its own README starts it.
func (b *bed) portkey(ctx context.Context) ([]*target, error) {
	node, err := find("node", aptRemedy+"nodejs")
	if err != nil {
		return nil, err
	}
	script := filepath.Join(b.portkeyDir, "node_modules", "@portkey-ai", "gateway", "build", "start-server.js")
	if _, err := os.Stat(script); err != nil {
		return nil, fmt.Errorf("the gateway of Portkey is %w: run `tollgate bench compare --install`, or npm install --prefix %s --ignore-scripts %s", errNotInstalled, b.portkeyDir, portkeyPackage)
	}
	addrs, err := freeAddrs(1)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addrs[0])
	p, err := b.begin(command{
		path: node, args: []string{script, "--port=" + port, "--headless"}, core: b.cores.Target,
		env: []string{"NODE_ENV=production", "TRUSTED_CUSTOM_HOSTS=127.0.0.1,localhost"},
	})
	if err != nil {
		return nil, err
	}
	// Its release 1.15.2 answers streams with 500 on Node.js 20 ("TypeError:
	// immutable"), so it is measured without them.
	t := &target{name: namePortkey, auth: "none", proc: p, only: map[string]bool{scenarioClosed: true, scenarioOpen: true}, call: plainCall(addrs[0], addrs[0], "x-portkey-provider: openai", "x-portkey-custom-host: http://"+b.upstreamAddr+"/v1")}
	return []*target{t}, p.ready(ctx, dialable(addrs...))
}

func writeConfig(dir, name, text string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
}

// freeAddrs returns addresses of the loopback that nobody listened on a moment
// ago, for programs that cannot tell which port they were given.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() // held until all are known, so that none comes twice
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

// dialable reports whether something listens at every address.
func dialable(addrs ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		for _, a := range addrs {
			c, err := d.DialContext(ctx, "tcp", a)
			if err != nil {
				return err
			}
			if err := c.Close(); err != nil {
				return err
			}
		}
		return nil
	}
}

// redisServer is a Redis that keeps its data as it does in production.
type redisServer struct {
	addr string
	proc *process
}

// redis starts the Redis the targets share, each with a database of its own.
func (b *bed) redis(ctx context.Context) (*redisServer, error) {
	if b.redisServer != nil {
		return b.redisServer, nil
	}
	path, err := find("redis-server", aptRemedy+"redis-server")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(1)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "redis")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addrs[0])
	p, err := b.begin(command{path: path, core: b.cores.Load, dir: dir, args: []string{
		"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--daemonize", "no",
		"--appendonly", "yes", "--appendfsync", "everysec",
	}})
	if err != nil {
		return nil, err
	}
	if err := p.ready(ctx, dialable(addrs...)); err != nil {
		return nil, err
	}
	b.redisServer = &redisServer{addr: addrs[0], proc: p}
	return b.redisServer, nil
}

// missing reports whether err says that a program is not installed.
func missing(err error) bool { return errors.Is(err, errNotInstalled) }
