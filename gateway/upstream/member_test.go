package upstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// group makes a group of n members that nobody dials.
func group(t testing.TB, cfg GroupConfig, weights ...int) *Group {
	t.Helper()
	g := NewGroup(cfg)
	for i, w := range weights {
		target, err := NewTarget(fmt.Sprintf("http://127.0.0.1:1/%d", i), Config{})
		if err != nil {
			t.Fatal(err)
		}
		g.Add(target, w)
	}
	return g
}

// outcome is how a test's call goes.
type outcome int

const (
	good       outcome = iota
	refused            // no answer
	serverErr          // 500
	clientErr          // 404
	cut                // 200, and its body breaks off
	abandoned          // the client leaves before an answer
	leftStream         // the client leaves within the answer
)

// finish tells a pass how its call went, as an exchange does.
func (p *Pass) finish(o outcome) {
	switch o {
	case good:
		p.header(200)
		p.succeeded()
	case refused:
		p.failed(false)
	case serverErr:
		p.header(500)
		p.succeeded() // its body ended
	case clientErr:
		p.header(404)
		p.succeeded()
	case cut:
		p.header(200)
		p.failed(true)
	case abandoned, leftStream:
		if o == leftStream {
			p.header(200)
		}
		p.dropped()
	}
	*p = Pass{}
}

// TestBreaker follows one breaker through its states on a clock of the test's.
func TestBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := group(t, GroupConfig{BreakerFailures: 3, BreakerOpen: time.Second, BreakerTrials: 2}, 1)
		m := g.Members()[0]
		call := func(o outcome) {
			t.Helper()
			i, p := g.Pick(0, 0)
			if i != 0 {
				t.Fatalf("no call was let through in state %v", m.State())
			}
			p.finish(o)
		}
		state := func(want State) {
			t.Helper()
			if got := m.State(); got != want {
				t.Fatalf("state %v, want %v", got, want)
			}
		}
		blocked := func() {
			t.Helper()
			if i, p := g.Pick(0, 0); i >= 0 {
				p.Drop()
				t.Fatalf("a call went through in state %v", m.State())
			}
		}
		// Only what fails in a row opens it; 4xx and clients that leave are no
		// failures.
		for range 4 {
			call(cut)
			call(refused)
			call(good)
		}
		for range 10 {
			call(clientErr)
			call(abandoned)
			call(leftStream)
		}
		state(Closed)
		call(refused)
		call(abandoned) // tells nothing
		call(refused)
		state(Closed)
		_, late := g.Pick(0, 0)
		_, later := g.Pick(0, 0)
		call(refused)
		state(Open)
		late.finish(refused) // it began before
		state(Open)
		blocked()
		time.Sleep(time.Second)
		blocked() // gobreaker waits a moment more than its time
		time.Sleep(time.Nanosecond)
		// Two trials at once, no third.
		_, a := g.Pick(0, 0)
		_, b := g.Pick(0, 0)
		state(HalfOpen)
		blocked()
		later.finish(abandoned) // began in another state: decides nothing
		state(HalfOpen)
		a.finish(abandoned) // gives its place back
		_, c := g.Pick(0, 0)
		blocked()
		b.finish(good)
		state(HalfOpen)
		c.finish(refused)
		state(Open)
		time.Sleep(time.Second + 1)
		_, a = g.Pick(0, 0)
		_, b = g.Pick(0, 0)
		a.header(200) // a stream: its header is enough
		state(HalfOpen)
		b.header(200)
		state(Closed)
		// What breaks after the header of a trial counts in the new state.
		a.failed(false)
		call(refused)
		state(Closed)
		call(refused)
		state(Open)
		b.succeeded() // out of date
		state(Open)
	})
}

// TestBreakerLastResort: a product's only upstream keeps its calls while it
// answers, whatever it answers; it loses them when it cannot be reached.
func TestBreakerLastResort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := group(t, GroupConfig{}, 1)
		for i := range 50 {
			n, p := g.Pick(0, 0)
			if n != 0 {
				t.Fatalf("call %d was refused", i)
			}
			p.finish(serverErr)
		}
		if s := g.Members()[0].Status(); s.State != Open || s.Available || s.Failures != 50 || s.Calls != 50 {
			t.Errorf("%+v", s)
		}
		// With another that is well, it gets none.
		g = group(t, GroupConfig{NoOutlier: true}, 1, 1)
		bad := g.Members()[0]
		for range 100 {
			n, p := g.Pick(0, 0)
			if n == 0 && bad.State() == Open {
				t.Fatal("an open breaker let a call through although another member is well")
			}
			p.finish([]outcome{serverErr, good}[n])
		}
		if bad.State() != Open {
			t.Error("the breaker did not open")
		}
	})
}

// TestBreakerOff: without a breaker nothing blocks.
func TestBreakerOff(t *testing.T) {
	t.Parallel()
	g := group(t, GroupConfig{NoBreaker: true}, 1)
	for range 50 {
		i, p := g.Pick(0, 0)
		if i != 0 {
			t.Fatal("blocked")
		}
		p.finish(refused)
	}
}

