package limit

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func claim(scope Scope, key string, r Rule) []Claim { return []Claim{{scope, key, &r, nil}} }

func TestABucketAdmitsExactlyItsLimit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		rule Rule
		kind Kind
		wait time.Duration // of the first refusal
	}{
		{"per second", Rule{RequestsPerSecond: 5}, KindRequests, 200 * time.Millisecond},
		{"per minute", Rule{RequestsPerMinute: 5}, KindRequests, 12 * time.Second},
		{"tokens", Rule{TokensPerMinute: 50}, KindTokens, 12 * time.Second},
		{"concurrency", Rule{Concurrency: 5}, KindConcurrency, time.Second},
		{"the tighter of two", Rule{RequestsPerSecond: 5, RequestsPerMinute: 100}, KindRequests, 200 * time.Millisecond},
	} {
		tab := NewTable(Config{})
		for i := range 5 {
			var g Grant
			if ref := tab.Take(&g, t0, claim(Credential, "k", tc.rule), 10); ref.Kind != KindNone {
				t.Fatalf("%s: call %d was refused: %+v", tc.name, i, ref)
			}
		}
		for range 3 { // what is refused takes nothing, however often
			var g Grant
			ref := tab.Take(&g, t0, claim(Credential, "k", tc.rule), 10)
			if ref.Kind != tc.kind || ref.After.Round(time.Millisecond) != tc.wait || ref.Scope != Credential {
				t.Fatalf("%s: %+v, want kind %d after %s", tc.name, ref, tc.kind, tc.wait)
			}
			if g.Held() {
				t.Fatalf("%s: a refused call holds something", tc.name)
			}
		}
		var other Grant
		if ref := tab.Take(&other, t0, claim(Credential, "other", tc.rule), 10); ref.Kind != KindNone {
			t.Fatalf("%s: another key was refused: %+v", tc.name, ref)
		}
		if tc.kind == KindConcurrency {
			continue
		}
		var g Grant
		if ref := tab.Take(&g, t0.Add(tc.wait+time.Millisecond), claim(Credential, "k", tc.rule), 10); ref.Kind != KindNone {
			t.Fatalf("%s: refused after the time it was told to wait: %+v", tc.name, ref)
		}
	}
}

func TestARefusalGivesEverythingBack(t *testing.T) {
	t.Parallel()
	tab := NewTable(Config{MaxCalls: 100})
	wide, narrow := Rule{RequestsPerMinute: 10, TokensPerMinute: 1000, Concurrency: 10, RequestsPerSecond: 10}, Rule{RequestsPerMinute: 1}
	var first Grant
	if ref := tab.Take(&first, t0, []Claim{{Credential, "a", &wide, nil}, {Product, "p", &narrow, nil}}, 100); ref.Kind != KindNone {
		t.Fatal(ref)
	}
	for range 50 {
		var g Grant
		if ref := tab.Take(&g, t0, []Claim{{Credential, "a", &wide, nil}, {Product, "p", &narrow, nil}}, 100); ref.Scope != Product || ref.Kind != KindRequests {
			t.Fatalf("%+v", ref)
		}
	}
	req, tok, _, _ := first.State(t0)
	if req.Remaining != 0 || tok.Remaining != 900 {
		t.Fatalf("after 50 refusals: requests %+v tokens %+v", req, tok)
	}
	first.End(t0, 40)
	first.End(t0, 40) // twice is once
	if n := tab.Running(); n != 0 {
		t.Fatalf("%d calls run", n)
	}
	for i := range 9 { // the first took one of ten
		var g Grant
		if ref := tab.Take(&g, t0, claim(Credential, "a", wide), 100); ref.Kind != KindNone {
			t.Fatalf("call %d: %+v", i, ref)
		}
	}
}

