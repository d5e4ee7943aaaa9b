package ids

import (
	"errors"
	"testing"
	"time"
)

func TestNewIncreasesWithinAMillisecond(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	last := ""
	for range 10_000 {
		id := New(now)
		if id <= last {
			t.Fatalf("id %s does not follow %s", id, last)
		}
		if !Valid(id) {
			t.Fatalf("%s is not valid", id)
		}
		last = id
	}
	if later := New(now.Add(time.Millisecond)); later <= last {
		t.Fatalf("id %s of a later millisecond does not follow %s", later, last)
	}
}

// Two clocks in one process, and goroutines that were late: ids of each
// millisecond still increase. A walk over pages depends on it.
func TestNewIncreasesPerMillisecondOfSeveralClocks(t *testing.T) {
	t.Parallel()
	base := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)
	var last [5]string
	for i := range 1000 {
		clock := i * 7 % len(last)
		id := New(base.Add(time.Duration(clock) * time.Millisecond))
		if id <= last[clock] {
			t.Fatalf("id %s does not follow %s of its millisecond", id, last[clock])
		}
		last[clock] = id
	}
}

func TestRequestRoundTrip(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 8, 30, 0, 123_000_000, time.UTC)
	r := NewRequest(now)
	if !r.Time().Equal(now) {
		t.Fatalf("time = %s, want %s", r.Time(), now)
	}
	back, err := ParseRequest(r.String())
	if err != nil || back != r {
		t.Fatalf("ParseRequest(%q) = %v, %v", r.String(), back, err)
	}
	if string(r.Append(nil)) != r.String() {
		t.Fatal("Append and String differ")
	}
	for _, bad := range []string{"", "zz", r.String() + "0", "ABCDEF" + r.String()[6:]} {
		if _, err := ParseRequest(bad); !errors.Is(err, ErrRequestID) {
			t.Errorf("ParseRequest(%q) = %v, want ErrRequestID", bad, err)
		}
	}
}

func TestNewRequestDoesNotRepeat(t *testing.T) {
	t.Parallel()
	now := time.Now()
	seen := make(map[Request]bool, 100_000)
	for range 100_000 {
		r := NewRequest(now)
		if seen[r] {
			t.Fatalf("%s was made twice", r)
		}
		seen[r] = true
	}
}

func TestUUID(t *testing.T) {
	t.Parallel()
	a, b := UUID(), UUID()
	if a == b || len(a) != 36 || a[14] != '4' {
		t.Fatalf("UUID() = %q, %q", a, b)
	}
}
