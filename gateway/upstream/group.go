package upstream

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"
)

// MaxMembers bounds the upstreams of one product.
const MaxMembers = 64

// GroupConfig says how calls are spread over the members of a group. Zero
// fields take the defaults.
type GroupConfig struct {
	// NoBreaker does without breakers. BreakerFailures in a row open one for
	// BreakerOpen; then BreakerTrials calls must succeed. Defaults 5, 1s, 1.
	NoBreaker       bool
	BreakerFailures int
	BreakerOpen     time.Duration
	BreakerTrials   int

	// NoOutlier never ejects. A member that failed OutlierShare percent of at
	// least OutlierCalls calls within OutlierWindow rests for OutlierRest,
	// doubled with each rest that follows soon up to OutlierMaxRest, while no
	// more than OutlierMax percent of the members rest, and never all. Defaults
	// 50, 20, 10s, 10s, 120s, 50.
	NoOutlier      bool
	OutlierShare   int
	OutlierCalls   int
	OutlierWindow  time.Duration
	OutlierRest    time.Duration
	OutlierMaxRest time.Duration
	OutlierMax     int

	// HealthyAfter good active checks bring a member back, UnhealthyAfter bad
	// ones take it out. Defaults 2, 3.
	HealthyAfter, UnhealthyAfter int

	// MaxLoad is the percentage of the average load above which affinity passes
	// a member over. Default 125.
	MaxLoad int

	// Retries are allowed for BudgetPercent of the calls, and BudgetMin a
	// second whatever the calls. Defaults 20, 10.
	BudgetPercent float64
	BudgetMin     int
}

func (c GroupConfig) withDefaults() GroupConfig {
	num := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	num(&c.BreakerFailures, 5)
	dur(&c.BreakerOpen, time.Second)
	num(&c.BreakerTrials, 1)
	num(&c.OutlierShare, 50)
	num(&c.OutlierCalls, 20)
	dur(&c.OutlierWindow, 10*time.Second)
	dur(&c.OutlierRest, 10*time.Second)
	dur(&c.OutlierMaxRest, 2*time.Minute)
	num(&c.OutlierMax, 50)
	num(&c.HealthyAfter, 2)
	num(&c.UnhealthyAfter, 3)
	num(&c.MaxLoad, 125)
	num(&c.BudgetMin, 10)
	if c.BudgetPercent <= 0 {
		c.BudgetPercent = 20
	}
	return c
}

// Group is the upstreams of one product. It is safe for concurrent use.
type Group struct {
	cfg     GroupConfig
	members []*Member
	budget  budget

	mu sync.Mutex // guards what the members' windows count
}

// NewGroup returns an empty group.
func NewGroup(cfg GroupConfig) *Group {
	g := &Group{cfg: cfg.withDefaults()}
	g.budget.init(g.cfg.BudgetPercent, g.cfg.BudgetMin, time.Now())
	return g
}

// Add adds a target. It must not be called once the group is in use, nor for
// more than MaxMembers targets.
func (g *Group) Add(t *Target, weight int) *Member {
	m := newMember(g, t, weight)
	g.members = append(g.members, m)
	return m
}

// Members are the group's members, in the order they were added.
func (g *Group) Members() []*Member { return g.members }

// Pick chooses the member for an attempt: its index, -1 when there is none, and
// the leave to use it. skip holds a bit for each member not to be chosen; key,
// unless it is 0, is what calls that belong together share.
//
// Of the members that are well it draws two by weight and takes the one with
// less to do for its weight. That spreads by weight when there is little to do
// and by load when there is much, without the herd that runs to one member
// when all gateways see the same least loaded one; it needs no state but the
// number of calls under way. Where no member is well it takes one that can be
// reached: a product is not switched off because of what its upstreams answer
// or a check says of all of them.
func (g *Group) Pick(skip, key uint64) (int, Pass) {
	if len(g.members) == 1 {
		m := g.members[0]
		if skip != 0 {
			return -1, Pass{}
		}
		if m.available() {
			if p, ok := m.admit(); ok {
				return 0, p
			}
		}
		return g.lastResort(skip, key)
	}
	var from uint64
	for i, m := range g.members {
		if skip&(1<<i) == 0 && m.available() {
			from |= 1 << i
		}
	}
	for from != 0 {
		i := g.choose(from, key)
		if p, ok := g.members[i].admit(); ok {
			return i, p
		}
		from &^= 1 << i // another call is its trial
	}
	return g.lastResort(skip, key)
}

func (g *Group) lastResort(skip, key uint64) (int, Pass) {
	var from uint64
	for i, m := range g.members {
		if skip&(1<<i) == 0 && m.reachable() {
			from |= 1 << i
		}
	}
	if from == 0 {
		return -1, Pass{}
	}
	i := g.choose(from, key)
	m := g.members[i]
	m.calls.Add(1)
	return i, Pass{m: m, epoch: m.epoch.Load()}
}

