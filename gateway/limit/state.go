package limit

import "time"

// Figures are what x-ratelimit-* headers tell of one kind of limit.
type Figures struct {
	Limit     int64
	Remaining int64
	Reset     time.Duration // until nothing is used up any more
}

// State returns the figures of the tightest request and token limits that g was
// taken under, as the whole cluster's: what is left on this node, scaled up. It
// reports false where there is no such limit.
func (g *Grant) State(now time.Time) (requests, tokens Figures, limitsRequests, limitsTokens bool) {
	for i := range g.n {
		h := g.held[i].force
		for _, b := range [...]*bucket{&h.minute, &h.second} {
			if f, ok := b.figures(now); ok && (!limitsRequests || f.Remaining < requests.Remaining) {
				requests, limitsRequests = f, true
			}
		}
		if f, ok := h.tokens.figures(now); ok && (!limitsTokens || f.Remaining < tokens.Remaining) {
			tokens, limitsTokens = f, true
		}
	}
	return requests, tokens, limitsRequests, limitsTokens
}

func (b *bucket) figures(now time.Time) (Figures, bool) {
	if b.Limiter == nil {
		return Figures{}, false
	}
	left, size := b.TokensAt(now), float64(b.Burst())
	f := Figures{Limit: b.limit, Reset: after(size-left, b.Limit())}
	if left > 0 {
		f.Remaining = min(int64((left+1e-6)*float64(b.limit)/size), b.limit)
	}
	return f, true
}
