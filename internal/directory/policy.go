package directory

import (
	"fmt"
	"net/netip"
	"strings"
)

// Limits bound how fast, and how many at once, calls are admitted. 0 leaves a
// bound to the gateway's settings, below 0 lifts it.
type Limits struct {
	RequestsPerSecond int64 `json:"requests_per_second,omitempty"`
	RequestsPerMinute int64 `json:"requests_per_minute,omitempty"`
	TokensPerMinute   int64 `json:"tokens_per_minute,omitempty"`
	Concurrency       int64 `json:"concurrency,omitempty"`
}

// Policy is how much, and from where, something may be called: a product, a
// subscription, an application or an API key.
type Policy struct {
	Limits
	// Each limits each subscription of a product that has no limit of its own.
	Each Limits `json:"each,omitzero"`
	// Allow and Deny are networks in CIDR form, or addresses. What Deny names may
	// not call; where Allow names any, nothing else may.
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

// Zero reports whether p says nothing.
func (p *Policy) Zero() bool {
	return p.Limits == Limits{} && p.Each == Limits{} && len(p.Allow)+len(p.Deny) == 0
}

// ParseNetwork reads a network in CIDR form or a single address.
func ParseNetwork(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not a network: write it as in 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32", text)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network: write it as in 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32", text)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}
