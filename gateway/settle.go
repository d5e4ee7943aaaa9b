package gateway

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/valyala/fasthttp"

	"tollgate/internal/receipt"
	"tollgate/internal/usage"
)

// fillRecord sets what is known of the call whatever came of it.
func (c *call) fillRecord(status int, finished time.Time) {
	r := &c.rec
	r.ID, r.Time, r.Finished = c.id, c.start.UTC().Truncate(time.Millisecond), finished.UTC().Truncate(time.Millisecond)
	r.Node, r.Region, r.Status, r.Auth = c.g.cfg.Node, c.g.cfg.Region, status, c.who.auth
	r.Credential = c.who.cred
	if c.who.account != nil {
		r.Account = c.who.account.id
	}
	if c.who.app != nil {
		r.Application = c.who.app.id
	}
	if c.sub != nil {
		r.Subscription = c.sub.ID
	}
	if c.product != nil {
		r.Product = c.product.ID
		r.API = c.product.Path
		if c.llm {
			r.API = familyNames[c.family]
		}
	}
	r.Model = c.pay.model
	r.Attempts = int64(c.ex.Attempts)
	if c.pay.stream || c.stream.events {
		r.Flags |= usage.Streamed
	}
	if c.incomplete {
		r.Flags |= usage.Incomplete
	}
	if c.clientGone {
		r.Flags |= usage.ClientGone
	}
	r.Total = finished.Sub(c.start)
	if !c.sent.IsZero() {
		r.Upstream = finished.Sub(c.sent)
	}
	if !c.firstByte.IsZero() {
		r.FirstByte = c.firstByte.Sub(c.start)
	}
	r.BytesIn, r.BytesOut = int64(len(c.body))+c.upload.n, c.bytesOut+int64(c.stream.pending)
}

// settle judges the call by the upstream's status and resolves its hold, once.
// When it returns nil the call is recorded, or does not count. On an error
// nothing was charged and the answer must not be completed.
func (c *call) settle() error {
	if c.resolved {
		return nil
	}
	c.resolved = true
	now := c.g.now()
	status := c.ex.Response.StatusCode()
	counted, rule := judge(c.sub.Mode, status, now, c.g.cfg.PerCallSwitch)
	c.fillRecord(status, now)
	c.rec.Rule = rule
	if !counted {
		c.release()
		if c.g.cfg.RecordFailed {
			c.rec.Reason = "status"
			c.keep()
		}
		return nil
	}
	c.rec.Flags |= usage.Counted
	c.rec.Units[usage.Call] = 1
	c.rec.Basis = usage.BasisUpstream
	switch {
	case c.llm && !c.makes:
		// An answer that was made, and charged, before is read again.
	case c.dry:
		// The gateway ended it: the upstream's last word did not come.
		c.rec.Units = c.usedSoFar()
		c.rec.Units[usage.Call] = 1
		c.rec.Basis = usage.BasisCounted
	case c.usage.found:
		c.usage.fill(&c.rec)
	case !c.llm || !metersTokens(c.sub.Units):
	case c.clientGone && c.product.OnDisconnect == onDisconnectCancel:
		c.countTokens()
		c.rec.Basis = usage.BasisCounted // what was relayed is what was used
	case c.product.BillEstimates:
		c.rec.Basis = c.countTokens()
	default:
		// LLM-37: the call is counted, its tokens are not known as a fact.
		c.rec.Basis = usage.BasisFloor
	}
	c.measure()
	if c.rec.Basis == usage.BasisFloor && c.makes && !c.usage.found && c.rec.Units == (usage.Units{usage.Call: 1}) && slices.ContainsFunc(c.sub.Units, tokenUnit) {
		c.tellTokens()
	}
	if err := c.charge(); err != nil {
		c.g.metrics.failures.Inc()
		c.g.log.Error("record a call", "request_id", c.idString(), "subscription", c.sub.ID, "error", err)
		return err
	}
	for i := range c.rec.Charges {
		ch := &c.rec.Charges[i]
		c.g.metrics.units[ch.Unit][c.rec.Basis].Add(float64(ch.Amount))
	}
	return nil
}

// errSettlePanic says that the hold's Settle panicked.
var errSettlePanic = errors.New("gateway: settling the call panicked")

