package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"tollgate/gateway/accesslog"
	"tollgate/gateway/limit"
	"tollgate/gateway/trace"
	"tollgate/gateway/upstream"
	"tollgate/internal/directory"
)

// Gateway serves calls. Make it with New, give it a directory with Swap, and
// connections with Serve.
type Gateway struct {
	cfg      Config
	admitter Admitter
	recorder Recorder
	tokens   TokenCounter // nil: chunks and bytes are counted
	log      *slog.Logger
	metrics  *metrics
	limits   *limit.Table
	cluster  *limit.Cluster    // nil: the node is alone
	access   *accesslog.Writer // nil: off
	tracer   *trace.Tracer     // nil: off
	server   *fasthttp.Server

	table    atomic.Pointer[directoryTable]
	swap     sync.Mutex // serialises Swap
	hash     atomic.Pointer[hashState]
	draining atomic.Bool // Leave was called
	ending   atomic.Bool // the limit of Shutdown has passed
	conns    openConns
	serving  serving
	drains   atomic.Int64
	tasks    tasks // connections and drains
	calls    sync.Pool
	sessions sessions

	checking sync.WaitGroup
	retired  []*upstream.Target // no longer in the table, perhaps still in use; guarded by swap
}

// hashState is a hasher with the pepper it was made for.
type hashState struct {
	pepper string
	*hasher
}

// Deps are what the gateway needs of the rest of the program. AccessLog and
// Tracer may be nil, for off, Board for a node that shares its limits with no
// other, and Tokens, without which streams are counted by their events and
// bytes; the rest is required.
type Deps struct {
	AccessLog *accesslog.Writer
	Tracer    *trace.Tracer
	Board     limit.Board

	Admitter Admitter
	Recorder Recorder
	Tokens   TokenCounter
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// New returns a gateway without a directory: it answers 503 until the first
// Swap.
func New(cfg Config, deps Deps) *Gateway {
	g := &Gateway{
		cfg:      cfg.withDefaults(),
		admitter: deps.Admitter,
		recorder: deps.Recorder,
		tokens:   deps.Tokens,
		log:      deps.Log,
		metrics:  newMetrics(deps.Metrics),
	}
	g.access, g.tracer = deps.AccessLog, deps.Tracer
	g.limits = limit.NewTable(limit.Config{MaxCalls: g.cfg.Limits.MaxCalls, MaxKeys: g.cfg.Limits.MaxKeys})
	if deps.Board != nil {
		g.cluster = limit.NewCluster(g.limits, deps.Board, g.cfg.Limits.Exchange, deps.Log)
	}
	registerLimits(deps.Metrics, g)
	deps.Metrics.MustRegister(breakers{g})
	g.calls.New = func() any { return &call{} }
	g.server = &fasthttp.Server{
		Handler:                      g.handle,
		ErrorHandler:                 g.handleReadError,
		ExpectHandler:                g.handleExpect,
		HeaderReceived:               g.headerReceived,
		ReadBufferSize:               g.cfg.MaxHeader,
		ReadTimeout:                  g.cfg.HeaderTimeout,
		IdleTimeout:                  g.cfg.IdleTimeout,
		StreamRequestBody:            true,
		MaxRequestBodySize:           1 << 40, // the handler enforces the limits of each route
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
		LogAllErrors:                 false,
		Logger:                       serverLog{deps.Log},
		ConnState:                    state,
	}
	return g
}

// serverLog writes fasthttp's own messages at debug level, without what they are
// about: some of its errors quote the request, SecureErrorLogMessage or not.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Printf(format string, _ ...any) {
	l.log.Debug("http server", "message", format)
}

// Serve takes connections from ln until it is closed or Shutdown is called. It
// may be called for several listeners, plain and TLS.
func (g *Gateway) Serve(ln net.Listener) error {
	if !g.serving.begin(ln) {
		return ln.Close()
	}
	defer g.serving.end(ln)
	return g.server.Serve(&listener{Listener: ln, writeTimeout: g.cfg.WriteTimeout, readTimeout: g.cfg.ReadTimeout, open: &g.conns, tasks: &g.tasks})
}

