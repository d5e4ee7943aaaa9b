package upstream

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// State is the state of a member's breaker. Its number is the value of
// tollgate_breaker_state.
type State int32

// The states of a breaker, in gobreaker's order.
const (
	Closed   = State(gobreaker.StateClosed)   // it is given calls
	HalfOpen = State(gobreaker.StateHalfOpen) // trial calls decide whether it is back
	Open     = State(gobreaker.StateOpen)     // it is given none
)

// String names the state.
func (s State) String() string { return gobreaker.State(s).String() }

// What is wrong with a member, as bits of Member.trouble. A member with none of
// them is told from one load.
const (
	troubleBreaker   = 1 << iota // its breaker is not closed
	troubleEjected               // it rests because it failed a share of its calls
	troubleUnhealthy             // its active checks fail
	troubleResting               // it asked for a pause by Retry-After
)

// Member is an upstream of one product: a target, its weight, and what is known
// of its health. It is safe for concurrent use.
//
// The breaker is gobreaker's, in its two-step form. It hears of a call only
// where that can change its state: a closed breaker of failures, and of the
// success that ends a row of them; one that is not closed of its trials. So a
// call to a healthy member touches neither its mutex nor the allocator.
//
// What fails a member: no connection, a connection that broke or timed out
// before the answer or in it, and an answer from 500 on but 501 and 505. What
// does not: other answers, a client that left, a request whose body broke off.
type Member struct {
	*Target
	Weight int64

	group   *Group
	breaker *gobreaker.TwoStepCircuitBreaker[struct{}] // nil: off

	trouble atomic.Uint32
	state   atomic.Int32
	epoch   atomic.Uint32 // counts the changes of state
	failing atomic.Bool   // the breaker has a row of failures
	silent  atomic.Int32  // failures without an answer in a row

	openUntil    atomic.Int64 // Unix ns, of the clock of [time.Now] as gobreaker's
	ejectedUntil atomic.Int64
	restUntil    atomic.Int64

	calls    atomic.Int64 // attempts begun
	failures atomic.Int64 // attempts that failed

	// Guarded by group.mu.
	windowFrom   time.Time
	windowCalls  int64 // calls when the window began
	windowFailed int64
	ejections    int

	good, bad int // active checks in a row; the checker's own
}

// failure is what gobreaker is told of a failed call.
var (
	errFailed  = errors.New("the call failed")
	errDropped = errors.New("the call was dropped")
)

func newMember(g *Group, t *Target, weight int) *Member {
	m := &Member{Target: t, Weight: int64(max(weight, 1)), group: g}
	cfg := &g.cfg
	if cfg.NoBreaker {
		return m
	}
	failures := uint32(cfg.BreakerFailures)
	m.breaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:   uint32(cfg.BreakerTrials),
		Timeout:       cfg.BreakerOpen,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failures },
		IsExcluded:    func(err error) bool { return err == errDropped },
		OnStateChange: m.changed,
	})
	return m
}

// changed is called by the breaker, under its mutex.
func (m *Member) changed(_ string, _, to gobreaker.State) {
	if to == gobreaker.StateOpen {
		m.openUntil.Store(time.Now().Add(m.group.cfg.BreakerOpen).UnixNano())
	}
	m.epoch.Add(1)
	m.state.Store(int32(to))
	if to == gobreaker.StateClosed {
		m.failing.Store(false)
		m.clear(troubleBreaker)
	} else {
		m.set(troubleBreaker)
	}
}

func (m *Member) set(bit uint32)   { m.trouble.Or(bit) }
func (m *Member) clear(bit uint32) { m.trouble.And(^bit) }

// State is the state of the member's breaker.
func (m *Member) State() State { return State(m.state.Load()) }

// full reports whether the target has as many calls as it may.
func (m *Member) full() bool {
	limit := m.cfg.MaxConns
	return limit > 0 && m.InFlight() >= int64(limit)
}

// available reports whether the member should be given a call.
func (m *Member) available() bool {
	t := m.trouble.Load()
	return (t == 0 || m.availableAgain(t)) && !m.full()
}

