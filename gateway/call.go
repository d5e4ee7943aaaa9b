package gateway

import (
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"

	"tollgate/gateway/upstream"
	"tollgate/internal/apisign"
	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/usage"
)

// call is one request on its way through. It belongs to the goroutine of its
// connection until a drain takes it over. Calls are pooled unless their answer
// is relayed after the handler returned.
type call struct {
	g     *Gateway
	ctx   *fasthttp.RequestCtx
	table *directoryTable

	id     ids.Request
	idText [32]byte
	start  time.Time
	path   []byte // of the request target, undecoded
	query  []byte
	target []byte // of the upstream request, reused

	llm     bool
	route   route
	family  family
	product *product
	sub     *subscription
	who     principal

	body     []byte // whole request body, once bodyRead
	bodyRead bool
	decoded  bool   // body was unpacked
	bodyBuf  []byte // reused
	editBuf  []byte // reused
	upload   upload
	pay      payload

	req  fasthttp.Request
	ex   upstream.Exchange
	sent time.Time // the request went upstream

	hold     Hold
	resolved bool // the hold was settled or released
	noted    bool // metrics were written
	rec      usage.Record

	usage      report
	textRunes  int64 // characters of generated text relayed, where estimates may be billed
	bytesOut   int64
	firstByte  time.Time
	incomplete bool
	clientGone bool

	escaped bool // the answer is relayed after the handler: do not pool
	flushed bool // the connection had nothing buffered when the call began
	stream  relay
}

func (c *call) begin(g *Gateway, ctx *fasthttp.RequestCtx) {
	c.g, c.ctx = g, ctx
	c.start = g.now()
	c.id = ids.NewRequest(c.start)
	c.id.Append(c.idText[:0])
	c.table = g.table.Load()
	if w, ok := ctx.Conn().(watched); ok {
		c.flushed = w.watch().flushed
		w.watch().flushed = false
	}
}

// reset makes c ready for the pool; it keeps the buffers.
func (c *call) reset() {
	bodyBuf, editBuf, target := c.bodyBuf, c.editBuf, c.target
	const keep = 64 << 10 // one large body must not stay in memory
	if cap(bodyBuf) > keep {
		bodyBuf = nil
	}
	if cap(editBuf) > keep {
		editBuf = nil
	}
	c.req.Reset()
	c.ex.Response.Reset()
	c.g, c.ctx, c.table, c.product, c.sub, c.hold = nil, nil, nil, nil, nil, nil
	c.path, c.query, c.body, c.who, c.route = nil, nil, nil, principal{}, route{}
	c.llm, c.bodyRead, c.decoded, c.resolved, c.noted = false, false, false, false, false
	c.incomplete, c.clientGone, c.escaped = false, false, false
	c.family, c.upload, c.pay, c.usage = familyOther, upload{}, payload{}, report{}
	c.textRunes, c.bytesOut = 0, 0
	c.sent, c.firstByte = time.Time{}, time.Time{}
	charges := c.rec.Charges[:0]
	c.rec = usage.Record{Charges: charges}
	c.stream = relay{}
	c.bodyBuf, c.editBuf, c.target = bodyBuf, editBuf, target[:0]
}

func (c *call) idString() string { return string(c.idText[:]) }

// serve takes the request through to its answer. A refusal with a reason is an
// answer the gateway has to make itself; nothing was written yet then.
func (c *call) serve() refusal {
	c.path, c.query = splitTarget(c.ctx)
	c.route, c.llm = splitLLM(c.path)
	if len(c.path) <= len("/healthz") && c.health() {
		return refusal{}
	}
	if c.table == nil {
		return refusal{reason: ReasonNotReady}
	}
	if c.g.draining.Load() {
		return refusal{reason: ReasonDraining}
	}
	if err := apisign.CheckPath(c.path); err != nil {
		return refusal{reason: ReasonMalformed, detail: err.Error()}
	}
	if m := c.ctx.Method(); string(m) == "TRACE" || string(m) == "CONNECT" {
		return refusal{reason: ReasonMethod}
	}
	if c.llm {
		return c.serveLLM()
	}
	return c.serveAPI()
}