func TestTokensAreCorrectedWhenTheCallEnds(t *testing.T) {
	t.Parallel()
	rule := Rule{TokensPerMinute: 600}
	for _, tc := range []struct {
		name           string
		estimate, used int64
		left           int64
		wait           time.Duration // of a call of 1 token that follows
	}{
		{"less was used", 300, 10, 590, 0},
		{"as estimated", 300, 300, 300, 0},
		{"more was used", 300, 500, 100, 0},
		{"into debt", 300, 900, 0, 30100 * time.Millisecond},
		{"the debt is bounded by the limit", 300, 1 << 40, 0, 30100 * time.Millisecond},
		{"not known: the estimate stays", 300, -1, 300, 0},
		{"larger than the limit", 5000, 600, 0, 100 * time.Millisecond},
	} {
		tab := NewTable(Config{})
		var g Grant
		if ref := tab.Take(&g, t0, claim(Credential, "k", rule), tc.estimate); ref.Kind != KindNone {
			t.Fatalf("%s: %+v", tc.name, ref)
		}
		g.End(t0, tc.used)
		ref := tab.Take(&g, t0, claim(Credential, "k", rule), 1)
		if ref.After.Round(time.Millisecond) != tc.wait {
			t.Errorf("%s: wait %s, want %s", tc.name, ref.After, tc.wait)
		}
		if ref.Kind == KindNone {
			if _, tok, _, _ := g.State(t0); tok.Remaining != tc.left-1 {
				t.Errorf("%s: %d tokens left, want %d", tc.name, tok.Remaining, tc.left-1)
			}
		}
	}
}

// TestConcurrencyIsExact races takers against a limit: as many as it says are
// let in, and all that ended make room.
func TestConcurrencyIsExact(t *testing.T) {
	t.Parallel()
	tab := NewTable(Config{})
	rule := Rule{Concurrency: 7}
	for range 50 {
		var in [64]Grant
		var admitted [64]bool
		var wg sync.WaitGroup
		for i := range in {
			wg.Go(func() { admitted[i] = tab.Take(&in[i], t0, claim(Credential, "k", rule), 0).Kind == KindNone })
		}
		wg.Wait()
		n := 0
		for i := range in {
			if admitted[i] {
				n++
			}
			in[i].End(t0, -1)
		}
		if n != 7 {
			t.Fatalf("%d calls at once, want 7", n)
		}
	}
}

func TestOneCredentialLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	tab := NewTable(Config{MaxCalls: 100})
	hot := make([]Grant, 0, 200)
	for range 200 {
		var g Grant
		if tab.Take(&g, t0, claim(Credential, "hot", Rule{}), 0).Kind == KindNone {
			hot = append(hot, g)
		}
	}
	if len(hot) != 80 {
		t.Fatalf("one credential got %d of 100 calls, want four fifths", len(hot))
	}
	// Twenty others, each with a call of its own, get in beside it.
	for i := range 20 {
		var g Grant
		if ref := tab.Take(&g, t0, claim(Credential, fmt.Sprint("cold", i), Rule{}), 0); ref.Kind != KindNone {
			t.Fatalf("the %d-th other credential was refused: %+v", i, ref)
		}
	}
	var g Grant
	if ref := tab.Take(&g, t0, claim(Credential, "late", Rule{}), 0); ref.Kind != KindShare {
		t.Fatalf("a call beyond the node's bound: %+v", ref)
	}
	for i := range hot[:10] {
		hot[i].End(t0, -1)
	}
	if ref := tab.Take(&g, t0, claim(Credential, "hot", Rule{}), 0); ref.Kind != KindShare {
		t.Fatalf("the hot credential took the room it had to leave: %+v", ref)
	}
	if ref := tab.Take(&g, t0, claim(Credential, "late", Rule{}), 0); ref.Kind != KindNone {
		t.Fatalf("a cold credential: %+v", ref)
	}
}

func TestARuleChangesUnderWay(t *testing.T) {
	t.Parallel()
	tab := NewTable(Config{})
	take := func(r Rule) Kind {
		var g Grant
		return tab.Take(&g, t0, claim(Credential, "k", r), 0).Kind
	}
	for range 3 {
		if take(Rule{RequestsPerMinute: 3}) != KindNone {
			t.Fatal("refused within the limit")
		}
	}
	if take(Rule{RequestsPerMinute: 3}) != KindRequests || take(Rule{RequestsPerMinute: 100}) != KindRequests {
		t.Fatal("a raised limit must not fill the bucket at once")
	}
	if take(Rule{}) != KindNone {
		t.Fatal("refused although the limit was lifted")
	}
}