// Swap puts the snapshot into force for every call that begins after it. Calls
// under way keep what they began with. Rows that cannot be used are left out
// and returned as one error; the rest is in force.
func (g *Gateway) Swap(s *directory.Snapshot) error {
	g.swap.Lock()
	defer g.swap.Unlock()
	old := g.table.Load()
	t, dropped, err := g.compile(s, old)
	if h := g.hash.Load(); h == nil || h.pepper != string(t.pepper) {
		g.hash.Store(&hashState{string(t.pepper), newHasher(t.pepper)})
	}
	g.table.Store(t)
	g.changeChecks(old, t)
	for _, u := range dropped {
		u.Close()
	}
	g.retired = append(slices.DeleteFunc(g.retired, func(u *upstream.Target) bool { return u.InFlight() == 0 }), dropped...)
	g.metrics.directory.Set(float64(t.version))
	faults := 0
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = len(joined.Unwrap())
	}
	g.metrics.faults.Set(float64(faults))
	return err
}

// Version returns the version of the directory in force, 0 before the first.
func (g *Gateway) Version() int64 {
	if t := g.table.Load(); t != nil {
		return t.version
	}
	return 0
}

// Ready reports whether the gateway has a directory and is not about to leave.
func (g *Gateway) Ready() error {
	switch {
	case g.table.Load() == nil:
		return errors.New("no directory yet")
	case g.draining.Load():
		return errors.New("shutting down")
	}
	return nil
}

// hashes returns the hasher of the table's pepper.
func (g *Gateway) hashes(t *directoryTable) *hasher {
	h := g.hash.Load()
	if h.pepper != string(t.pepper) {
		return newHasher(t.pepper) // a call that began before the pepper changed
	}
	return h.hasher
}

// shutdownGrace is how long Shutdown waits, after its context has ended and all
// connections were cut, for the calls to notice and resolve their holds.
const shutdownGrace = 5 * time.Second

// shutdownLook is how often Shutdown looks for connections without a call.
const shutdownLook = 20 * time.Millisecond

// headerReceived is told each request's header before its body is read. Expect
// is unknown to HTTP/1.0, and an interim answer would break such a client (RFC
// 9110 section 10.1.1). A body that does not fit the first reads gets time of its
// own; a header that is dribbled in does not.
func (g *Gateway) headerReceived(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if !h.IsHTTP11() {
		h.Del(fasthttp.HeaderExpect)
	}
	if n := h.ContentLength(); n > smallBody || n == -1 {
		return fasthttp.RequestConfig{ReadTimeout: g.cfg.ReadTimeout}
	}
	return fasthttp.RequestConfig{}
}

// Leave announces that the gateway is about to go: it is not ready any more, and
// every answer asks its client to close the connection. Calls are served as
// ever. Shutdown is to follow once balancers had the time to look away.
func (g *Gateway) Leave() { g.draining.Store(true) }

// Shutdown takes no more connections and waits for the calls on those there
// are, which are served, and for upstream answers that are read on after their
// client left. When ctx ends it cuts every connection, to clients and to
// upstreams, so that the calls still running end and resolve their holds, and
// returns ctx's error.
//
// The connections that wait in the kernel are reset by closing a listener; give
// Serve one of package listen and drain that first.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.Leave()
	g.stopChecks()
	g.sessions.leave()
	stop := make(chan struct{})
	defer close(stop)
	err := g.serving.close(ctx)
	go func() {
		// A look now and then meets those that were answered meanwhile.
		t := time.NewTicker(shutdownLook)
		defer t.Stop()
		for {
			g.conns.leave()
			select {
			case <-t.C:
			case <-stop:
				return
			}
		}
	}()
	if err == nil || ctx.Err() == nil {
		err = errors.Join(err, g.tasks.wait(ctx))
	}
	if ctx.Err() != nil {
		g.ending.Store(true)
		g.eachTarget((*upstream.Target).Abort)
		g.conns.closeAll()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if werr := g.tasks.wait(last); werr != nil {
			err = errors.Join(err, errors.New("gateway: some calls did not end although their connections were cut"))
		}
	}
	g.eachTarget((*upstream.Target).Close)
	return err
}

// eachTarget calls f for the targets in use.
func (g *Gateway) eachTarget(f func(*upstream.Target)) {
	g.swap.Lock()
	defer g.swap.Unlock()
	for _, u := range g.retired {
		f(u)
	}
	if t := g.table.Load(); t != nil {
		for _, p := range t.products {
			for _, u := range p.upstream {
				f(u.Target)
			}
		}
	}
}

