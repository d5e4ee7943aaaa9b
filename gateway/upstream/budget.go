package upstream

import (
	"sync/atomic"
	"time"
)

// budget bounds the retries of a group to a share of its calls, so that an
// upstream that fails is not given a multiple of the calls that made it fail:
// whatever happens, retries ≤ share × calls + a second's minimum for each
// second + what was saved up.
type budget struct {
	tokens  atomic.Int64 // thousandths of a retry
	perCall int64
	perSec  int64
	most    int64
	filled  atomic.Int64 // Unix ns until which perSec was added
}

// savedRetries is how many retries calls can save up.
const savedRetries = 100

func (b *budget) init(percent float64, minPerSecond int, now time.Time) {
	b.perCall = int64(percent * 10)
	b.perSec = int64(minPerSecond) * 1000
	b.most = savedRetries*1000 + b.perSec
	b.tokens.Store(b.perSec)
	b.filled.Store(now.UnixNano())
}

// deposit is called for each call. While the budget is full, which it is while
// nothing fails, it only reads.
func (b *budget) deposit() {
	if b.tokens.Load() < b.most {
		b.tokens.Add(b.perCall)
	}
}

// withdraw reports whether one more retry may be made at now.
func (b *budget) withdraw(now time.Time) bool {
	at, last := now.UnixNano(), b.filled.Load()
	if more := float64(at-last) * float64(b.perSec) / 1e9; more >= 1000 && b.filled.CompareAndSwap(last, at) {
		for {
			t := b.tokens.Load()
			if t >= b.most || b.tokens.CompareAndSwap(t, min(t+int64(min(more, float64(b.most))), b.most)) {
				break
			}
		}
	}
	for {
		t := b.tokens.Load()
		if t < 1000 {
			return false
		}
		if b.tokens.CompareAndSwap(t, t-1000) {
			return true
		}
	}
}

// Called counts one call of the group.
func (g *Group) Called() { g.budget.deposit() }

// MayRetry reports whether one more retry stays within the group's budget, and
// takes it out of it.
func (g *Group) MayRetry() bool { return g.budget.withdraw(time.Now()) }
