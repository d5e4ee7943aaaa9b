package app

import (
	"testing"
	"time"

	"tollgate/internal/usage"
)

func TestSettledDrift(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                                     string
		quotaThen, quotaNow, usageThen, usageNow int64
		want                                     int64
	}{
		{"all there", 10, 10, 10, 10, 0},
		{"calls go on, rows late", 10, 50, 8, 45, 0},
		{"calls go on, reports late", 8, 45, 10, 50, 0},
		{"rows lack two", 10, 50, 8, 8, 2},
		{"the quota store lacks three", 7, 7, 10, 50, -3},
		{"a row was removed", 10, 10, 10, 9, 1},
		{"the quota store lost what it had", 10, 4, 10, 10, -6},
	} {
		if got := settledDrift(tt.quotaThen, tt.quotaNow, tt.usageThen, tt.usageNow); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// A reading is compared with the newest one that is old enough, and readings
// that are of no use any more are forgotten.
func TestHistory(t *testing.T) {
	t.Parallel()
	var h history
	begin := time.Now()
	at := func(d time.Duration) reading {
		return reading{at: begin.Add(d), quota: map[string]usage.Units{"s": {usage.Call: int64(d / time.Second)}}}
	}
	for d := time.Duration(0); d < 10*time.Minute; d += time.Second {
		then, ok := h.keep(at(d))
		if ok != (d >= settleAfter) {
			t.Fatalf("after %v: %v", d, ok)
		}
		if !ok {
			continue
		}
		age := d - time.Duration(then.quota["s"][usage.Call])*time.Second
		if age < settleAfter || age >= settleAfter+readingEvery {
			t.Fatalf("after %v: compared with a reading of %v before", d, age)
		}
	}
	if n := len(h.readings); n > int(settleAfter/readingEvery)+2 {
		t.Errorf("%d readings are kept", n)
	}
}