// handle is the server's handler. fasthttp does not recover panics, so it is
// done here: the hold is resolved, the client gets a 500, the process lives.
func (g *Gateway) handle(ctx *fasthttp.RequestCtx) { g.with(ctx, (*call).serve) }

// handleExpect decides whether a client that asks first may send its body. It
// returns 100, or the status of the refusal it has written.
func (g *Gateway) handleExpect(ctx *fasthttp.RequestCtx) int {
	refused := true
	g.with(ctx, func(c *call) refusal {
		ref := c.expect()
		refused = ref.reason != ReasonNone
		if !refused {
			ctx.Response.Reset() // a health check's answer is made by the handler
			ctx.Response.Header.SetNoDefaultContentType(true)
		}
		return ref
	})
	if !refused {
		return fasthttp.StatusContinue
	}
	if w, ok := ctx.Conn().(watched); ok {
		w.watch().linger.Store(true) // it may have sent the body without waiting
	}
	return ctx.Response.StatusCode()
}

// with runs f on a call for ctx and answers its refusal.
func (g *Gateway) with(ctx *fasthttp.RequestCtx, f func(*call) refusal) {
	c := g.calls.Get().(*call)
	if w, ok := ctx.Conn().(watched); ok {
		w.watch().serving.Store(true)
	}
	c.begin(g, ctx)
	g.metrics.inFlight.Inc()
	defer func() {
		g.metrics.inFlight.Dec()
		if r := recover(); r != nil {
			g.panicked(c, r)
			return
		}
		if !c.escaped {
			c.grant.Undo(c.start) // of a call that was only asked about
			if c.tape != nil {
				c.tape.end(false)
			}
			c.free()
			c.reset()
			g.calls.Put(c)
		}
	}()
	if ref := f(c); ref.reason != ReasonNone {
		c.refuse(ref)
	}
	if c.closing || g.draining.Load() {
		ctx.Response.SetConnectionClose()
	}
}

// panicked ends a call whose handler panicked. The call is not used again.
func (g *Gateway) panicked(c *call, r any) {
	c.caught("handle a request", r)
	c.abandon()
	if c.ctx == nil {
		return // the connection was taken over; it closes
	}
	c.refuse(refusal{reason: ReasonInternal})
}

// handleReadError answers requests that the server could not read.
func (g *Gateway) handleReadError(ctx *fasthttp.RequestCtx, err error) {
	c := &call{}
	c.begin(g, ctx)
	reason := ReasonMalformed
	var small *fasthttp.ErrSmallBuffer
	var timeout interface{ Timeout() bool }
	var w *watch
	if wc, ok := ctx.Conn().(watched); ok {
		w = wc.watch()
	}
	switch {
	case errors.As(err, &small) && w != nil && !w.firstLine:
		reason = ReasonURITooLong
	case errors.As(err, &small):
		reason = ReasonHeadersTooLarge
	case errors.As(err, &timeout) && timeout.Timeout():
		reason = ReasonRequestTimeout
	}
	if w != nil {
		// What was parsed is gone; the kind of envelope is told from the line.
		_, target, _ := bytes.Cut(w.first[:w.firstLen], []byte{' '})
		c.llm = bytes.HasPrefix(target, []byte("/v1/"))
		w.linger.Store(true)
	}
	c.refuse(refusal{reason: reason})
}

// startDrain reserves a place for one drain; it reports false when there are
// as many as allowed.
func (g *Gateway) startDrain() bool {
	if g.drains.Add(1) > g.cfg.MaxDrains {
		g.drains.Add(-1)
		return false
	}
	g.tasks.begin()
	g.metrics.drains.Inc()
	return true
}

func (g *Gateway) endDrain() {
	g.drains.Add(-1)
	g.metrics.drains.Dec()
	g.tasks.end()
}

// tasks counts what Shutdown waits for.
type tasks struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to 0; nil while nobody waits
}

func (t *tasks) begin() {
	t.mu.Lock()
	t.n++
	t.mu.Unlock()
}

func (t *tasks) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n--; t.n == 0 && t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// wait waits until no task is left, or for ctx.
func (t *tasks) wait(ctx context.Context) error {
	t.mu.Lock()
	if t.n == 0 {
		t.mu.Unlock()
		return nil
	}
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	idle := t.idle
	t.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// now is the clock's time.
func (g *Gateway) now() time.Time { return g.cfg.Now() }
