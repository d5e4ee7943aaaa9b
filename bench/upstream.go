package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/valyala/fasthttp"
)

// UpstreamConfig configures a mock upstream. The zero value is fine.
type UpstreamConfig struct {
	// Models are what /v1/models lists, by default "demo-chat" and
	// "demo-embedding". Any model name is answered.
	Models []string
	// MaxBody is the largest request body in bytes, by default 64 MiB.
	MaxBody int
	// OnRequest, when set, sees every request but those under /mock/ before it
	// is answered. It must not keep anything of ctx.
	OnRequest func(ctx *fasthttp.RequestCtx)
	// OnAnswer, when set, sees every answer just before its head is written, but
	// not a 400 to a request the mock cannot honour.
	OnAnswer func(Answer)
	// OnUsage, when set, sees what each 2xx answer of an LLM endpoint reported
	// of its tokens, 0 for none: with the answer, or before the end of a stream
	// is written.
	OnUsage func(requestID string, tokens int64)
	// OnRealtime, when set, sees every answer of the realtime sessions: just
	// before its last event is written, or when it has broken off.
	OnRealtime func(RealtimeAnswer)
}

// Answer is one answer of the mock upstream.
type Answer struct {
	RequestID string // X-Request-Id of the request
	Path      string
	Status    int
}

// Upstream is the mock upstream. It is safe for concurrent use.
type Upstream struct {
	cfg    UpstreamConfig
	server *fasthttp.Server
	stats  counters
	ids    atomic.Uint64

	objects objects // what callers had made
	stop    chan struct{}

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // taken from fasthttp by the raw writer
	closed bool
	last   []byte
	lns    []net.Listener
	served sync.WaitGroup // running Serve calls and raw writers
}

// NewUpstream makes a mock upstream that is not listening yet.
func NewUpstream(cfg UpstreamConfig) *Upstream {
	if len(cfg.Models) == 0 {
		cfg.Models = []string{"demo-chat", "demo-embedding"}
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 64 << 20
	}
	u := &Upstream{cfg: cfg, stop: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	u.stats.init()
	u.server = &fasthttp.Server{
		Handler:                            u.handle,
		Name:                               "tollgate-mock",
		NoDefaultContentType:               true,
		MaxRequestBodySize:                 cfg.MaxBody,
		ReadBufferSize:                     64 << 10, // the longest head it accepts
		Concurrency:                        1 << 20,
		DisablePreParseMultipartForm:       true,
		SleepWhenConcurrencyLimitsExceeded: time.Millisecond,
		Logger:                             silent{},
	}
	return u
}

// silent drops fasthttp's complaints about connections that clients closed:
// the benchmarks and the break tests close them by the thousand.
type silent struct{}

func (silent) Printf(string, ...any) {}

// Serve answers on ln until [Upstream.Close]. It returns nil then.
func (u *Upstream) Serve(ln net.Listener) error {
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return errors.Join(net.ErrClosed, ln.Close())
	}
	u.served.Add(1)
	u.lns = append(u.lns, ln)
	u.mu.Unlock()
	defer u.served.Done()
	if err := u.server.Serve(ln); err != nil {
		return fmt.Errorf("mock upstream: %w", err)
	}
	return nil
}

// Start listens on addr ("127.0.0.1:0" picks a free port), serves in the
// background and returns the base URL, such as "http://127.0.0.1:34567".
func (u *Upstream) Start(addr string) (url string, err error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("mock upstream: %w", err)
	}
	go u.Serve(ln) // its error would be that of Accept after Close
	return "http://" + ln.Addr().String(), nil
}

// closeTimeout is how long Close waits for a client that does not read what
// was written to it.
const closeTimeout = 5 * time.Second

// Close stops listening, cuts running answers off and waits until all is over.
func (u *Upstream) Close() error {
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return nil
	}
	u.closed = true
	close(u.stop)
	for c := range u.conns {
		_ = c.Close() // to wake the writer; it closes once more
	}
	for _, ln := range u.lns {
		_ = ln.Close() // Shutdown does not know a listener whose Serve is about to begin
	}
	u.mu.Unlock()
	u.served.Wait()
	// What fasthttp itself is still writing.
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// Its other error would be that the listeners are closed already.
	if err := u.server.ShutdownWithContext(ctx); err != nil && ctx.Err() != nil {
		return fmt.Errorf("mock upstream: clients still connected: %w", err)
	}
	return nil
}

// Stats returns what was answered so far.
func (u *Upstream) Stats() Stats { return u.stats.snapshot() }

// Reset sets all counters but the running ones to zero.
func (u *Upstream) Reset() { u.stats.reset() }

// Paths of the mock's own interface; they are never counted.
const (
	pathStats = "/mock/stats"
	pathReset = "/mock/reset"
	pathLast  = "/mock/last"
)

func (u *Upstream) handle(ctx *fasthttp.RequestCtx) {
	path := ctx.URI().PathOriginal()
	if bytes.HasPrefix(path, []byte("/mock/")) {
		if u.own(ctx, string(path)) {
			return
		}
	}
	u.stats.begin()
	a := answer{u: u}
	defer func() {
		if !a.running { // the stream or the raw writer ends it otherwise
			u.stats.end()
		}
	}()
	if u.cfg.OnRequest != nil {
		u.cfg.OnRequest(ctx)
	}
	s, err := parseSteer(&ctx.Request.Header)
	if err != nil {
		u.invalid(ctx, err)
		return
	}
	if len(ctx.Request.Header.Peek("X-Mock-Record")) > 0 {
		u.record(ctx)
	}
	if s.latency > 0 && !wait(s.latency, u.stop) {
		ctx.SetConnectionClose()
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		return
	}
	if s.flakyKey == flakyRequest {
		// Whoever sends a call again keeps its id, so each call fails by itself.
		s.flakyKey = "request " + string(ctx.Request.Header.Peek("X-Request-Id"))
	}
	if s.flakyKey != "" && u.stats.stillFlaky(s.flakyKey, s.flakyTimes) {
		s.status = s.flakyCode
	}
	a.steer = s
	u.route(ctx, path, &a)
}

