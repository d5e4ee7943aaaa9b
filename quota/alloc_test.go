//go:build !race

package quota_test

import (
	"testing"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
)

func TestAdmitAndSettleDoNotAllocate(t *testing.T) {
	e := newBench(t, lot.MaxAmount)
	for _, c := range []struct {
		name  string
		sub   string
		units []usage.Unit
		est   usage.Units
		used  usage.Units
	}{
		{"call", "sub", callUnits, oneCall, oneCall},
		{"tokens, less than estimated", "llm", tokenUnits, usage.Units{usage.Token: 1000}, usage.Units{usage.Token: 700}},
		{"tokens, more than estimated", "llm", tokenUnits, usage.Units{usage.Token: 1000}, usage.Units{usage.Token: 1700}},
	} {
		rec := &usage.Record{Units: c.used, Charges: make([]usage.Charge, 0, 4)}
		admitSettle(t, e, c.sub, c.units, c.est, rec) // the first call takes the lease
		if n := testing.AllocsPerRun(1000, func() { admitSettle(t, e, c.sub, c.units, c.est, rec) }); n != 0 {
			t.Errorf("%s: %v allocations for each call, want 0", c.name, n)
		}
	}
}