// health answers /healthz and /readyz (design section 5); it reports whether
// the path was one of them.
func (c *call) health() bool {
	resp := &c.ctx.Response
	switch string(c.path) {
	case "/healthz":
		resp.SetBodyString("ok\n")
	case "/readyz":
		if err := c.g.Ready(); err != nil {
			resp.SetStatusCode(fasthttp.StatusServiceUnavailable)
			resp.SetBodyString(err.Error() + "\n")
		} else {
			resp.SetBodyString("ready\n")
		}
	default:
		return false
	}
	resp.Header.SetContentType("text/plain; charset=utf-8")
	resp.Header.Set("Cache-Control", "no-store")
	resp.Header.SetBytesV("X-Request-Id", c.idText[:])
	c.discardBody()
	return true
}

// serveAPI serves a call to an API product: by signature or AppCode.
func (c *call) serveAPI() refusal {
	p := c.table.matchPath(c.ctx.Host(), c.path)
	if p == nil {
		return refusal{reason: ReasonNoRoute}
	}
	c.product = p
	if !p.allowsMethod(c.ctx.Method()) {
		return refusal{reason: ReasonMethod}
	}
	who, ref := c.authenticateApp(p, func() ([]byte, refusal) { return c.readBody(c.g.cfg.MaxSignedBody) })
	if ref.reason != ReasonNone {
		return ref
	}
	c.who = who
	if !who.app.bound[p.ID] {
		return refusal{reason: ReasonNotBound}
	}
	if ref := c.takeBody(); ref.reason != ReasonNone {
		return ref
	}
	return c.admitAndForward()
}

// serveLLM serves a call to an LLM product: by API key (AUTH-14).
func (c *call) serveLLM() refusal {
	who, ref := c.authenticateKey()
	if ref.reason != ReasonNone {
		return ref
	}
	c.who = who
	post := c.ctx.IsPost()
	c.family = familyOf(c.route.rest)
	if len(c.route.infer) > 0 {
		p := c.table.infer[string(c.route.infer)]
		if p == nil {
			return refusal{reason: ReasonNoRoute, detail: "There is no service with this id. Check the base URL: /v1/infers/{id}/v1."}
		}
		c.product = p
		if !who.mayCall(p) {
			return refusal{reason: ReasonNotSubscribed}
		}
		if c.route.rest == nil {
			return refusal{reason: ReasonNoRoute, detail: "The base URL of this service ends in /v1: /v1/infers/{id}/v1."}
		}
	}
	if c.family == familyModels && (c.ctx.IsGet() || c.ctx.IsHead()) {
		return c.listModels()
	}
	if post && c.family.takesModel() {
		if ref := c.readPayload(); ref.reason != ReasonNone {
			return ref
		}
		if c.pay.model == "" {
			return refusal{reason: ReasonModelMissing, param: "model"}
		}
		if ref := c.resolveModel(); ref.reason != ReasonNone {
			return ref
		}
		ask := c.pay.stream && c.family.takesStreamOptions()
		out := c.pay.rewrite(c.editBuf[:0], c.body, c.product.models[c.pay.model], ask)
		if len(out) != len(c.body) || len(out) > 0 && &out[0] != &c.body[0] {
			c.editBuf, c.body = out, out
		}
	} else {
		if c.product == nil {
			// Nothing in the request names a product: the key must leave no choice.
			candidates := c.who.products()
			if len(candidates) != 1 {
				return refusal{reason: ReasonModelMissing, detail: "This path names no model, and the key may call several services or none: address one at /v1/infers/{id}/v1."}
			}
			c.product = candidates[0]
		}
		if ref := c.takeBody(); ref.reason != ReasonNone {
			return ref
		}
	}
	return c.admitAndForward()
}

