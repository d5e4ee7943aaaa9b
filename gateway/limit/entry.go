package limit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// bucket is one token bucket of a key.
type bucket struct {
	*rate.Limiter       // nil: no such limit
	limit         int64 // of the rule, whole cluster
	per           time.Duration
}

// newBucket returns the bucket of a limit for a node's share of it. What is in
// old stays, within the new size.
func newBucket(now time.Time, old bucket, limit int64, per time.Duration, share float64) bucket {
	if limit <= 0 {
		return bucket{}
	}
	b := bucket{Limiter: old.Limiter, limit: limit, per: per}
	rps := rate.Limit(float64(limit) * share / per.Seconds())
	size := part(limit, share)
	if b.Limiter == nil {
		b.Limiter = rate.NewLimiter(rps, size)
		return b
	}
	b.SetLimitAt(now, rps)
	b.SetBurstAt(now, size)
	return b
}

// part is the share of a limit in whole units: at least one, or a node could
// admit nothing at all.
func part(limit int64, share float64) int {
	return int(min(max(int64(float64(limit)*share+1e-9), 1), math.MaxInt32))
}

// take takes n from the bucket, or says how long it would have to wait.
func (b *bucket) take(now time.Time, n int) (wait time.Duration, ok bool) {
	if b.Limiter == nil || b.AllowN(now, n) {
		return 0, true
	}
	missing := float64(n) - b.TokensAt(now)
	return after(missing, b.Limit()), false
}

// back returns n to the bucket. The library lets a negative amount be taken and
// keeps the bucket within its size.
func (b *bucket) back(now time.Time, n int) {
	if b.Limiter != nil && n > 0 {
		b.AllowN(now, -n)
	}
}

// owe takes n more than was reserved, into debt where need be. The debt is at
// most the limit: a call that was far under-estimated delays the next ones by a
// minute, not by an hour.
func (b *bucket) owe(now time.Time, n int64) {
	if b.Limiter == nil || n <= 0 {
		return
	}
	b.ReserveN(now, int(min(n, int64(b.Burst()))))
}

// after is how long a bucket takes to gain n.
func after(n float64, per rate.Limit) time.Duration {
	if n <= 0 || per <= 0 {
		return 0
	}
	s := n / float64(per)
	if s > 3600 {
		return time.Hour
	}
	return time.Duration(s * float64(time.Second))
}

// force is what is in force for a key: a rule and the node's share of it. It is
// immutable but for what its limiters hold.
type force struct {
	rule   Rule
	share  float64
	most   int64 // calls at once on this node; 0: no limit
	second bucket
	minute bucket
	tokens bucket
}

// entry is the state of one key.
type entry struct {
	scope Scope
	key   string

	calls atomic.Int64 // calls under way; dead once the entry was forgotten
	seen  atomic.Int64 // when it was last asked, Unix nanoseconds, to a second
	asked atomic.Int64 // calls since the last exchange, refused ones too; in a cluster
	force atomic.Pointer[force]
	ref   atomic.Pointer[Ref] // where a pointer to the entry is kept
	mu    sync.Mutex          // serialises changes of force

	demand float64 // smoothed calls per exchange; the cluster's loop only
}

// dead is far below any number of calls.
const dead = -1 << 40

// configure puts a rule and a share into force; share 0 keeps the one in force.
func (e *entry) configure(now time.Time, r Rule, share float64) *force {
	e.mu.Lock()
	defer e.mu.Unlock()
	var old force
	if f := e.force.Load(); f != nil {
		if share == 0 {
			share = f.share
		}
		if f.rule == r && f.share == share {
			return f
		}
		old = *f
	}
	f := &force{
		rule: r, share: share,
		second: newBucket(now, old.second, r.RequestsPerSecond, time.Second, share),
		minute: newBucket(now, old.minute, r.RequestsPerMinute, time.Minute, share),
		tokens: newBucket(now, old.tokens, r.TokensPerMinute, time.Minute, share),
	}
	if r.Concurrency > 0 {
		f.most = int64(part(r.Concurrency, share))
	}
	e.force.Store(f)
	return f
}

// begin counts a call as under way, unless there are as many as may be. alive is
// false when the entry was forgotten meanwhile.
func (e *entry) begin(most int64) (ok, alive bool) {
	for {
		n := e.calls.Load()
		switch {
		case n < 0:
			return false, false
		case most > 0 && n >= most:
			return false, true
		case e.calls.CompareAndSwap(n, n+1):
			return true, true
		}
	}
}

// end takes a call off that begin counted.
func (e *entry) end() { e.calls.Add(-1) }

// take admits one call with n tokens, or takes nothing. The call was begun.
func (f *force) take(now time.Time, n int64) (reserved int, ref Refusal) {
	if wait, ok := f.second.take(now, 1); !ok {
		return 0, Refusal{Kind: KindRequests, Limit: f.second.limit, Per: time.Second, After: wait}
	}
	if wait, ok := f.minute.take(now, 1); !ok {
		f.second.back(now, 1)
		return 0, Refusal{Kind: KindRequests, Limit: f.minute.limit, Per: time.Minute, After: wait}
	}
	if f.tokens.Limiter != nil && n > 0 {
		// A call larger than the limit passes when the bucket is full: it could
		// never pass otherwise.
		reserved = int(min(n, int64(f.tokens.Burst())))
		if wait, ok := f.tokens.take(now, reserved); !ok {
			f.second.back(now, 1)
			f.minute.back(now, 1)
			return 0, Refusal{Kind: KindTokens, Limit: f.tokens.limit, Per: time.Minute, After: wait}
		}
	}
	return reserved, Refusal{}
}

// undo gives back what take took.
func (f *force) undo(now time.Time, reserved int) {
	f.second.back(now, 1)
	f.minute.back(now, 1)
	f.tokens.back(now, reserved)
}

// correct replaces the estimate by what was used.
func (f *force) correct(now time.Time, reserved, used int64) {
	switch {
	case f.tokens.Limiter == nil:
	case used < reserved:
		f.tokens.back(now, int(reserved-used))
	default:
		f.tokens.owe(now, used-reserved)
	}
}

// idleFor is how long a key must not have called before its state may be
// dropped: by then every bucket without a debt is full again.
const idleFor = 2 * time.Minute

// idle reports whether forgetting e changes nothing.
func (e *entry) idle(now time.Time) bool {
	if now.UnixNano()-e.seen.Load() < int64(idleFor) {
		return false
	}
	f := e.force.Load()
	return f.tokens.Limiter == nil || f.tokens.TokensAt(now) >= float64(f.tokens.Burst())-.5
}

// kill makes sure that no call begins on e any more; it fails while one runs.
func (e *entry) kill() bool {
	if !e.calls.CompareAndSwap(0, dead) {
		return false
	}
	if r := e.ref.Load(); r != nil {
		r.entry.CompareAndSwap(e, nil)
	}
	return true
}
