package limit

import (
	"sync/atomic"
	"time"
)

// Rule bounds the calls of one key. A zero field does not limit.
type Rule struct {
	// RequestsPerSecond and RequestsPerMinute bound how many calls begin. Both
	// are buckets: that many may begin at once, and they come back evenly.
	RequestsPerSecond, RequestsPerMinute int64
	// TokensPerMinute bounds the tokens of LLM calls, in and out together.
	TokensPerMinute int64
	// Concurrency bounds the calls under way at once.
	Concurrency int64
}

// Zero reports whether r limits nothing.
func (r *Rule) Zero() bool { return *r == Rule{} }

// Over returns r with the fields it leaves open taken from base. A field below
// 0 lifts the limit that base has.
func (r Rule) Over(base Rule) Rule {
	pick := func(own, base int64) int64 {
		switch {
		case own > 0:
			return own
		case own < 0:
			return 0
		}
		return max(base, 0)
	}
	return Rule{
		RequestsPerSecond: pick(r.RequestsPerSecond, base.RequestsPerSecond),
		RequestsPerMinute: pick(r.RequestsPerMinute, base.RequestsPerMinute),
		TokensPerMinute:   pick(r.TokensPerMinute, base.TokensPerMinute),
		Concurrency:       pick(r.Concurrency, base.Concurrency),
	}
}

// Scope is what a key names.
type Scope uint8

// The scopes.
const (
	Address Scope = iota
	Credential
	Subscription
	Product
	numScopes
)

var scopeNames = [numScopes]string{"address", "credential", "subscription", "product"}

// String returns the scope's name, as messages have it.
func (s Scope) String() string {
	if s < numScopes {
		return scopeNames[s]
	}
	return "unknown"
}

// Kind is which bound of a rule was reached.
type Kind uint8

// The kinds. KindShare is no rule's: the node is busy, and the credential has
// more than its share of it.
const (
	KindNone Kind = iota
	KindRequests
	KindTokens
	KindConcurrency
	KindShare
)

// Refusal says why a call was not admitted.
type Refusal struct {
	Scope Scope
	Kind  Kind
	// Limit is the rule's figure, with the time it is for: a second or a minute,
	// 0 for concurrency.
	Limit int64
	Per   time.Duration
	// After is when the call would be admitted, if nobody else took from the
	// bucket. It is an estimate for concurrency, where nobody can know.
	After time.Duration
}

// Claim is one rule a call falls under, and the key it is counted by. Key is
// not kept: it may point into a request. Ref may be nil.
type Claim struct {
	Scope Scope
	Key   string
	Rule  *Rule
	Ref   *Ref
}

// Ref remembers where the state of a key is, beside whatever the key names. A
// Ref belongs to one scope and key.
type Ref struct{ entry atomic.Pointer[entry] }
