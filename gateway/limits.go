package gateway

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/valyala/fasthttp"

	"tollgate/gateway/limit"
	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// LimitConfig holds the limits that no row of the directory sets, and the
// bounds of what is kept for limiting.
type LimitConfig struct {
	// Credential, Subscription and Product are the limits of each one that has
	// none of its own, field by field. Default none.
	Credential, Subscription, Product limit.Rule
	// Address limits each source address, an IPv6 one with its /64 network,
	// before anything else is looked at. Default none.
	Address limit.Rule
	// MaxCalls is how many calls the node serves at once; of them no credential
	// gets more than four fifths, or less where others want them too. 0: no bound.
	MaxCalls int64
	// Exchange is how often the nodes of a cluster move the shares of their limits.
	// Default 1s.
	Exchange time.Duration
	// MaxKeys bounds the keys whose state is kept. Default 1 << 20.
	MaxKeys int
}

// limited is what the table keeps of whom a rule limits.
type limited struct {
	rule  *limit.Rule // nil: nothing limits it
	ref   *limit.Ref
	lists *lists // nil: every address may call
}

// lists are the networks that may call and those that may not.
type lists struct{ allow, deny []netip.Prefix }

// admits reports whether an address may call. What is denied is denied, allowed
// or not; without an allow list everything else may.
func (l *lists) admits(a netip.Addr) bool {
	return !within(l.deny, a) && (len(l.allow) == 0 || within(l.allow, a))
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func ruleOf(l directory.Limits) limit.Rule {
	return limit.Rule{
		RequestsPerSecond: l.RequestsPerSecond, RequestsPerMinute: l.RequestsPerMinute,
		TokensPerMinute: l.TokensPerMinute, Concurrency: l.Concurrency,
	}
}

// compileLimits makes what the directory and the defaults say of one row. needed
// is set where the row is counted although nothing limits it.
func compileLimits(p *directory.Policy, base *limit.Rule, needed bool) (l limited, err error) {
	rule := base
	if p != nil {
		if p.Limits != (directory.Limits{}) {
			own := ruleOf(p.Limits).Over(*base)
			rule = &own
		}
		if l.lists, err = compileLists(p.Allow, p.Deny); err != nil {
			return l, err
		}
	}
	if needed || !rule.Zero() {
		l.rule, l.ref = rule, new(limit.Ref)
	}
	return l, nil
}

func compileLists(allow, deny []string) (*lists, error) {
	if len(allow)+len(deny) == 0 {
		return nil, nil
	}
	l := &lists{}
	for dst, texts := range map[*[]netip.Prefix][]string{&l.allow: allow, &l.deny: deny} {
		for _, text := range texts {
			p, err := directory.ParseNetwork(text)
			if err != nil {
				return nil, err
			}
			*dst = append(*dst, p)
		}
	}
	return l, nil
}

// checkAddress applies what depends on the source address alone.
func (c *call) checkAddress() refusal {
	cfg := &c.g.cfg
	if len(cfg.Allow)+len(cfg.Deny) > 0 {
		if l := (lists{cfg.Allow, cfg.Deny}); !l.admits(c.address()) {
			return refusal{reason: ReasonAddress}
		}
	}
	if cfg.Limits.Address.Zero() {
		return refusal{}
	}
	addr := c.address()
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr() // one subscriber has a whole network of them
		}
	}
	key := addr.As16()
	return c.limit([]limit.Claim{{Scope: limit.Address, Key: unsafe.String(&key[0], len(key)), Rule: &cfg.Limits.Address}}, 0)
}

// checkLists applies the address lists of the product and of the credential.
func (c *call) checkLists() refusal {
	if l := c.product.limits.lists; l != nil && !l.admits(c.address()) {
		return refusal{reason: ReasonAddress}
	}
	if l := c.who.limits; l != nil && l.lists != nil && !l.lists.admits(c.address()) {
		return refusal{reason: ReasonCredentialAddress}
	}
	return refusal{}
}

// checkLimits takes the call from the limits of its credential, its
// subscription and its product.
func (c *call) checkLimits(s *subscription, tokens int64) refusal {
	var claims [3]limit.Claim
	n := 0
	if l := c.who.limits; l != nil && l.rule != nil {
		key := c.who.cred
		if c.who.app != nil {
			key = c.who.app.id
		}
		claims[n] = limit.Claim{Scope: limit.Credential, Key: key, Rule: l.rule, Ref: l.ref}
		n++
	}
	if s.limits.rule != nil {
		claims[n] = limit.Claim{Scope: limit.Subscription, Key: s.ID, Rule: s.limits.rule, Ref: s.limits.ref}
		n++
	}
	if l := &c.product.limits; l.rule != nil {
		claims[n] = limit.Claim{Scope: limit.Product, Key: c.product.ID, Rule: l.rule, Ref: l.ref}
		n++
	}
	if n == 0 {
		return refusal{}
	}
	return c.limit(claims[:n], tokens)
}

