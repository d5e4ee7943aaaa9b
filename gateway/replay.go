package gateway

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/valyala/fasthttp"

	"tollgate/gateway/idempotency"
	"tollgate/internal/usage"
)

// IdempotencyConfig says what of answered calls is kept for repetitions.
type IdempotencyConfig struct {
	// Store keeps the answers; nil: the header passes through unread.
	Store idempotency.Store
	// MaxAnswer bounds an answer that is kept. A call with a larger one is not
	// protected. Default 1 MiB.
	MaxAnswer int
	// Timeout bounds each step with a store beyond the network. While that does
	// not answer, calls run as if they had no key. Default 500ms.
	Timeout time.Duration
}

// maxIdempotencyKey bounds a key, as Stripe does.
const maxIdempotencyKey = 255

// tape takes down the answer of a call with an idempotency key.
type tape struct {
	c      *call
	key    idempotency.Key
	print  idempotency.Print
	answer idempotency.Answer
	over   bool // too large to be kept
	done   bool
}

// recall looks the call up by its idempotency key. It reports whether the call
// was answered from there. Otherwise the call runs, and its answer is taken down.
func (c *call) recall() (ref refusal, answered bool) {
	cfg := &c.g.cfg.Idempotency
	if cfg.Store == nil || c.tape != nil || !c.ctx.IsPost() {
		return refusal{}, false
	}
	key := c.ctx.Request.Header.Peek("Idempotency-Key")
	if len(key) == 0 {
		return refusal{}, false
	}
	if len(key) > maxIdempotencyKey {
		return refusal{reason: ReasonBadRequest, detail: "Idempotency-Key is too long: use up to 255 characters, such as a UUID"}, false
	}
	if c.upload.r.r != nil { // the body was to be sent on as it comes
		c.upload = upload{}
		if _, ref := c.readBody(c.g.cfg.MaxBody); ref.reason != ReasonNone {
			return ref, false
		}
	}
	body := c.body
	if c.plain != nil {
		body = c.plain
	}
	owner := c.who.cred
	if c.who.app != nil {
		owner = c.who.app.id
	}
	t := &tape{c: c, key: idempotency.KeyOf(owner, c.ctx.Method(), c.ctx.Request.Header.RequestURI(), key), print: idempotency.PrintOf(body)}
	ctx, cancel := context.WithTimeout(context.Background(), cfg.Timeout)
	defer cancel()
	outcome, answer, err := cfg.Store.Begin(ctx, t.key, t.print, c.start)
	if err != nil {
		c.g.metrics.idempotencyFailures.Inc()
		c.g.log.Debug("idempotency key not looked up", "request_id", c.idString(), "error", err)
		return refusal{}, false
	}
	switch outcome {
	case idempotency.Running:
		return refusal{reason: ReasonKeyInUse}, false
	case idempotency.Mismatch:
		return refusal{reason: ReasonKeyReused}, false
	case idempotency.Replay:
		c.replay(answer)
		return refusal{}, true
	}
	c.tape = t
	return refusal{}, false
}

// replay answers the call with what it was answered before. It is recorded, not
// charged.
func (c *call) replay(a *idempotency.Answer) {
	resp := &c.ctx.Response
	resp.SetStatusCode(a.Status)
	for _, h := range a.Header {
		resp.Header.Add(h.Name, h.Value)
	}
	resp.Header.SetBytesV("X-Request-Id", c.idText[:])
	resp.Header.Set("Idempotency-Replayed", "true")
	resp.Header.Set("X-Tollgate-Original-Request-Id", a.RequestID)
	resp.SetBodyRaw(a.Body)
	c.bytesOut = int64(len(a.Body))
	c.discardBody()
	c.g.metrics.replays.Inc()
	c.note(a.Status)
	if c.g.cfg.RecordFailed {
		c.fillRecord(a.Status, c.g.now())
		c.rec.Reason = "replayed"
		c.keep()
	}
}

// notKept are the fields of an answer that belong to the one call or to its
// connection.
var notKept = [][]byte{
	[]byte("X-Request-Id"), []byte("Connection"), []byte("Content-Length"), []byte("Transfer-Encoding"),
	[]byte("Date"), []byte("Trailer"), []byte("Retry-After"),
}

// begin takes down the answer's head.
func (t *tape) begin(h *fasthttp.ResponseHeader) {
	t.answer.Status = h.StatusCode()
	for k, v := range h.All() {
		if len(k) > 12 && equalFold(k[:12], "x-ratelimit-") {
			continue
		}
		keep := true
		for _, n := range notKept {
			keep = keep && !bytes.EqualFold(n, k)
		}
		if keep {
			t.answer.Header = append(t.answer.Header, idempotency.Header{Name: string(k), Value: string(v)})
		}
	}
}

// add takes down bytes of the body.
func (t *tape) add(b []byte) {
	if t.over || t.done || len(b) == 0 {
		return
	}
	if len(t.answer.Body)+len(b) > t.c.g.cfg.Idempotency.MaxAnswer {
		t.over, t.answer.Body = true, nil
		return
	}
	t.answer.Body = append(t.answer.Body, b...)
}

// end keeps the answer if it is complete, and lets go of the key otherwise. It
// is called before the answer's last bytes leave; only the first call counts.
func (t *tape) end(complete bool) {
	if t.done {
		return
	}
	t.done = true
	c := t.c
	defer func() { c.caught("keep an answer", recover()) }()
	cfg := &c.g.cfg.Idempotency
	// The client may be gone; what it will ask for again is kept all the same.
	ctx, cancel := context.WithTimeout(context.Background(), cfg.Timeout)
	defer cancel()
	var err error
	if complete && !t.over && t.answer.Status >= 200 && t.answer.Status < 300 && c.rec.Has(usage.Counted) && !c.incomplete {
		t.answer.RequestID = c.idString()
		err = cfg.Store.Keep(ctx, t.key, t.print, &t.answer, c.g.now())
	} else {
		err = cfg.Store.Forget(ctx, t.key)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		c.g.metrics.idempotencyFailures.Inc()
		c.g.log.Debug("answer not kept for its idempotency key", "request_id", c.idString(), "error", err)
	}
}
