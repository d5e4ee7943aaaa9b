package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"tollgate/internal/config"
	"tollgate/internal/listen"
)

// Options are what the command line adds to the configuration.
type Options struct {
	// Demo seeds the demo marketplace and writes demo.json.
	Demo bool
	// DemoUnits is the size of each demo package. Default 10000.
	DemoUnits int64
	// DemoUpstream replaces the built-in mock upstream of the demo products.
	DemoUpstream string
	// Ready is called once every port is open and the demo, if any, is there.
	Ready func(Info)
	// Log is the program's log.
	Log *slog.Logger
	// Now is the wall clock; nil means time.Now. Leases, time-outs and pauses go
	// by the machine's monotonic clock, whatever this one says.
	Now func() time.Time
}

// Info tells where the program listens. Empty: that port is not open.
type Info struct {
	GatewayURL      string
	GatewayHTTPSURL string
	AdminURL        string
	Demo            *Demo // nil without --demo
}

// App is a running program.
type App struct {
	cfg  config.Config
	opts Options
	log  *slog.Logger
	now  func() time.Time
	reg  *prometheus.Registry

	adminLn, plainLn, tlsLn net.Listener

	reloads      []func() error // what SIGHUP does
	pair         *keyPair       // of the https port; nil without one
	certFailures atomic.Int64
	doors        []*listen.Listener // the gateway's ports, below TLS
	http         *http.Server
	leaving      atomic.Bool // the stop has begun: not ready

	demo    *Demo    // under --demo
	control *control // admin role; nil in a gateway process
	node    *node    // gateway role; nil in an admin process

	ctx    context.Context // ends when the background work is to stop
	cancel context.CancelFunc
	work   sync.WaitGroup
	failed chan error // the first background failure that ends the program

	closers []func() error // run last to first
}

// Run starts the program, serves until ctx ends, drains, and returns. Errors
// before it was ready say what to do; nothing is left running then.
func Run(ctx context.Context, cfg config.Config, opts Options) error {
	a, err := start(ctx, cfg, opts)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return a.stop()
	case err := <-a.failed:
		return errors.Join(err, a.stop())
	}
}

func start(ctx context.Context, cfg config.Config, opts Options) (_ *App, err error) {
	a := &App{cfg: cfg, opts: opts, log: opts.Log, now: opts.Now, reg: prometheus.NewRegistry(), failed: make(chan error, 8)}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	// The background outlives ctx: it ends in stop, after the last call.
	a.ctx, a.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, a.release())
		}
	}()
	stopFloor := holdFloor(int64(cfg.HeapFloor))
	a.closers = append(a.closers, func() error { stopFloor(); return nil })
	a.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(cfg.Role))
	if err := dataFolder(cfg.Data); err != nil {
		return nil, err
	}
	// Ports first: a port that is taken must not cost a half-made store.
	if err := a.listen(); err != nil {
		return nil, err
	}
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	a.watchSignals(a.ctx)
	if a.pair != nil {
		a.watchCertificate(a.ctx, a.pair)
	}
	a.serve()
	info := a.info()
	if opts.Demo {
		if info.Demo, err = a.writeDemo(ctx, info); err != nil {
			return nil, err
		}
	}
	if opts.Ready != nil {
		opts.Ready(info)
	}
	return a, nil
}

// open opens stores and parts, the quota store first because both roles need
// it.
func (a *App) open(ctx context.Context) error {
	store, err := openQuota(ctx, a.cfg, a.log, a.now)
	if err != nil {
		return err
	}
	a.closers = append(a.closers, store.Close)
	if a.cfg.Role != config.RoleAdmin {
		if a.node, err = a.openNode(ctx, store); err != nil {
			return err
		}
	}
	if a.cfg.Role != config.RoleGateway {
		if a.control, err = a.openControl(ctx, store); err != nil {
			return err
		}
		if a.opts.Demo {
			if err := a.seedDemo(ctx); err != nil {
				return fmt.Errorf("demo: %w", err)
			}
		}
	}
	if a.node != nil {
		if err := a.node.begin(ctx); err != nil {
			return err
		}
	}
	if a.control != nil {
		a.control.begin(ctx)
	}
	return nil
}

