package gateway

import (
	"bytes"
	"errors"
	"net/url"

	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"

	"tollgate/gateway/upstream"
	"tollgate/internal/usage"
)

// A realtime session is a WebSocket through the gateway. What it costs is told
// by its answers: each response.done is one counted call with a record of its
// own, settled before the event goes on to the client. A hold for the next one
// is open all the time, so that a package that runs dry ends the session with
// an error event and a close frame instead of being overdrawn.

// keyProtocol is how browsers, which cannot set headers, send the API key.
const keyProtocol = "openai-insecure-api-key."

// protocolKey returns the API key among the subprotocols of an upgrade.
func protocolKey(h *fasthttp.RequestHeader) (key []byte, ok bool) {
	options(h.Peek(fasthttp.HeaderSecWebSocketProtocol), func(o []byte) {
		if k, found := bytes.CutPrefix(o, []byte(keyProtocol)); found {
			key, ok = k, true
		}
	})
	return key, ok && len(key) > 0
}

// isUpgrade reports whether the request asks for a WebSocket.
func (c *call) isUpgrade() bool {
	h := &c.ctx.Request.Header
	asks := false
	for _, f := range c.fields {
		if f.kind == connection {
			options(f.value, func(o []byte) { asks = asks || equalFold(o, "upgrade") })
		}
	}
	return asks && c.ctx.IsGet() && equalFold(h.Peek(fasthttp.HeaderUpgrade), "websocket")
}

// serveRealtime opens a session. Everything else below /realtime would hand out
// keys or calls that go past the gateway, and is not served.
func (c *call) serveRealtime() refusal {
	h := &c.ctx.Request.Header
	switch {
	case string(lenient(c.route.rest)) != "/realtime":
		return refusal{reason: ReasonNoRoute, detail: "Only the WebSocket of the realtime API is served here, at /v1/realtime?model=…: ephemeral keys would go past the metering."}
	case !c.isUpgrade():
		return refusal{reason: ReasonBadRequest, detail: "The realtime API is a WebSocket: send an upgrade request."}
	case string(h.Peek("Sec-WebSocket-Version")) != "13" || len(h.Peek("Sec-WebSocket-Key")) != 24:
		return refusal{reason: ReasonBadRequest, detail: "The WebSocket handshake needs Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key."}
	}
	query, err := url.ParseQuery(string(c.query))
	models := query["model"]
	switch {
	case err != nil || len(models) > 1:
		return refusal{reason: ReasonBadRequest, param: "model", detail: "model must stand once in the query"}
	case len(query["call_id"]) > 0:
		return refusal{reason: ReasonBadRequest, param: "call_id", detail: "call_id is not served: the call it joins does not go through here"}
	case len(models) == 1 && models[0] != "":
		c.pay.model = models[0]
		if ref := c.resolveModel(); ref.reason != ReasonNone {
			return ref
		}
	default:
		if ref := c.productWithoutModel(); ref.reason != ReasonNone {
			return ref
		}
	}
	key, ok := bearer(h)
	if !ok {
		key, _ = protocolKey(h)
	}
	c.keyHash = c.g.hashes(c.table).sum(key)
	c.makes, c.upgrade, c.bodyRead = true, true, true
	ref := c.admitAndForward()
	for len(c.others) > 0 && (ref.reason == ReasonExhausted || ref.reason == ReasonFrozen) {
		c.product, c.others = c.others[0], c.others[1:]
		ref = c.admitAndForward()
	}
	return ref
}

// openSession upgrades at an upstream and then at the client.
func (c *call) openSession() refusal {
	c.sent = c.g.now()
	p := c.product
	p.group.Called()
	reason := ReasonNoBackend
	for tried := uint64(0); ; {
		i, pass := p.group.Pick(tried, 0)
		if i < 0 {
			return refusal{reason: reason}
		}
		tried |= 1 << i
		t := p.upstream[i]
		c.buildUpgrade(t)
		up, err := t.Tunnel(&c.req)
		pass.Drop() // a session says nothing of how other calls would go
		var failed *upstream.Error
		switch {
		case errors.As(err, &failed) && failed.Op == upstream.OpConnect:
			reason = ReasonConnect
			continue
		case errors.As(err, &failed) && failed.Timeout():
			return refusal{reason: ReasonUpstreamTimeout}
		case err != nil:
			return refusal{reason: ReasonUpstream}
		}
		if up.Header.StatusCode() != fasthttp.StatusSwitchingProtocols {
			return c.refusedUpgrade(up)
		}
		return c.startSession(up)
	}
}