// TestEjection: who fails a share of its calls rests, longer each time, never
// more of them than allowed and never all.
func TestEjection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := GroupConfig{NoBreaker: true, OutlierCalls: 10, OutlierRest: time.Second, OutlierMaxRest: 3 * time.Second}
		g := group(t, cfg, 1, 1, 1, 1)
		drive := func(m *Member, n int, o outcome) {
			for range n {
				p, _ := m.admit()
				p.finish(o)
			}
		}
		resting := func() (n int) {
			for _, m := range g.Members() {
				if m.Status().Ejected {
					n++
				}
			}
			return n
		}
		m := g.Members()
		drive(m[0], 9, refused)
		if resting() != 0 {
			t.Fatal("judged on too few calls")
		}
		drive(m[0], 1, refused)
		if resting() != 1 || m[0].available() {
			t.Fatal("not ejected")
		}
		// One failure in three is less than half.
		for range 30 {
			drive(m[1], 2, good)
			drive(m[1], 1, serverErr)
		}
		if resting() != 1 {
			t.Error("ejected below the share")
		}
		time.Sleep(11 * time.Second) // a new window, and the first rest is over
		if resting() != 0 || !m[0].available() {
			t.Fatal("the rest does not end")
		}
		for _, x := range m {
			drive(x, 50, serverErr)
		}
		if resting() != 2 {
			t.Errorf("%d of 4 rest, want half", resting())
		}
		// Each rest is longer while they follow soon.
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
			g := group(t, cfg, 1, 1)
			_ = g
			x := m[3]
			if want == time.Second {
				time.Sleep(time.Minute)
			}
			drive(x, 10, refused)
			from := time.Now()
			for x.Status().Ejected {
				time.Sleep(50 * time.Millisecond)
			}
			if d := time.Since(from); d < want || d > want+100*time.Millisecond {
				t.Errorf("it rested %v, want %v", d, want)
			}
		}
		alone := group(t, cfg, 1)
		drive(alone.Members()[0], 100, refused)
		if !alone.Members()[0].available() {
			t.Error("the only member was ejected")
		}
		all := group(t, GroupConfig{NoBreaker: true, OutlierMax: 100}, 1, 1, 1)
		for _, x := range all.Members() {
			drive(x, 100, refused)
		}
		if i, p := all.Pick(0, 0); i != 2 {
			t.Errorf("picked %d, want the one that must not rest", i)
			p.Drop()
		}
	})
}

// TestActiveAndRest: checks take a member out and bring it back by their
// thresholds, all of them out leaves all in; Retry-After rests one.
func TestActiveAndRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := group(t, GroupConfig{}, 1, 1)
		m := g.Members()
		only := func(want int) {
			t.Helper()
			for range 50 {
				i, p := g.Pick(0, 0)
				p.finish(good)
				if i != want {
					t.Fatalf("picked %d, want %d", i, want)
				}
			}
		}
		m[0].SetHealthy(false)
		m[0].SetHealthy(false)
		m[0].SetHealthy(true)
		m[0].SetHealthy(false)
		m[0].SetHealthy(false)
		if !m[0].available() {
			t.Error("out although not in a row")
		}
		m[0].SetHealthy(false)
		only(1)
		m[0].SetHealthy(true)
		only(1)
		m[0].SetHealthy(true)
		if !m[0].available() {
			t.Error("not back")
		}
		for range 3 {
			m[0].SetHealthy(false)
			m[1].SetHealthy(false)
		}
		seen := map[int]bool{}
		for range 100 {
			i, p := g.Pick(0, 0)
			p.finish(good)
			seen[i] = true
		}
		if !seen[0] || !seen[1] {
			t.Errorf("with all unhealthy the calls went to %v", seen)
		}
		for range 2 {
			m[0].SetHealthy(true)
			m[1].SetHealthy(true)
		}
		m[1].Rest(time.Second)
		only(0)
		time.Sleep(time.Second)
		if !m[1].available() {
			t.Error("the rest does not end")
		}
		alone := group(t, GroupConfig{}, 1)
		alone.Members()[0].Rest(time.Hour)
		if !alone.Members()[0].available() {
			t.Error("the only member rests")
		}
	})
}

// TestBudget: retries stay within the share of calls, the minimum and what was
// saved.
func TestBudget(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	var b budget
	b.init(20, 10, now)
	n := 0
	for b.withdraw(now) {
		n++
	}
	if n != 10 {
		t.Errorf("%d retries at the start, want 10", n)
	}
	for range 100 {
		b.deposit()
	}
	for n = 0; b.withdraw(now); n++ {
	}
	if n != 20 {
		t.Errorf("%d retries for 100 calls, want 20", n)
	}
	for n = 0; n < 1000 && b.withdraw(now.Add(time.Second)); n++ {
	}
	if n != 10 {
		t.Errorf("%d retries in a second without calls, want 10", n)
	}
	for range 100_000 {
		b.deposit()
	}
	for n = 0; n < 1000 && b.withdraw(now.Add(time.Hour)); n++ {
	}
	if n < 110 || n > 111 {
		t.Errorf("%d retries were saved, want 110", n)
	}
}