// own answers the mock's own interface and reports whether path belongs to it.
func (u *Upstream) own(ctx *fasthttp.RequestCtx, path string) bool {
	switch {
	case path == pathStats && (ctx.IsGet() || ctx.IsHead()):
		ctx.SetContentType("application/json")
		ctx.SetBody(u.Stats().marshal())
	case path == pathReset && ctx.IsPost():
		u.Reset()
		ctx.SetContentType("application/json")
		ctx.SetBodyString("{\"reset\":true}\n")
	case path == pathLast && ctx.IsGet():
		u.mu.Lock()
		last := u.last
		u.mu.Unlock()
		if last == nil {
			ctx.SetStatusCode(fasthttp.StatusNotFound)
			last = []byte("{\"error\":\"no request with X-Mock-Record: 1 yet\"}\n")
		}
		ctx.SetContentType("application/json")
		ctx.SetBody(last)
	default:
		return false
	}
	return true
}

// record keeps the request for GET /mock/last.
func (u *Upstream) record(ctx *fasthttp.RequestCtx) {
	b := appendEcho(nil, ctx)
	u.mu.Lock()
	u.last = b
	u.mu.Unlock()
}

// invalid answers 400 to a request the mock cannot honour.
func (u *Upstream) invalid(ctx *fasthttp.RequestCtx, err error) {
	u.stats.answered(ctx.URI().PathOriginal(), fasthttp.StatusBadRequest)
	u.stats.add(func(s *Stats) { s.Invalid++ })
	ctx.SetStatusCode(fasthttp.StatusBadRequest)
	ctx.SetContentType("application/json")
	ctx.SetBody(errorBody(nil, fasthttp.StatusBadRequest, err.Error()))
}

var llmPaths = []struct {
	suffix string
	kind   llmKind
}{
	{"/chat/completions", kindChat},
	{"/completions", kindCompletion},
	{"/embeddings", kindEmbedding},
	{"/responses", kindResponse},
	{"/messages", kindMessage},
}

// route finds the endpoint of a path. The OpenAI surface answers at the root
// and below any prefix that ends in /v1; everything else is echoed.
func (u *Upstream) route(ctx *fasthttp.RequestCtx, path []byte, a *answer) {
	rest := path
	if i := bytes.LastIndex(path, []byte("/v1/")); i >= 0 {
		rest = path[i+len("/v1"):]
	}
	for _, p := range llmPaths {
		if string(rest) != p.suffix {
			continue
		}
		if !ctx.IsPost() {
			if p.kind == kindResponse {
				break
			}
			a.fail(ctx, fasthttp.StatusMethodNotAllowed, "Not allowed to "+string(ctx.Method())+" on "+string(path))
			return
		}
		u.llm(ctx, a, p.kind)
		return
	}
	if u.media(ctx, a, string(rest)) || u.stored(ctx, a, string(rest)) {
		return
	}
	if string(rest) == "/realtime" && websocket.FastHTTPIsWebSocketUpgrade(ctx) {
		u.realtime(ctx, a)
		return
	}
	if ctx.IsGet() || ctx.IsHead() {
		if string(rest) == "/models" {
			a.send(ctx, "application/json", u.modelList())
			return
		}
		if name, ok := bytes.CutPrefix(rest, []byte("/models/")); ok && len(name) > 0 {
			u.model(ctx, a, string(name))
			return
		}
	}
	a.send(ctx, "application/json", appendEcho(nil, ctx))
}

func (u *Upstream) llm(ctx *fasthttp.RequestCtx, a *answer, kind llmKind) {
	req, err := parseLLM(kind, ctx.Request.Body())
	if err != nil {
		u.invalid(ctx, err)
		return
	}
	if a.steer.status/100 != 2 {
		a.fail(ctx, a.steer.status, "")
		return
	}
	if kind == kindEmbedding {
		a.steer.tokens.completion = 0
	}
	if a.steer.body != nil {
		a.send(ctx, "application/json", a.steer.body)
		return
	}
	a.llm = true
	id, created := u.ids.Add(1), time.Now().Unix()
	if req.stream && kind != kindEmbedding {
		a.stream(ctx, &eventStream{req: req, steer: a.steer, id: id, created: created, stop: u.stop})
		return
	}
	var body []byte
	body, a.reported = answerBody(make([]byte, 0, 1024+a.steer.size), &req, &a.steer, id, created)
	if kind == kindResponse {
		u.keepResponse(id, body)
	}
	a.send(ctx, "application/json", body)
}

func (u *Upstream) modelList() []byte {
	b := []byte(`{"object":"list","data":[`)
	for i, m := range u.cfg.Models {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendModel(b, m)
	}
	return append(b, `]}`...)
}

func (u *Upstream) model(ctx *fasthttp.RequestCtx, a *answer, name string) {
	for _, m := range u.cfg.Models {
		if m == name {
			a.send(ctx, "application/json", appendModel(nil, m))
			return
		}
	}
	a.fail(ctx, fasthttp.StatusNotFound, "The model `"+name+"` does not exist or you do not have access to it.")
}

func appendModel(b []byte, name string) []byte {
	b = append(b, `{"id":`...)
	b = appendQuoted(b, name)
	return append(b, `,"object":"model","created":1735689600,"owned_by":"tollgate"}`...)
}
