package quota_test

import (
	"flag"
	"fmt"
	"testing"

	"tollgate/quota/quotatest"
)

var (
	simSeeds = flag.Int("sim.seeds", 60, "seeds of each mode of the simulator")
	simSteps = flag.Int("sim.steps", 1200, "steps of each seed")
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed alone")
)

func TestSimulator(t *testing.T) {
	for _, mode := range simModes {
		t.Run(mode.name, func(t *testing.T) {
			t.Parallel()
			first, last := uint64(1), uint64(*simSeeds)
			if *simSeed != 0 {
				first, last = *simSeed, *simSeed
			}
			admitted := 0
			for seed := first; seed <= last; seed++ {
				t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) {
					clock := quotatest.NewClock(begin)
					s := newSim(t, mode, seed, clock, newMemory(clock, "sub"), "sub")
					s.run(*simSteps)
					admitted += s.admitted
				})
				if t.Failed() {
					t.Fatalf("again with: go test ./quota -run 'TestSimulator/%s' -sim.seed %d", mode.name, seed)
				}
			}
			t.Logf("%d calls admitted", admitted)
			if admitted == 0 {
				t.Error("no call was ever admitted: the simulation shows nothing")
			}
		})
	}
}