func (c *call) limit(claims []limit.Claim, tokens int64) refusal {
	ref := c.g.limits.Take(&c.grant, c.start, claims, tokens)
	if ref.Kind == limit.KindNone {
		return refusal{}
	}
	refused := ref // what is pointed to is allocated, and most calls are not refused
	return refusal{reason: limitReasons[ref.Kind], detail: limitText(ref, c.llm), limited: &refused}
}

var limitReasons = [...]Reason{
	limit.KindRequests: ReasonRateRequests, limit.KindTokens: ReasonRateTokens,
	limit.KindConcurrency: ReasonConcurrency, limit.KindShare: ReasonBusy,
}

// limitText is the message of a refusal: OpenAI's for LLM products, the API
// gateway's otherwise.
func limitText(ref limit.Refusal, llm bool) string {
	per := map[time.Duration]string{time.Second: "sec", time.Minute: "min"}[ref.Per]
	again := ref.After.Round(time.Millisecond)
	if !llm {
		policy := map[limit.Scope]string{limit.Credential: "app", limit.Subscription: "subscription", limit.Product: "api", limit.Address: "ip"}[ref.Scope]
		switch ref.Kind {
		case limit.KindConcurrency:
			return fmt.Sprintf("The throttling threshold has been reached: policy %s over concurrency,limit:%d", policy, ref.Limit)
		case limit.KindShare:
			return ""
		}
		unit := map[time.Duration]string{time.Second: "1 second", time.Minute: "1 minute"}[ref.Per]
		return fmt.Sprintf("The throttling threshold has been reached: policy %s over ratelimit,limit:%d,time:%s", policy, ref.Limit, unit)
	}
	switch ref.Kind {
	case limit.KindRequests:
		return fmt.Sprintf("Rate limit reached for this %s on requests per %s: Limit %d. Please try again in %s.", ref.Scope, per, ref.Limit, again)
	case limit.KindTokens:
		return fmt.Sprintf("Rate limit reached for this %s on tokens per %s: Limit %d. Please try again in %s.", ref.Scope, per, ref.Limit, again)
	case limit.KindConcurrency:
		return fmt.Sprintf("Rate limit reached for this %s on calls at once: Limit %d. Please try again when one of them has ended.", ref.Scope, ref.Limit)
	}
	return ""
}

// endLimits ends what the call took of its limits: the tokens it used take the
// place of the estimate. A call that does not count keeps no tokens; one whose
// usage nobody knows keeps the estimate.
func (c *call) endLimits(now time.Time) {
	tokens := int64(0)
	if c.rec.Has(usage.Counted) {
		if tokens = c.rec.Units[usage.Token]; tokens == 0 {
			tokens = -1
		}
	}
	c.grant.End(now, tokens)
}

// The headers OpenAI sends, requests first.
var limitHeaders = [2][3]string{
	{"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
	{"X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"},
}

// setLimitHeaders tells what is left of the call's limits. The upstream's own
// figures are of the seller's account there, and go where ours come.
func (c *call) setLimitHeaders(h *fasthttp.ResponseHeader) {
	requests, tokens, r, t := c.grant.State(c.start)
	if !r && !t {
		return
	}
	for i, f := range [2]*limit.Figures{&requests, &tokens} {
		if i == 0 && r || i == 1 && t {
			setFigures(h, &limitHeaders[i], f)
			continue
		}
		for _, name := range limitHeaders[i] {
			h.Del(name)
		}
	}
}

func setFigures(h *fasthttp.ResponseHeader, names *[3]string, f *limit.Figures) {
	var b [24]byte
	h.SetBytesV(names[0], fasthttp.AppendUint(b[:0], int(f.Limit)))
	h.SetBytesV(names[1], fasthttp.AppendUint(b[:0], int(f.Remaining)))
	h.Set(names[2], f.Reset.Round(time.Millisecond).String())
}

// setRetry tells when a refused call would be admitted, in whole seconds and,
// for OpenAI's SDKs, which ask for it first, in milliseconds.
func setRetry(h *fasthttp.ResponseHeader, ref *limit.Refusal, llm bool) {
	var b [24]byte
	h.SetBytesV("Retry-After", fasthttp.AppendUint(b[:0], max(int((ref.After+time.Second-1)/time.Second), 1)))
	if !llm {
		return
	}
	h.SetBytesV("Retry-After-Ms", fasthttp.AppendUint(b[:0], max(int((ref.After+time.Millisecond-1)/time.Millisecond), 1)))
	f := limit.Figures{Limit: ref.Limit, Reset: ref.After}
	switch ref.Kind {
	case limit.KindRequests:
		setFigures(h, &limitHeaders[0], &f)
	case limit.KindTokens:
		setFigures(h, &limitHeaders[1], &f)
	}
}