// availableAgain looks whether what was wrong is over. The time is asked for
// here, where something is wrong, and nowhere else.
func (m *Member) availableAgain(t uint32) bool {
	if t&troubleUnhealthy != 0 {
		return false
	}
	now := time.Now().UnixNano()
	if t&troubleBreaker != 0 && m.State() == Open && now <= m.openUntil.Load() {
		return false
	}
	if t&troubleEjected != 0 {
		if now < m.ejectedUntil.Load() {
			return false
		}
		m.clear(troubleEjected)
	}
	if t&troubleResting != 0 {
		if now < m.restUntil.Load() {
			return false
		}
		m.clear(troubleResting)
	}
	return true
}

// reachable reports whether the member may be given a call although something
// is wrong, when nothing better is there: whatever it answers is for its caller
// then. One whose breaker was opened by failures without any answer, or that has
// too much to do, may not.
func (m *Member) reachable() bool {
	if m.full() {
		return false
	}
	return m.State() == Closed || m.silent.Load() < int32(m.group.cfg.BreakerFailures)
}

// Rest keeps calls from the member for d, because it asked for it, as long as
// there is another.
func (m *Member) Rest(d time.Duration) {
	if d > 0 && len(m.group.members) > 1 {
		m.restUntil.Store(time.Now().Add(d).UnixNano())
		m.set(troubleResting)
	}
}

// SetHealthy takes the outcome of one active check.
func (m *Member) SetHealthy(ok bool) {
	cfg := &m.group.cfg
	if ok {
		m.good, m.bad = m.good+1, 0
		if m.good >= cfg.HealthyAfter {
			m.clear(troubleUnhealthy)
		}
		return
	}
	m.good, m.bad = 0, m.bad+1
	if m.bad >= cfg.UnhealthyAfter {
		m.set(troubleUnhealthy)
	}
}

// Pass is the leave to make one attempt at a member, and the duty to tell how
// it went: by failed, answered and ended, or dropped. The zero value tells
// nobody.
type Pass struct {
	m     *Member
	epoch uint32
	done  func(error) // of a trial
}

// ofTrial is the epoch of a call that was a trial and succeeded in it.
const ofTrial = ^uint32(0)

// admit gives a pass, unless the breaker holds calls back.
func (m *Member) admit() (Pass, bool) {
	p := Pass{m: m, epoch: m.epoch.Load()}
	if m.breaker != nil && m.State() != Closed {
		done, err := m.breaker.Allow()
		if err != nil {
			return Pass{}, false
		}
		// It may have closed meanwhile; then this is a call like others.
		p.epoch, p.done = m.epoch.Load(), done
	}
	m.calls.Add(1)
	return p, true
}

// failed tells that the attempt failed; answer says that it failed by or after
// the header of an answer.
func (p *Pass) failed(answer bool) {
	m := p.m
	if m == nil {
		return
	}
	m.failures.Add(1)
	if !answer {
		m.silent.Add(1)
	}
	m.group.judge(m)
	p.tell(errFailed)
}

// succeeded tells that the upstream served the attempt.
func (p *Pass) succeeded() {
	if p.m != nil && (p.done != nil || p.m.failing.Load()) {
		p.tell(nil)
	}
}

// dropped tells that the attempt came to nothing for reasons that are not the
// upstream's.
func (p *Pass) dropped() {
	if p.m != nil && p.done != nil {
		p.tell(errDropped)
	}
}

// Drop gives back a pass that is not used.
func (p *Pass) Drop() {
	p.dropped()
	*p = Pass{}
}

// tell hands the outcome to the breaker. That of a call that began before the
// breaker last changed is out of date.
func (p *Pass) tell(err error) {
	m, done := p.m, p.done
	p.done = nil
	switch {
	case m.breaker == nil:
		return
	case done != nil: // gobreaker compares generations itself
	case m.State() != Closed || p.epoch != m.epoch.Load() && p.epoch != ofTrial:
		return
	default:
		var refused error
		if done, refused = m.breaker.Allow(); refused != nil {
			return
		}
		m.failing.Store(err != nil)
	}
	done(err)
}

// Failed reports whether an answer's status counts against its upstream.
func Failed(status int) bool { return status >= 500 && status != 501 && status != 505 }

// header tells what the answer's header said. A trial is decided by it, a
// stream may last; any other call when its body has ended.
func (p *Pass) header(status int) {
	if p.m != nil && p.m.silent.Load() != 0 {
		p.m.silent.Store(0)
	}
	switch {
	case Failed(status):
		p.failed(true)
		p.m = nil
	case p.done != nil:
		p.succeeded()
		p.epoch = ofTrial // a body that breaks counts in whatever comes of it
	}
}