// Full reports whether some member has as many calls under way as it may.
func (g *Group) Full() bool {
	for _, m := range g.members {
		if m.full() {
			return true
		}
	}
	return false
}

// choose returns one of the members in from, which holds at least one.
func (g *Group) choose(from, key uint64) int {
	if from&(from-1) == 0 {
		return bits.TrailingZeros64(from)
	}
	if key != 0 {
		return g.rendezvous(from, key)
	}
	var total int64
	for i, m := range g.members {
		if from&(1<<i) != 0 {
			total += m.Weight
		}
	}
	i, j := g.draw(from, total), g.draw(from, total)
	a, b := g.members[i], g.members[j]
	if b.InFlight()*a.Weight < a.InFlight()*b.Weight {
		return j
	}
	return i
}

// draw returns a member of from, each with a chance by its weight.
func (g *Group) draw(from uint64, total int64) int {
	n := rand.Int64N(total)
	for i, m := range g.members {
		if from&(1<<i) == 0 {
			continue
		}
		if n -= m.Weight; n < 0 {
			return i
		}
	}
	return bits.TrailingZeros64(from) // cannot be: n was below the sum
}

// rendezvous returns the member of from that key belongs to: the one with the
// greatest hash of key and member, made to win by weight. A member that leaves
// moves only its own keys. One with more to do than MaxLoad percent of what its
// weight makes its share is passed over for the next, so that a hot key cannot
// drown it; if all were, the first would have to take it.
func (g *Group) rendezvous(from, key uint64) int {
	var load, weight int64
	for i, m := range g.members {
		if from&(1<<i) != 0 {
			load += m.InFlight()
			weight += m.Weight
		}
	}
	first, best := -1, -1
	firstScore, bestScore := math.Inf(-1), math.Inf(-1)
	for i, m := range g.members {
		if from&(1<<i) == 0 {
			continue
		}
		// -w/ln(u), u uniform in (0, 1): the greatest belongs to each by weight.
		u := (float64(mix(key^m.seed)>>11) + .5) / (1 << 53)
		score := -float64(m.Weight) / math.Log(u)
		if score > firstScore {
			first, firstScore = i, score
		}
		// Its share of the load with this call, rounded up.
		share := ((load+1)*m.Weight*int64(g.cfg.MaxLoad) + weight*100 - 1) / (weight * 100)
		if m.InFlight() < share && score > bestScore {
			best, bestScore = i, score
		}
	}
	if best >= 0 {
		return best
	}
	return first
}

// mix scrambles x (splitmix64's finaliser).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Key makes an affinity key of a text; it is never 0.
func Key(text []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range text {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return max(mix(h), 1)
}

// judge takes note of a failure of m and ejects it when it failed the share
// that the configuration says. Successes are not told: they are the calls that
// did not fail, counted anyway.
func (g *Group) judge(m *Member) {
	cfg := &g.cfg
	if cfg.NoOutlier || len(g.members) < 2 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if now.Sub(m.windowFrom) > cfg.OutlierWindow {
		m.windowFrom, m.windowCalls, m.windowFailed = now, m.calls.Load()-1, 0
	}
	m.windowFailed++
	calls := m.calls.Load() - m.windowCalls
	if calls < int64(cfg.OutlierCalls) || m.windowFailed*100 < calls*int64(cfg.OutlierShare) {
		return
	}
	resting := 0
	for _, o := range g.members {
		if now.UnixNano() < o.ejectedUntil.Load() {
			if o == m {
				return // a call that began before
			}
			resting++
		}
	}
	// At least one may rest, and one never does.
	most := min(max(len(g.members)*cfg.OutlierMax/100, 1), len(g.members)-1)
	if resting >= most {
		return
	}
	if now.Sub(time.Unix(0, m.ejectedUntil.Load())) > cfg.OutlierMaxRest {
		m.ejections = 0
	}
	rest := min(cfg.OutlierRest<<min(m.ejections, 20), cfg.OutlierMaxRest)
	m.ejections++
	m.windowFrom = time.Time{}
	m.ejectedUntil.Store(now.Add(rest).UnixNano())
	m.set(troubleEjected)
}

// Status is what is known of a member.
type Status struct {
	State     State
	Available bool // it is given calls
	Healthy   bool // by its active checks; true without
	Ejected   bool
	Resting   bool // it asked for a pause
	InFlight  int64
	Calls     int64
	Failures  int64
}

// Status returns what is known of m now.
func (m *Member) Status() Status {
	now := time.Now().UnixNano()
	return Status{
		State: m.State(), Available: m.available(), Healthy: m.trouble.Load()&troubleUnhealthy == 0,
		Ejected: now < m.ejectedUntil.Load(), Resting: now < m.restUntil.Load(),
		InFlight: m.InFlight(), Calls: m.calls.Load(), Failures: m.failures.Load(),
	}
}