// TestMemoryIsBounded calls once with each of a million credentials: the state
// kept stays within its bound, and goes when the keys are idle.
func TestMemoryIsBounded(t *testing.T) {
	const most = 20000
	tab := NewTable(Config{MaxKeys: most})
	rule := Rule{RequestsPerMinute: 60, Concurrency: 100}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	now := t0
	for i := range 1_000_000 {
		var g Grant
		if ref := tab.Take(&g, now, claim(Credential, fmt.Sprintf("credential-%d", i), rule), 0); ref.Kind != KindNone {
			t.Fatal(ref)
		}
		g.End(now, -1)
		now = now.Add(time.Microsecond)
	}
	if n := tab.Keys(); n > most+shards {
		t.Errorf("%d keys are kept, want at most %d", n, most)
	}
	if grown := int64(heap()) - int64(before); grown > most*1024 {
		t.Errorf("a million credentials left %d bytes", grown)
	}
	if tab.Forgotten() == 0 {
		t.Error("keys that were not idle were forgotten, and nobody counted them")
	}
	tab.Sweep(now.Add(idleFor))
	if n := tab.Keys(); n != 0 {
		t.Errorf("%d idle keys are kept", n)
	}
	runtime.KeepAlive(tab)
}

func TestAKeyInUseIsNotForgotten(t *testing.T) {
	t.Parallel()
	tab := NewTable(Config{MaxKeys: 1})
	var g Grant
	tab.Take(&g, t0, claim(Credential, "k", Rule{Concurrency: 1}), 0)
	later := t0.Add(time.Hour)
	tab.Sweep(later)
	for i := range 1000 {
		var o Grant
		tab.Take(&o, later, claim(Credential, fmt.Sprint(i), Rule{Concurrency: 1}), 0)
		o.End(later, -1)
	}
	var second Grant
	if ref := tab.Take(&second, later, claim(Credential, "k", Rule{Concurrency: 1}), 0); ref.Kind != KindConcurrency {
		t.Fatalf("a second call at once: %+v", ref)
	}
}

func TestRuleOver(t *testing.T) {
	t.Parallel()
	base := Rule{RequestsPerMinute: 10, Concurrency: 100}
	if got := (Rule{Concurrency: -1, TokensPerMinute: 5}).Over(base); got != (Rule{RequestsPerMinute: 10, TokensPerMinute: 5}) {
		t.Fatalf("%+v", got)
	}
}

func BenchmarkTake(b *testing.B) {
	now := time.Now()
	for _, bc := range []struct {
		name   string
		claims []Claim
	}{
		{"concurrency", claim(Credential, "01JD000000000000000000000K", Rule{Concurrency: 100})},
		{"requests", claim(Credential, "01JD000000000000000000000K", Rule{RequestsPerMinute: 1 << 30, Concurrency: 100})},
		{"credential+product+subscription", []Claim{
			{Credential, "01JD000000000000000000000K", &Rule{RequestsPerMinute: 1 << 30, Concurrency: 100}, new(Ref)},
			{Subscription, "01JD000000000000000000000S", &Rule{RequestsPerMinute: 1 << 30}, new(Ref)},
			{Product, "01JD000000000000000000000P", &Rule{RequestsPerMinute: 1 << 30}, new(Ref)},
		}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			tab := NewTable(Config{MaxCalls: 1 << 14})
			for i := range bc.claims {
				bc.claims[i].Ref = new(Ref)
			}
			b.ReportAllocs()
			for b.Loop() {
				var g Grant
				if tab.Take(&g, now, bc.claims, 100).Kind != KindNone {
					b.Fatal("refused")
				}
				g.End(now, -1)
			}
		})
	}
}