// refusedUpgrade answers with what the upstream answered instead of switching.
// It made nothing, so nothing is charged.
func (c *call) refusedUpgrade(up *upstream.Tunnel) refusal {
	status := up.Header.StatusCode()
	if status < 400 {
		return refusal{reason: ReasonUpstream} // a WebSocket cannot be answered like that
	}
	resp := &c.ctx.Response
	resp.SetStatusCode(status)
	resp.Header.SetContentTypeBytes(up.Header.ContentType())
	resp.Header.SetBytesV("X-Request-Id", c.idText[:])
	resp.SetBody(up.Refusal)
	c.ex.Response.SetStatusCode(status)
	if err := c.settle(); err != nil {
		return c.unrecorded()
	}
	c.note(status)
	return refusal{}
}

// buildUpgrade makes the upgrade request for t: the client's own, without what
// is between it and the gateway. Extensions are not agreed on, since compressed
// messages could not be read.
func (c *call) buildUpgrade(t *target) {
	var protocols []byte
	for i := range c.fields {
		switch f := &c.fields[i]; {
		case sameField(f.name, "sec-websocket-extensions"):
			f.kind = hopByHop
		case sameField(f.name, "sec-websocket-protocol"):
			f.kind = hopByHop
			options(f.value, func(o []byte) {
				if !bytes.HasPrefix(o, []byte(keyProtocol)) {
					if len(protocols) > 0 {
						protocols = append(protocols, ", "...)
					}
					protocols = append(protocols, o...)
				}
			})
		}
	}
	c.buildRequest(t)
	h := c.req.Header
	h = appendField(h, "Sec-WebSocket-Protocol: ", protocols)
	h = append(h, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	c.head, c.req.Header = h, h
	if name := c.upstreamModel(t); c.pay.model != "" && name != c.pay.model {
		query, err := url.ParseQuery(string(c.query))
		if err == nil {
			query.Set("model", name)
			path, _, _ := bytes.Cut(c.req.Target, []byte{'?'})
			c.target = append(append(bytes.Clone(path), '?'), query.Encode()...)
			c.req.Target = c.target
		}
	}
}

// realtimeUsage reads the usage of an event that ends an answer: of a response,
// or of a transcription that was made beside it.
func realtimeUsage(event []byte) (kind string, rep report) {
	kind = gjson.GetBytes(event, "type").Str
	switch kind {
	case "response.done", "conversation.item.input_audio_transcription.completed":
		rep, _ = findUsage(event)
	}
	return kind, rep
}

// refresh looks the credential and the subscription up again: a key that was
// revoked, or a subscription frozen, during a session ends it at its next
// answer.
func (c *call) refresh() refusal {
	t := c.g.table.Load()
	k := t.keyOf(c.keyHash)
	if k == nil || k.id != c.who.cred {
		return refusal{reason: ReasonBadAPIKey}
	}
	for _, s := range k.account.subs[c.product.ID] {
		if s.ID == c.sub.ID {
			c.sub = s
			return refusal{}
		}
	}
	return refusal{reason: ReasonNotSubscribed}
}

// errorObject is the error of a row as events of the realtime API carry it.
func errorObject(w *row) []byte {
	b := append([]byte(`{"type":"`), w.llmType...)
	b = append(append(append(b, `","code":"`...), w.llmCode...), `","message":`...)
	b = gjson.AppendJSONString(b, w.text())
	return append(b, `,"param":null,"event_id":null}`...)
}

// settleAnswer charges one answer of the session on its hold.
func (c *call) settleAnswer(rep report, calls int64) error {
	now := c.g.now()
	c.usage = rep
	c.fillRecord(fasthttp.StatusOK, now)
	c.rec.Flags |= usage.Counted | usage.Streamed
	_, c.rec.Rule = judge(c.sub.Mode, fasthttp.StatusOK, now, c.g.cfg.PerCallSwitch)
	c.rec.Units[usage.Call] = calls
	c.rec.Basis = usage.BasisUpstream
	switch {
	case rep.found:
		rep.fill(&c.rec)
	case !metersTokens(c.sub.Units):
	case c.counts():
		c.rec.Basis = c.countTokens()
	default:
		c.rec.Basis = usage.BasisFloor
	}
	c.measure()
	if err := c.charge(); err != nil {
		c.g.metrics.failures.Inc()
		c.g.log.Error("record an answer of a session", "request_id", c.idString(), "subscription", c.sub.ID, "error", err)
		return err
	}
	for i := range c.rec.Charges {
		ch := &c.rec.Charges[i]
		c.g.metrics.units[ch.Unit][c.rec.Basis].Add(float64(ch.Amount))
	}
	return nil
}
