package gateway

import (
	"strconv"
	"time"

	"github.com/tidwall/gjson"

	"tollgate/gateway/trace"
	"tollgate/internal/usage"
)

// seen is what is remembered of a request's head for the access log and for
// traces, where either is on: the relay outlives the request.
type seen struct {
	method, path, agent, address, upstream string
	span                                   *trace.Span
}

// look remembers the head. Queries are left out: AppCodes may stand there.
func (c *call) look() {
	if c.g.access == nil && c.g.tracer == nil {
		return
	}
	h := &c.ctx.Request.Header
	s := &seen{method: string(h.Method()), path: string(c.path)}
	if c.g.tracer != nil {
		s.span = c.g.tracer.Start(string(h.Peek("Traceparent")), string(h.Peek("Tracestate")), c.start)
	}
	if c.g.access != nil {
		s.agent, s.address = string(h.UserAgent()), c.address().String()
	}
	c.seen = s
}

// appendTrace appends the trace context for the upstream in place of the
// client's.
func (c *call) appendTrace(h []byte, t *target) []byte {
	c.seen.upstream = string(t.Host())
	parent, state := c.seen.span.Send(c.g.now())
	h = append(append(append(h, "Traceparent: "...), parent...), "\r\n"...)
	if state != "" {
		h = append(append(append(h, "Tracestate: "...), state...), "\r\n"...)
	}
	return h
}

// traced reports whether the call has a span.
func (c *call) traced() bool { return c.seen != nil && c.seen.span != nil }

// tell writes the call's line in the access log and ends its spans.
func (c *call) tell(status int, now time.Time) {
	if c.g.access != nil {
		c.g.access.Write(c.appendAccess(c.g.access.Buffer(), status, now))
	}
	if c.seen.span == nil {
		return
	}
	t := trace.Call{
		Method: c.seen.method, Path: c.seen.path, RequestID: c.idString(), Status: status, Reason: c.refused,
		AuthKind: c.who.auth.String(), InputTokens: -1, OutputTokens: -1,
		Streamed: c.stream.events, Incomplete: c.incomplete, ClientGone: c.clientGone,
		Upstream: c.seen.upstream, FirstByte: c.firstByte, End: now,
	}
	if c.product != nil {
		t.Product = c.product.ID
	}
	if c.sub != nil {
		t.Subscription = c.sub.ID
	}
	if c.who.account != nil {
		t.Account = c.who.account.id
	}
	if c.llm && c.product != nil {
		t.Operation, t.Model = genAIOperation(familyNames[c.family]), c.pay.model
		if c.usage.found {
			t.InputTokens, t.OutputTokens = max(c.usage.input, 0), max(c.usage.output, 0)
		}
	}
	c.seen.span.End(&t)
}

// appendAccess appends the line of the access log: names and figures, never a
// credential, a query or a body.
func (c *call) appendAccess(b []byte, status int, now time.Time) []byte {
	text := func(name, v string) {
		if v != "" {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = gjson.AppendJSONString(b, v)
		}
	}
	number := func(name string, v int64) {
		b = append(append(append(b, `,"`...), name...), `":`...)
		b = strconv.AppendInt(b, v, 10)
	}
	b = append(b, `{"time":"`...)
	b = c.start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = append(append(append(b, `","request_id":"`...), c.idText[:]...), '"')
	text("method", c.seen.method)
	text("path", c.seen.path)
	number("status", int64(status))
	text("address", c.seen.address)
	text("auth", c.who.auth.String())
	text("credential", c.who.cred)
	if c.who.account != nil {
		text("account", c.who.account.id)
	}
	if c.sub != nil {
		text("subscription", c.sub.ID)
	}
	if c.product != nil {
		text("product", c.product.ID)
	}
	text("model", c.pay.model)
	text("reason", c.refused)
	number("bytes_in", int64(len(c.body))+c.upload.n)
	number("bytes_out", c.bytesOut)
	number("duration_us", now.Sub(c.start).Microseconds())
	if !c.sent.IsZero() {
		number("upstream_us", now.Sub(c.sent).Microseconds())
	}
	if !c.firstByte.IsZero() {
		number("first_byte_us", c.firstByte.Sub(c.start).Microseconds())
	}
	if c.rec.Has(usage.Counted) {
		for i := range c.rec.Charges {
			if ch := &c.rec.Charges[i]; i == 0 || c.rec.Charges[i-1].Unit != ch.Unit {
				number("charged_"+ch.Unit.String(), c.rec.Charged(ch.Unit))
			}
		}
	}
	if c.stream.events {
		b = append(b, `,"streamed":true`...)
	}
	if c.incomplete {
		b = append(b, `,"incomplete":true`...)
	}
	if c.clientGone {
		b = append(b, `,"client_gone":true`...)
	}
	text("user_agent", c.seen.agent)
	return append(b, '}', '\n')
}