// listen opens the ports of the process's roles.
func (a *App) listen() error {
	open := func(key, addr string, o listen.Options) (*listen.Listener, error) {
		ln, err := listen.TCP(addr, o)
		if err != nil {
			return nil, listenError(key, addr, err)
		}
		a.closers = append(a.closers, func() error { return ignoreClosed(ln.Close()) })
		return ln, nil
	}
	door := func(key, addr string) (net.Listener, error) {
		ln, err := open(key, addr, listen.Options{ReusePort: a.cfg.Gateway.ReusePort})
		if err != nil {
			return nil, err
		}
		a.doors = append(a.doors, ln)
		return ln, nil
	}
	adminLn, err := open("admin-listen", a.cfg.Admin.Listen, listen.Options{})
	if err != nil {
		return err
	}
	a.adminLn = adminLn
	if a.cfg.Role == config.RoleAdmin {
		return nil
	}
	if a.plainLn, err = door("gateway-listen", a.cfg.Gateway.Listen); err != nil {
		return err
	}
	if a.plainLn, err = a.behindBalancers(a.plainLn); err != nil {
		return err
	}
	if a.cfg.Gateway.TLSListen == "off" {
		return nil
	}
	addr := a.cfg.Gateway.TLSListen
	if addr == "auto" {
		host, port, _ := net.SplitHostPort(a.cfg.Gateway.Listen)
		addr = net.JoinHostPort(host, "0")
		if port == "8080" {
			if a.tlsLn, err = door("gateway.tls_listen", net.JoinHostPort(host, "8443")); err == nil {
				addr = ""
			}
		}
	}
	if addr != "" {
		if a.tlsLn, err = door("gateway.tls_listen", addr); err != nil {
			return err
		}
	}
	if a.pair, err = certificate(a.cfg.Data, a.cfg.Gateway.TLSCert, a.cfg.Gateway.TLSKey, a.now()); err != nil {
		return err
	}
	if a.tlsLn, err = a.behindBalancers(a.tlsLn); err != nil {
		return err
	}
	a.tlsLn = tls.NewListener(a.tlsLn, &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: a.pair.get,
		NextProtos:     []string{"http/1.1"}, // fasthttp cannot speak h2
	})
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serve starts taking connections.
func (a *App) serve() {
	a.http = &http.Server{
		Handler:           a.adminHandler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       75 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	if a.control != nil {
		// Long polls of gateways would hold the stop up.
		a.http.RegisterOnShutdown(a.control.server.Close)
	}
	run := func(name string, serve func(net.Listener) error, ln net.Listener) {
		if ln == nil {
			return
		}
		a.work.Go(func() {
			if err := serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				a.failed <- fmt.Errorf("%s port: %w", name, err)
			}
		})
	}
	run("admin", a.http.Serve, a.adminLn)
	if a.node != nil {
		// Connections wait in the kernel until there is a directory: on a port
		// that several processes share, or behind a balancer that does not ask
		// for readiness, the one that starts must not refuse what others serve.
		serve := func(ln net.Listener) error {
			a.node.awaitDirectory(a.ctx)
			return a.node.gateway.Serve(ln)
		}
		run("gateway", serve, a.plainLn)
		run("gateway https", serve, a.tlsLn)
	}
}

func (a *App) info() Info {
	url := func(scheme string, ln net.Listener) string {
		if ln == nil {
			return ""
		}
		return scheme + "://" + reachable(ln.Addr().String())
	}
	return Info{GatewayURL: url("http", a.plainLn), GatewayHTTPSURL: url("https", a.tlsLn), AdminURL: url("http", a.adminLn)}
}

// reachable replaces an unspecified host, which is no address to call.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// stop drains: readiness goes at once, calls are served for the drain delay, so
// that balancers can look away, and then only on the connections there are;
// what runs finishes within the limit, everything journalled is settled and
// shipped or left for the next start.
func (a *App) stop() error {
	a.leaving.Store(true)
	if a.node != nil {
		a.node.gateway.Leave()
	}
	a.log.Info("stopping: not ready any more", "served_as_before", a.cfg.DrainDelay, "limit_after_that", a.cfg.ShutdownTimeout)
	pause(context.Background(), a.cfg.DrainDelay)
	ctx, cancel := context.WithTimeout(context.Background(), a.cfg.ShutdownTimeout)
	defer cancel()
	var errs []error
	if a.node != nil {
		errs = append(errs, a.node.drain(ctx))
	}
	// The admin port goes last: its health endpoint says "shutting down"
	// meanwhile, and gateways of other processes can still report.
	if err := a.http.Shutdown(ctx); err != nil {
		errs = append(errs, a.http.Close())
	}
	if a.node != nil {
		errs = append(errs, a.node.settle(ctx))
	}
	errs = append(errs, a.release())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	a.log.Info("stopped")
	return nil
}

// release ends the background work and closes everything, last opened first.
func (a *App) release() error {
	a.cancel()
	var errs []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		errs = append(errs, a.closers[i]())
	}
	a.closers = nil
	a.work.Wait()
	return errors.Join(errs...)
}
