package upstream

import (
	"testing"
	"time"
)

// TestBreaker follows one breaker through its states on a clock of the test's.
func TestBreaker(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	var b breaker
	state := func(want State) {
		t.Helper()
		if got := State(b.state.Load()); got != want {
			t.Fatalf("state %d, want %d", got, want)
		}
	}
	for range breakerFailures - 1 {
		b.failed(now)
	}
	b.succeeded() // in a row is what counts
	for range breakerFailures - 1 {
		b.failed(now)
		state(Closed)
	}
	b.failed(now)
	state(Open)
	b.failed(now) // one that began before
	if b.admits(now) || b.admits(now.Add(breakerFirst-1)) {
		t.Error("an open breaker let a call through")
	}
	wait := breakerFirst
	for range 10 {
		now = now.Add(wait)
		if !b.admits(now) {
			t.Fatalf("no trial after %v", wait)
		}
		state(HalfOpen)
		if b.admits(now) {
			t.Error("two trials at once")
		}
		b.failed(now)
		state(Open)
		wait = min(2*wait, breakerMost)
		if b.admits(now.Add(wait - 1)) {
			t.Errorf("a trial before %v", wait)
		}
	}
	// A trial nobody decides does not block the target for ever.
	now = now.Add(wait)
	if !b.admits(now) || b.admits(now.Add(wait-1)) || !b.admits(now.Add(wait)) {
		t.Error("an undecided trial")
	}
	b.succeeded()
	state(Closed)
	for range breakerFailures {
		b.failed(now)
	}
	if b.admits(now.Add(breakerFirst-1)) || !b.admits(now.Add(breakerFirst)) {
		t.Error("the wait did not begin anew")
	}
}
