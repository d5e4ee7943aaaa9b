package gateway

import (
	"bytes"
	"io"
	"net/netip"
	"time"

	"github.com/valyala/fasthttp"

	"tollgate/gateway/limit"
	"tollgate/gateway/upstream"
	"tollgate/internal/apisign"
	"tollgate/internal/ids"
	"tollgate/internal/meter"
	"tollgate/internal/usage"
)

// call is one request on its way through. It belongs to the goroutine of its
// connection until a drain takes it over. Calls are pooled unless their answer
// is relayed after the handler returned.
type call struct {
	callState

	ex  upstream.Exchange
	req upstream.Request
	rec usage.Record

	// Reused from call to call.
	model   string   // of the call before: most name the same
	fields  []field  // of the request's header, as it came
	listed  [][]byte // fields that Connection names
	head    []byte   // of the upstream request
	target  []byte   // likewise
	bodyBuf []byte
	editBuf []byte
}

// callState is the part of a call that begins anew with each request.
type callState struct {
	g     *Gateway
	ctx   *fasthttp.RequestCtx // nil once the connection is no longer the call's
	table *directoryTable

	id     ids.Request
	idText [32]byte
	start  time.Time
	path   []byte // of the request target, undecoded
	query  []byte

	llm     bool
	route   route
	family  family
	product *product
	sub     *subscription
	who     principal

	others      []*product // further products of the model's name
	plain       []byte     // the body before it was edited for a product
	body        []byte     // whole request body, once bodyRead
	bodyRead    bool
	whole       wholeBody // while the body is read
	decoded     bool      // body was unpacked
	upload      upload
	upgrade     bool     // to a WebSocket
	keyHash     [32]byte // of the API key, for sessions that outlive a directory
	uploadDelta int64    // by which the body sent is longer than the one that came
	spool       *spool   // the multipart body, as far as it was read; nil: it was not
	pay         payload

	sent  time.Time // the request first went upstream
	early bool      // an interim answer went to the client

	grant    limit.Grant // what was taken of the limits
	tape     *tape       // takes the answer down; nil without an idempotency key
	hold     Hold
	resolved bool // the hold was settled or released
	noted    bool // metrics were written

	rules      *meter.Rules // what is measured on the route, beside tokens
	tally      *meter.Tally // what was measured; nil: nothing is
	images     int64        // images of a streamed answer
	usage      report
	makes      bool       // the call makes an answer, it does not read one made before
	text       *textCount // of generated text, where it is counted
	bytesOut   int64
	firstByte  time.Time
	incomplete bool
	clientGone bool
	dry        bool // the gateway ended the stream: nothing was left to hold for it

	seen    *seen      // nil while neither access log nor traces are on
	refused string     // the reason of a refusal
	client  netip.Addr // see address; invalid until it is asked for
	closing bool       // the client asked for the connection to be closed
	escaped bool       // the answer is relayed after the handler: do not pool
	fresh   bool       // nothing was buffered for the client when the call began
	stream  relay
}

func (c *call) begin(g *Gateway, ctx *fasthttp.RequestCtx) {
	c.g, c.ctx = g, ctx
	c.start = g.now()
	c.id = ids.NewRequest(c.start)
	c.id.Append(c.idText[:0])
	c.table = g.table.Load()
	if w, ok := ctx.Conn().(watched); ok {
		c.fresh = w.watch().fresh
	}
}

// reset makes c ready for the pool; it keeps the buffers.
func (c *call) reset() {
	const keep = 64 << 10 // one large body must not stay in memory
	small := func(b []byte) []byte {
		if cap(b) > keep {
			return nil
		}
		return b[:0]
	}
	c.callState = callState{}
	c.ex.Response.Reset()
	c.ex.Attempts = 0
	c.req = upstream.Request{}
	c.rec = usage.Record{Charges: c.rec.Charges[:0]}
	clear(c.fields)
	clear(c.listed)
	c.fields, c.listed = c.fields[:0], c.listed[:0]
	c.head, c.target = small(c.head), small(c.target)
	c.bodyBuf, c.editBuf = small(c.bodyBuf), small(c.editBuf)
}

func (c *call) idString() string { return string(c.idText[:]) }

// serve takes the request through to its answer. A refusal with a reason is an
// answer the gateway has to make itself; nothing was written yet then.
func (c *call) serve() refusal {
	if ref, answered := c.checkHead(); answered || ref.reason != ReasonNone {
		return ref
	}
	if c.llm {
		return c.serveLLM()
	}
	return c.serveAPI()
}

