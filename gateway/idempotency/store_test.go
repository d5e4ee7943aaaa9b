package idempotency

import (
	"testing"
	"time"
)

func TestLocalIsBoundedInTimeAndSize(t *testing.T) {
	t.Parallel()
	ctx, now := t.Context(), time.Unix(1e9, 0)
	s := NewLocal(time.Minute, 10_000)
	begin := func(key string, at time.Time) Outcome {
		t.Helper()
		o, _, err := s.Begin(ctx, KeyOf("c", nil, nil, []byte(key)), PrintOf(nil), at)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	keep := func(key string, size int) {
		t.Helper()
		if err := s.Keep(ctx, KeyOf("c", nil, nil, []byte(key)), PrintOf(nil), &Answer{Status: 200, Body: make([]byte, size)}, now); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []string{"a", "b", "c"} {
		if begin(k, now) != Fresh || begin(k, now) != Running {
			t.Fatal("not fresh, then running")
		}
		keep(k, 3000)
		if s.Bytes() > 10_000 {
			t.Fatalf("%d bytes", s.Bytes())
		}
	}
	if begin("b", now) != Replay || begin("c", now) != Replay || s.Evicted() != 1 {
		t.Errorf("the newest are not kept; %d evicted", s.Evicted())
	}
	if begin("a", now) != Fresh { // it went first
		t.Error("the oldest is kept beyond the bound")
	}
	if begin("c", now.Add(59*time.Second)) != Replay || begin("c", now.Add(time.Minute)) != Fresh || s.Bytes() != 0 {
		t.Errorf("not kept for its window: %d bytes", s.Bytes())
	}
	keep("c", 1<<20) // larger than all of it
	if begin("c", now) != Fresh {
		t.Error("an answer beyond the bound is kept")
	}
}

func TestKeysDoNotRunTogether(t *testing.T) {
	t.Parallel()
	seen := map[Key]bool{}
	for _, k := range [][4]string{{"a", "b", "c", "d"}, {"ab", "", "c", "d"}, {"a", "b", "cd", ""}, {"", "ab", "c", "d"}} {
		key := KeyOf(k[0], []byte(k[1]), []byte(k[2]), []byte(k[3]))
		if seen[key] {
			t.Errorf("%q has another's key", k)
		}
		seen[key] = true
	}
}