// The three below are called on goroutines and at moments where nothing else
// would stop a panic of what the gateway was given from taking the process down.

// charge settles the hold. A panic in there is an error like others, and the
// hold is released, which does nothing if it was charged.
func (c *call) charge() (err error) {
	defer func() {
		if c.caught("settle a call", recover()) {
			c.release()
			err = errSettlePanic
		}
	}()
	return c.hold.Settle(&c.rec)
}

// release gives the hold back.
func (c *call) release() {
	defer func() { c.caught("release a hold", recover()) }()
	c.hold.Release()
}

// free ends the hold, which its owner may use again: nothing here touches it any
// more. A call that panicked keeps its hold to itself.
func (c *call) free() {
	if c.hold == nil || !c.resolved {
		return
	}
	h := c.hold
	c.hold = nil
	defer func() { c.caught("free a hold", recover()) }()
	h.Free()
}

// keep hands an uncharged record to the recorder.
func (c *call) keep() {
	defer func() { c.caught("note a record", recover()) }()
	c.g.recorder.Note(&c.rec)
}

// caught reports whether there was a panic, after counting and logging it.
func (c *call) caught(doing string, panicked any) bool {
	if panicked == nil {
		return false
	}
	c.g.metrics.panics.Inc()
	c.g.log.Error("panic", "doing", doing, "request_id", c.idString(), "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
	return true
}

func metersTokens(units []usage.Unit) bool {
	for _, u := range units {
		if u != usage.Call {
			return true
		}
	}
	return false
}

// onDisconnectCancel is the product's choice to close the upstream when the
// client leaves, and to bill what was counted until then.
const onDisconnectCancel = "cancel"

// setCharged writes X-Tollgate-Charged: "call=1", or "token=46;basis=upstream",
// and the receipt where the account wants one. Call it after settle.
func (c *call) setCharged(h *fasthttp.ResponseHeader) {
	if !c.rec.Has(usage.Counted) {
		return
	}
	var v [64]byte
	out := v[:0]
	for _, u := range c.sub.Units {
		if n := c.rec.Charged(u) + c.rec.Overrun[u]; n > 0 || u != usage.Call {
			if len(out) > 0 {
				out = append(out, ',')
			}
			out = append(append(out, u.String()...), '=')
			out = fasthttp.AppendUint(out, int(n))
		}
	}
	if metersTokens(c.sub.Units) {
		out = append(append(out, ";basis="...), c.rec.Basis.String()...)
	}
	h.SetBytesV("X-Tollgate-Charged", out)
	if key := c.sub.account.receipts; key != nil {
		// The record is what the journal holds, so this receipt and the one made
		// of the usage row are the same text.
		var text [512]byte
		h.SetBytesV(receipt.Header, key.Append(text[:0], &c.rec))
	}
}

// note writes the metrics of an answered request, once.
func (c *call) note(status int) {
	if c.noted {
		return
	}
	c.noted = true
	if c.grant.Held() {
		c.endLimits(c.g.now())
	}
	m := c.g.metrics.none
	if c.product != nil {
		m = c.product.metrics
	}
	f := c.family
	if !c.llm {
		f = 0
	}
	m.countRequest(f, c.who.auth, status)
	a := m.api(f)
	now := c.g.now()
	total := now.Sub(c.start)
	a.duration.Observe(seconds(total))
	if c.seen != nil {
		c.tell(status, now)
	}
	if c.sent.IsZero() {
		a.overhead.Observe(seconds(total))
		return
	}
	up := now.Sub(c.sent)
	if !c.rec.Finished.IsZero() && c.rec.Upstream > 0 && c.rec.Upstream < up {
		up = c.rec.Upstream
	}
	a.upstream.Observe(seconds(up))
	a.overhead.Observe(seconds(total - up))
	if !c.firstByte.IsZero() {
		a.firstByte.Observe(seconds(c.firstByte.Sub(c.start)))
	}
	if c.llm {
		a.aiTotal.Observe(seconds(total))
		if c.stream.events && !c.firstByte.IsZero() {
			a.aiFirst.Observe(seconds(c.firstByte.Sub(c.start)))
		}
		if c.usage.found {
			a.aiInput.Observe(float64(max(c.usage.input, 0)))
			a.aiOutput.Observe(float64(max(c.usage.output, 0)))
		}
	}
}
