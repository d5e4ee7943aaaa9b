package gateway

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
	"github.com/valyala/fasthttp"

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
	if ref, answered := c.recall(); answered || ref.reason != ReasonNone {
		return ref
	}
	est := c.estimate()
	taken := c.grant.Claims()
	ref := refusal{reason: ReasonFrozen}
	for _, s := range subs {
		if s.State == directory.SubscriptionFrozen {
			continue
		}
		if c.llm && !c.price(s) {
			if ref.reason == ReasonFrozen {
				ref = c.notPriced(s)
			}
			continue
		}
		if c.llm && c.refuseBackground(s) {
			return refusal{reason: ReasonBadRequest, param: backgroundParam, detail: backgroundParam + " cannot be true: what is made behind the call cannot be charged to a package that counts more than calls"}
		}
		if lref := c.checkLimits(s, est[usage.Token]); lref.reason != ReasonNone {
			ref, c.sub = lref, s
			continue
		}
		hold, err := c.g.admitter.Admit(s.ID, s.Units, est, c.start)
		if err == nil {
			c.sub, c.hold = s, hold
			c.beginTally()
			return c.forward()
		}
		c.grant.Keep(c.start, taken)
		switch {
		case errors.Is(err, ErrExhausted):
			if ref.reason == ReasonFrozen || ref.reason == ReasonNotPriced {
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

// forward sends the call to an upstream and relays its answer. It sends it
// again only while nothing of an answer went to the client: to another upstream
// where the first could not be connected to, was busy, or broke a call that may
// be repeated; also to the same one after an answer that the product says is
// worth it. Whatever it takes, the call has one hold, one record, one charge.
func (c *call) forward() refusal {
	defer c.ensureResolved()
	if c.upgrade {
		return c.openSession()
	}
	p := c.product
	c.sent = c.g.now()
	c.req.Total, c.ex.Begun = p.retry.total, time.Time{}
	p.group.Called()
	key := c.affinityKey()
	reason := ReasonNoBackend
	i, pass := p.group.Pick(0, key)
	for tried, attempt := uint64(0), 1; i >= 0; attempt++ {
		tried |= 1 << i
		t := p.upstream[i]
		c.ex.Pass = pass
		c.editFor(t)
		c.buildRequest(t)
		c.req.Repeatable = p.retry.post == postAlways || p.retry.post == postWithKey && c.hasIdempotencyKey()
		err := c.ex.Do(t.Target, &c.req, c.interim)
		if err == nil {
			if len(p.retry.statuses) > 0 && attempt < p.retry.attempts {
				if i, pass = c.afterAnswer(t, tried, key, attempt); i >= 0 {
					continue
				}
			}
			return c.relay()
		}
		var failed *upstream.Error
		if !errors.As(err, &failed) {
			return refusal{reason: ReasonUpstream}
		}
		c.g.log.Debug("upstream", "request_id", c.idString(), "product", p.ID, "upstream", t.id, "attempt", attempt, "error", err)
		sent := true
		switch {
		case failed.Op == upstream.OpClient && errors.Is(failed.Err, errTooLarge):
			return refusal{reason: ReasonBodyTooLarge}
		case failed.Op == upstream.OpClient:
			return c.brokenBody(failed.Err)
		case failed.Op == upstream.OpBusy:
			reason, sent = ReasonUpstreamBusy, false
			attempt-- // nobody was asked
		case failed.Timeout():
			reason, sent = ReasonUpstreamTimeout, failed.Op != upstream.OpConnect
		case failed.Op == upstream.OpConnect:
			reason, sent = ReasonConnect, false
		default:
			reason = ReasonUpstream
		}
		if attempt >= p.retry.attempts || sent && !(c.mayRepeat() && (p.retry.timeouts || !failed.Timeout())) {
			return refusal{reason: reason}
		}
		i, pass = p.group.Pick(tried, key)
		if i < 0 || !sent {
			continue
		}
		c.ex.Pass = pass // so that it is given back whatever happens
		if !p.group.MayRetry() {
			p.retries.denied.Add(1)
			break
		}
		p.retries.made.Add(1)
		if !c.pause(p.retry.wait(attempt)) {
			break
		}
	}
	if reason == ReasonNoBackend && p.group.Full() {
		reason = ReasonUpstreamBusy
	}
	return refusal{reason: reason}
}

// afterAnswer decides whether an answer is passed over for another attempt, and
// returns the member for that; -1 says that the answer is the client's.
func (c *call) afterAnswer(t *target, tried, key uint64, attempt int) (int, upstream.Pass) {
	p := c.product
	status := c.ex.Response.StatusCode()
	if !slices.Contains(p.retry.statuses, status) || !c.mayRepeat() {
		return -1, upstream.Pass{}
	}
	wait := p.retry.wait(attempt)
	asked := retryAfter(c.ex.Response.Header.Peek(fasthttp.HeaderRetryAfter), c.g.now())
	if asked > 0 {
		t.Rest(min(asked, p.retry.maxRetryAfter))
	}
	i, pass := p.group.Pick(tried, key)
	if i < 0 {
		// The others were tried: the same once more, when it says so itself soon.
		if asked > p.retry.maxRetryAfter {
			return -1, upstream.Pass{}
		}
		wait = max(wait, asked)
		if i, pass = p.group.Pick(0, key); i < 0 {
			return -1, upstream.Pass{}
		}
	}
	if !c.hasTime(wait) || !p.group.MayRetry() {
		p.retries.denied.Add(1)
		pass.Drop()
		return -1, upstream.Pass{}
	}
	p.retries.made.Add(1)
	c.ex.Skip()
	c.ex.Pass = pass
	if !c.pause(wait) {
		return -1, upstream.Pass{} // cannot be: it was looked at above
	}
	return i, pass
}

// mayRepeat reports whether the call may be sent again after it was sent: its
// method or the product allows it, its body is here, and the client has seen
// nothing.
func (c *call) mayRepeat() bool {
	return !c.early && c.upload.r.r == nil && (c.req.Repeatable || upstream.Idempotent(c.req.Method))
}

func (c *call) hasIdempotencyKey() bool {
	return len(c.ctx.Request.Header.Peek("Idempotency-Key")) > 0
}

// hasTime reports whether the call's time goes on beyond a wait of d. The times
// of upstreams are the machine's own.
func (c *call) hasTime(d time.Duration) bool { return c.req.Total-time.Since(c.ex.Begun) > d }

// pause waits for d; it reports false when the call's time is over before.
func (c *call) pause(d time.Duration) bool {
	if !c.hasTime(d) {
		return false
	}
	if d > 0 {
		timer := time.NewTimer(d)
		<-timer.C
	}
	return true
}

// retry is a product's policy, with the defaults filled in.
type retry struct {
	attempts      int
	statuses      []int
	post          string
	timeouts      bool
	backoff       time.Duration
	maxBackoff    time.Duration
	maxRetryAfter time.Duration
	total         time.Duration
}

// Values of TrafficRetry.Post.
const (
	postWithKey = "with_key"
	postAlways  = "always"
)

func newRetry(t *directory.Traffic, total time.Duration) retry {
	r := &t.Retry
	return retry{
		attempts: directory.Or(r.Attempts, 3), statuses: r.Statuses, post: r.Post, timeouts: r.Timeouts,
		backoff:       directory.Millis(r.Backoff, 25*time.Millisecond),
		maxBackoff:    directory.Millis(r.MaxBackoff, time.Second),
		maxRetryAfter: directory.Millis(r.MaxRetryAfter, 2*time.Second),
		total:         directory.Millis(t.Timeouts.Total, total),
	}
}

// wait is how long to wait after the given attempt: a random part of a time
// that doubles, so that calls that failed together do not come back together.
func (r *retry) wait(attempt int) time.Duration {
	return time.Duration(rand.Int64N(int64(min(r.backoff<<min(attempt-1, 20), r.maxBackoff)) + 1))
}

// retryAfter reads a Retry-After field: seconds or a date. 0: there is none.
func retryAfter(v []byte, now time.Time) time.Duration {
	if len(v) == 0 {
		return 0
	}
	const most = 24 * time.Hour
	if n, err := strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64); err == nil {
		return min(time.Duration(min(max(n, 0), int64(most/time.Second)))*time.Second, most)
	}
	if at, err := http.ParseTime(string(v)); err == nil {
		return min(max(at.Sub(now), 0), most)
	}
	return 0
}

// affinityKey is what the call shares with those that belong to it, 0 when it
// belongs to none.
func (c *call) affinityKey() uint64 {
	a := &c.product.Traffic.Affinity
	var text []byte
	switch a.By {
	case "":
		return 0
	case directory.AffinityHeader:
		name := a.Header
		if name == "" {
			name = "X-Session-Id"
		}
		text = c.ctx.Request.Header.Peek(name)
	case directory.AffinityCredential:
		text = []byte(c.who.cred)
	case directory.AffinityUser:
		if c.pay.model != "" { // its body was parsed
			for _, r := range gjson.GetManyBytes(c.body, "prompt_cache_key", "user") {
				if r.Str != "" {
					text = []byte(r.Str)
					break
				}
			}
		}
	case directory.AffinityPrompt:
		if c.pay.model != "" {
			for _, name := range []string{"messages", "input", "prompt"} {
				if r := gjson.GetBytes(c.body, name); r.Exists() {
					text = []byte(r.Raw[:min(len(r.Raw), directory.Or(a.Prefix, 1024))])
					break
				}
			}
		}
	}
	if len(text) == 0 {
		return 0
	}
	return upstream.Key(text)
}

// editFor writes the model's name as t knows it into the body, where t knows it
// by another than the product says.
func (c *call) editFor(t *target) {
	switch {
	case !c.product.renames || c.pay.model == "":
	case c.spool != nil:
		c.editParts(t)
	case c.plain != nil:
		c.editPayloadFor(t)
	}
}
