package gateway

import (
	"errors"
	"math/rand/v2"
	"time"

	"tollgate/gateway/upstream"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// admitAndForward holds the call's estimate on the first of the caller's
// subscriptions that can give it, then forwards the call.
func (c *call) admitAndForward() refusal {
	subs := c.who.account.subs[c.product.ID]
	if len(subs) == 0 {
		return refusal{reason: ReasonNotSubscribed}
	}
	if ref := c.checkLists(); ref.reason != ReasonNone {
		return ref
	}
	est := c.estimate()
	taken := c.grant.Claims()
	ref := refusal{reason: ReasonFrozen}
	for _, s := range subs {
		if s.State == directory.SubscriptionFrozen {
			continue
		}
		if lref := c.checkLimits(s, est[usage.Token]); lref.reason != ReasonNone {
			ref, c.sub = lref, s
			continue
		}
		hold, err := c.g.admitter.Admit(s.ID, s.Units, est, c.start)
		if err == nil {
			c.sub, c.hold = s, hold
			return c.forward()
		}
		c.grant.Keep(c.start, taken)
		switch {
		case errors.Is(err, ErrExhausted):
			if ref.reason == ReasonFrozen {
				ref = refusal{reason: ReasonExhausted}
			}
		case errors.Is(err, ErrHeld):
			if ref.reason != ReasonQuotaUnavailable {
				ref = refusal{reason: ReasonHeld}
			}
		default:
			if !errors.Is(err, ErrUnavailable) {
				c.g.log.Error("admit a call", "request_id", c.idString(), "subscription", s.ID, "error", err)
			}
			ref = refusal{reason: ReasonQuotaUnavailable}
		}
		c.sub = s
	}
	return ref
}

// forward sends the call to an upstream, and to another where none of the
// request can have been processed yet, then relays the answer.
func (c *call) forward() refusal {
	defer c.ensureResolved()
	reason := ReasonNoBackend
	var tried uint64
	for {
		t := pick(c.product.upstream, &tried, c.g.now())
		if t == nil {
			return refusal{reason: reason}
		}
		c.buildRequest(t)
		c.sent = c.g.now()
		err := c.ex.Do(t.Target, &c.req, c.interim)
		if err == nil {
			return c.relay()
		}
		var failed *upstream.Error
		if !errors.As(err, &failed) {
			return refusal{reason: ReasonUpstream}
		}
		c.g.log.Debug("upstream", "request_id", c.idString(), "product", c.product.ID, "error", err)
		switch {
		case failed.Op == upstream.OpClient && errors.Is(failed.Err, errTooLarge):
			return refusal{reason: ReasonBodyTooLarge}
		case failed.Op == upstream.OpClient:
			return c.brokenBody(failed.Err)
		case failed.Op == upstream.OpConnect:
			reason = ReasonConnect // nothing was sent: another upstream may take it
		case failed.Timeout():
			return refusal{reason: ReasonUpstreamTimeout}
		default:
			return refusal{reason: ReasonUpstream}
		}
	}
}

// maxTargets bounds how many upstreams of a product one call tries.
const maxTargets = 64

// pick returns an upstream that was not tried yet and whose breaker admits the
// call, and marks it tried; nil when there is none. Of two drawn by weight it
// takes the one with fewer calls under way, which spreads by weight when there
// is little to do and by load when there is much.
func pick(targets []*target, tried *uint64, now time.Time) *target {
	targets = targets[:min(len(targets), maxTargets)]
	if len(targets) == 1 {
		if *tried != 0 || !targets[0].Admits(now) {
			return nil
		}
		*tried = 1
		return targets[0]
	}
	for {
		i := draw(targets, *tried)
		if i < 0 {
			return nil
		}
		if j := draw(targets, *tried); targets[j].load() < targets[i].load() {
			i = j
		}
		*tried |= 1 << i
		if targets[i].Admits(now) {
			return targets[i]
		}
	}
}

// draw returns the index of an untried target, each with a chance by its
// weight; -1 when there is none.
func draw(targets []*target, tried uint64) int {
	total := 0
	for i, t := range targets {
		if tried&(1<<i) == 0 {
			total += t.weight
		}
	}
	if total == 0 {
		return -1
	}
	n := rand.IntN(total)
	for i, t := range targets {
		if tried&(1<<i) != 0 {
			continue
		}
		if n -= t.weight; n < 0 {
			return i
		}
	}
	return -1 // cannot be: n was below the sum of the weights
}

// load is the number of calls under way, for the target's weight.
func (t *target) load() int64 { return t.InFlight() << 16 / int64(t.weight) }