// readPayload reads and parses the JSON body of an LLM request, unpacking it
// when the client compressed it: what cannot be read cannot be metered.
func (c *call) readPayload() refusal {
	if _, ref := c.readBody(c.g.cfg.MaxBody); ref.reason != ReasonNone {
		return ref
	}
	if coding := c.ctx.Request.Header.Peek(fasthttp.HeaderContentEncoding); len(coding) > 0 && !equalFold(coding, "identity") {
		r, err := newDecoder(string(coding), &byteReader{b: c.body})
		if err != nil {
			return refusal{reason: ReasonBadRequest, detail: err.Error() + ": send the body plain or as gzip, deflate, br or zstd"}
		}
		plain, err := readAll(nil, r, c.g.cfg.MaxBody)
		switch {
		case errors.Is(err, errTooLarge):
			return refusal{reason: ReasonBodyTooLarge}
		case err != nil:
			return refusal{reason: ReasonBadRequest, detail: "the request body does not unpack as its Content-Encoding says"}
		}
		c.body, c.decoded = plain, true
	}
	pay, param, err := parsePayload(c.body)
	if err != nil {
		return refusal{reason: ReasonBadRequest, detail: err.Error(), param: param} // LLM-27
	}
	c.pay = pay
	return refusal{}
}

// resolveModel checks the model against the addressed product, or finds the
// product the key may call under that name; of several the earliest subscribed.
func (c *call) resolveModel() refusal {
	unknown := refusal{reason: ReasonModelUnknown, param: "model",
		detail: "The model `" + c.pay.model + "` does not exist or you do not have access to it."}
	if c.product != nil {
		if _, ok := c.product.models[c.pay.model]; !ok {
			return unknown
		}
		return refusal{}
	}
	for _, p := range c.who.account.llm {
		if _, ok := p.models[c.pay.model]; ok && c.who.mayCall(p) {
			c.product = p
			return refusal{}
		}
	}
	return unknown
}

// mayCall reports whether the API key's account has a subscription for p and
// the key's allow-list admits it (KEY-8).
func (w *principal) mayCall(p *product) bool {
	return len(w.account.subs[p.ID]) > 0 && (w.key.allow == nil || w.key.allow[p.ID])
}

// products lists the LLM products the key may call.
func (w *principal) products() []*product {
	var out []*product
	for _, p := range w.account.llm {
		if w.mayCall(p) {
			out = append(out, p)
		}
	}
	return out
}

// listModels answers GET …/models and …/models/{model} with what the key may
// use (LLM-4). It is the gateway's own answer and costs nothing.
func (c *call) listModels() refusal {
	products := []*product{c.product}
	if c.product == nil {
		products = c.who.products()
	}
	resp := &c.ctx.Response
	if name := c.route.rest[len("/models"):]; len(name) > 1 {
		model := string(fasthttp.AppendUnquotedArg(nil, name[1:]))
		for _, p := range products {
			if _, ok := p.models[model]; ok {
				resp.SetBody(appendModel(nil, model, p.Seller))
				return c.answerLocally()
			}
		}
		return refusal{reason: ReasonModelUnknown, param: "model",
			detail: "The model `" + model + "` does not exist or you do not have access to it."}
	}
	body := []byte(`{"object":"list","data":[`)
	seen := make(map[string]bool)
	for _, p := range products {
		for _, m := range p.Models {
			if seen[m.Name] {
				continue
			}
			if len(seen) > 0 {
				body = append(body, ',')
			}
			seen[m.Name] = true
			body = appendModel(body, m.Name, p.Seller)
		}
	}
	resp.SetBody(append(body, "]}"...))
	return c.answerLocally()
}

func (c *call) answerLocally() refusal {
	resp := &c.ctx.Response
	resp.Header.SetContentType("application/json")
	resp.Header.SetBytesV("X-Request-Id", c.idText[:])
	c.discardBody()
	c.note(resp.StatusCode())
	return refusal{}
}