// checkHead checks what can be told of every request from its head. It reports
// whether it has answered the request.
func (c *call) checkHead() (ref refusal, answered bool) {
	c.path, c.query = splitTarget(c.ctx)
	c.route, c.llm = splitLLM(c.path)
	err := c.readFields()
	c.look()
	if err != nil {
		return refusal{reason: ReasonMalformed, detail: err.Error()}, false
	}
	if err := apisign.CheckPath(c.path); err != nil {
		return refusal{reason: ReasonMalformed, detail: err.Error()}, false
	}
	if bytes.IndexByte(c.ctx.Request.Header.RequestURI(), '#') >= 0 {
		return refusal{reason: ReasonMalformed, detail: "a request target holds no fragment: escape # as %23"}, false
	}
	if len(c.ctx.Request.Header.RequestURI()) > c.g.cfg.MaxURI {
		return refusal{reason: ReasonURITooLong}, false
	}
	switch m := c.ctx.Method(); {
	case c.serveHealth():
		return refusal{}, true
	case c.table == nil:
		ref.reason = ReasonNotReady
	case c.g.ending.Load():
		ref.reason = ReasonDraining
	case string(m) == "TRACE" || string(m) == "CONNECT":
		ref.reason = ReasonMethod
	default:
		ref = c.checkAddress()
	}
	return ref, false
}

// serveAPI serves a call to an API product: by signature or AppCode.
func (c *call) serveAPI() refusal {
	if ref := c.findAPI(); ref.reason != ReasonNone {
		return ref
	}
	who, ref := c.authenticateApp(c.product, func() ([]byte, refusal) { return c.readBody(c.g.cfg.MaxSignedBody) })
	if ref.reason != ReasonNone {
		return ref
	}
	c.who = who
	if !who.app.bound[c.product.ID] {
		return refusal{reason: ReasonNotBound}
	}
	if ref := c.takeBody(); ref.reason != ReasonNone {
		return ref
	}
	return c.admitAndForward()
}

// findAPI finds the API product the request addresses.
func (c *call) findAPI() refusal {
	p, ok := c.table.matchPath(c.host(), c.path)
	switch {
	case !ok:
		return refusal{reason: ReasonMalformed, detail: "the path is ambiguous: its escapes or double slashes lead to another API than its plain reading"}
	case p == nil:
		return refusal{reason: ReasonNoRoute}
	}
	c.product = p
	if !p.allowsMethod(c.ctx.Method()) {
		return refusal{reason: ReasonMethod}
	}
	return refusal{}
}

// host is the host the client addressed: told by a trusted proxy, or of the target where that is absolute
// (RFC 9112 section 3.2.2), of the Host field otherwise.
func (c *call) host() []byte {
	if h := c.forwarded("host"); len(h) > 0 {
		return h
	}
	if uri := c.ctx.Request.Header.RequestURI(); len(uri) > 0 && uri[0] != '/' {
		return c.ctx.Request.URI().Host()
	}
	return c.ctx.Request.Header.Host()
}

// ensureResolved releases the hold of a call that was not answered by the
// upstream, and closes its exchange.
func (c *call) ensureResolved() {
	if c.escaped {
		return // the relay owns both
	}
	c.ex.Close()
	if c.hold != nil && !c.resolved {
		c.resolved = true
		c.release()
	}
}

// abandon resolves everything after a panic. The hold is given back: whether
// the call would have counted is not known, and the client gets an error.
func (c *call) abandon() {
	defer func() { c.caught("abandon a call", recover()) }()
	c.escaped = false
	c.ensureResolved()
}

// refuse writes the gateway's own answer.
func (c *call) refuse(ref refusal) {
	c.refused = ref.reason.String()
	status := c.g.writeRefusal(c.ctx, ref, c.llm, c.idText[:])
	c.translateRefusal(ref)
	c.discardBody()
	c.g.metrics.rejected[ref.reason].Inc()
	c.note(status)
	forwarded := !c.sent.IsZero()
	if c.who.account != nil && (forwarded && c.g.cfg.RecordFailed || !forwarded && c.g.cfg.RecordRefused) {
		c.fillRecord(status, c.g.now())
		c.rec.Reason = ref.reason.String()
		c.keep()
	}
}

// byteReader reads a byte slice.
type byteReader struct{ b []byte }

func (r *byteReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}
