package gateway

import (
	"testing"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// TestJudge: METER-1 to METER-5 and METER-8.
func TestJudge(t *testing.T) {
	t.Parallel()
	at := DefaultPerCallSwitch
	if want := "2025-07-15T16:00:00Z"; at.UTC().Format(time.RFC3339) != want {
		t.Fatalf("the switch is at %s, want %s", at.UTC().Format(time.RFC3339), want)
	}
	before, after := at.Add(-time.Nanosecond), at.Add(time.Nanosecond)
	for _, tt := range []struct {
		mode   directory.Mode
		status int
		when   time.Time
		counts bool
		rule   usage.Rule
	}{
		{directory.ModePerCall, 199, after, false, usage.Meter2},
		{directory.ModePerCall, 200, after, true, usage.Meter2},
		{directory.ModePerCall, 299, after, true, usage.Meter2},
		{directory.ModePerCall, 300, after, false, usage.Meter2},
		{directory.ModePerCall, 302, after, false, usage.Meter2},
		{directory.ModePerCall, 404, after, false, usage.Meter2},
		{directory.ModePerCall, 500, after, false, usage.Meter2},
		{directory.ModePerCall, 200, at, true, usage.Meter2},
		{directory.ModePerCall, 404, at, false, usage.Meter2},
		{directory.ModePerCall, 200, before, true, usage.Meter1},
		{directory.ModePerCall, 302, before, true, usage.Meter1},
		{directory.ModePerCall, 404, before, true, usage.Meter1},
		{directory.ModePerCall, 503, before, true, usage.Meter1},
	} {
		counts, rule := judge(tt.mode, tt.status, tt.when, at)
		if counts != tt.counts || rule != tt.rule {
			t.Errorf("%s %d at %s: %v by %s, want %v by %s", tt.mode, tt.status, tt.when, counts, rule, tt.counts, tt.rule)
		}
	}
	for _, mode := range []directory.Mode{directory.ModeOnDemand, directory.ModeOnDemandPackage, directory.ModeUsedUpStop} {
		for status := 199; status < 600; status++ {
			for _, when := range []time.Time{before, after} {
				counts, rule := judge(mode, status, when, at)
				if counts != (status >= 200 && status <= 299) || rule != usage.Meter3 {
					t.Errorf("%s %d at %s: %v by %s", mode, status, when, counts, rule)
				}
			}
		}
	}
}