// admitAndForward holds the call's estimate on the first of the caller's
// subscriptions that can give it, then forwards the call.
func (c *call) admitAndForward() refusal {
	subs := c.who.account.subs[c.product.ID]
	if len(subs) == 0 {
		return refusal{reason: ReasonNotSubscribed}
	}
	est := c.estimate()
	ref := refusal{reason: ReasonFrozen}
	for _, s := range subs {
		if s.State == directory.SubscriptionFrozen {
			continue
		}
		hold, err := c.g.admitter.Admit(s.ID, s.Units, est, c.start)
		if err == nil {
			c.sub, c.hold = s, hold
			return c.forward()
		}
		switch {
		case errors.Is(err, ErrExhausted):
			if ref.reason == ReasonFrozen {
				ref.reason = ReasonExhausted
			}
		default:
			if !errors.Is(err, ErrUnavailable) {
				c.g.log.Error("admit a call", "request_id", c.idString(), "subscription", s.ID, "error", err)
			}
			ref.reason = ReasonQuotaUnavailable
		}
		c.sub = s
	}
	return ref
}

// forward sends the call to the least loaded upstream, and to another where
// none of the request can have been processed yet, then relays the answer.
func (c *call) forward() refusal {
	defer c.ensureResolved()
	var tried uint64
	reason := ReasonNoBackend
	for range min(len(c.product.upstream), 64) {
		t, i := pick(c.product.upstream, tried)
		tried |= 1 << i
		c.buildRequest(t)
		c.sent = c.g.now()
		err := c.ex.Do(t.Target, &c.req, c.interim, c.upload.failure)
		if err == nil {
			return c.relay()
		}
		var ue *upstream.Error
		if !errors.As(err, &ue) {
			return refusal{reason: ReasonUpstream}
		}
		c.g.log.Debug("upstream", "request_id", c.idString(), "product", c.product.ID, "error", err)
		switch {
		case ue.Op == upstream.OpClient && errors.Is(ue.Err, errTooLarge):
			return refusal{reason: ReasonBodyTooLarge}
		case ue.Op == upstream.OpClient:
			return refusal{reason: ReasonMalformed, detail: "the request body broke off"}
		case ue.Op == upstream.OpConnect:
			reason = ReasonConnect
			if c.upload.n > 0 {
				return refusal{reason: reason}
			}
			continue // nothing was sent: another upstream may take it
		case ue.Timeout():
			return refusal{reason: ReasonUpstreamTimeout}
		default:
			return refusal{reason: ReasonUpstream}
		}
	}
	return refusal{reason: reason}
}

// pick returns the upstream with the fewest calls under way for its weight,
// among those not tried yet.
func pick(targets []*target, tried uint64) (*target, int) {
	best, at := int64(-1), 0
	for i, t := range targets {
		if i < 64 && tried&(1<<i) != 0 {
			continue
		}
		load := (t.InFlight() + 1) << 20 / int64(max(t.weight, 1))
		if best < 0 || load < best {
			best, at = load, i
		}
	}
	return targets[at], at
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
		c.hold.Release()
	}
}

// abandon resolves everything after a panic. The hold is given back: whether
// the call would have counted is not known, and the client gets an error.
func (c *call) abandon() {
	c.escaped = false
	defer func() {
		// A second panic here would take the process down.
		if r := recover(); r != nil {
			c.g.log.Error("panic while a call was abandoned", "request_id", c.idString())
		}
	}()
	c.ensureResolved()
}

// refuse writes the gateway's own answer.
func (c *call) refuse(ref refusal) {
	status := c.g.writeRefusal(c.ctx, ref, c.llm, c.idText[:])
	c.discardBody()
	c.g.metrics.rejected[ref.reason].Inc()
	c.note(status)
	forwarded := !c.sent.IsZero()
	if c.who.account != nil && (forwarded && c.g.cfg.RecordFailed || !forwarded && c.g.cfg.RecordRefused) {
		c.fillRecord(status, c.g.now())
		c.rec.Reason = ref.reason.String()
		c.g.recorder.Note(&c.rec)
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
