package quota_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mutation breaks one rule; tests are those that must notice.
type mutation struct {
	rule     string
	file     string
	old, new string
	pkg, run string
}

// mutations is the list of the README, in its order.
var mutations = []mutation{
	{
		"counters are merged by maximum, not added", "ledger/sync.go",
		"u := max(t.Used, c.Used)", "u := t.Used + c.Used",
		"quota", "TestSimulator$",
	},
	{
		"a grant is merged by maximum: what a rolled-back store forgot counts again", "ledger/sync.go",
		"g := max(t.Granted, c.Granted)", "g := t.Granted",
		"quota", "TestSimulator$",
	},
	{
		"what was returned shrinks by a late use", "ledger/sync.go",
		"r := min(max(t.Returned, c.Returned), g-u)", "r := max(t.Returned, c.Returned)",
		"quota", "TestSimulator$",
	},
	{
		"a level is kept, not added", "ledger/sync.go",
		"if closed || have >= max(d.Floor, d.Target) {", "if have = 0; closed {",
		"quota/embedded", "TestSuite/protocol",
	},
	{
		"a lot with units is not passed over", "ledger/sync.go",
		"break // this lot still has units: the next one must wait", "continue",
		"quota", "TestSimulator$",
	},
	{
		"lots are drawn in the order of PKG-20", "ledger/account.go",
		"if c := compareEnds(x.period.To, y.period.To); c != 0 {", "if c := compareEnds(y.period.To, x.period.To); c != 0 {",
		"quota/embedded", "TestSuite/grants",
	},
	{
		"another server relearns before it grants", "ledger/sync.go",
		"if another && !skewed {", "if another && skewed {",
		"quota", "TestSimulator$",
	},
	{
		"a final closing is final", "ledger/sync.go",
		"reply.Closed = node.State == NodeFinal", "reply.Closed = false",
		"quota/embedded", "TestSuite/protocol",
	},
	{
		"dead nodes' units wait for their quarantine", "ledger/sync.go",
		"node.Deadline+quarantine <= now", "node.Deadline <= now",
		"quota/embedded", "TestSuite/protocol",
	},
	{
		"a closing that brings use evaluates thresholds in its own step", "ledger/sync.go",
		"		node.State = NodeReclaimed\n	}\n	a.evaluate(now)", "		node.State = NodeReclaimed\n	}\n	_ = now",
		"quota", "TestSimulator$",
	},
	{
		"a threshold is armed again only above it", "ledger/watch.go",
		"arm.Fired = reached", "arm.Fired = false",
		"quota/embedded", "TestSuite/thresholds",
	},
	{
		"no crossing gets an id that was used before the store was lost", "ledger/watch.go",
		"		w.told(c)", "		_ = c",
		"quota/embedded", "TestSuite/thresholds",
	},
	{
		"what is drawn while the store is away is bounded by the lot's credit", "exchange.go",
		"l.credit = min(l.credit, b.Away.Credit)", "_ = b",
		"quota", "TestStoreAwayIsAPolicy",
	},
	{
		"only a lot that goes on is drawn on while the store is away", "exchange.go",
		"if !b.Away.Continue {", "if b.Lot == \"\" {",
		"quota", "TestStoreAwayIsAPolicy|TestHardStop",
	},
	{
		"nothing is taken after the lease's end", "admit.go",
		"if v := a.view.Load(); v != nil && e.mono() < v.until {", "if v := a.view.Load(); v != nil {",
		"quota", "TestHardStop|TestNothingIsTaken",
	},
	{
		"nothing is taken outside the period", "lease.go",
		"return at >= l.from && (to == 0 || at < to)", "return at >= l.from || to == 0",
		"quota", "TestSimulator$",
	},
	{
		"a call is charged to one lot", "lease.go",
		"func singleLot(u usage.Unit) bool { return u == usage.Call }", "func singleLot(u usage.Unit) bool { return false && u == usage.Call }",
		"quota", "TestACallOfManyUnitsTakesOneLot",
	},
	{
		"the counters move after the record was kept", "hold.go",
		"	if err := h.e.recorder.Record(rec); err != nil {", "	h.resolve(rec)\n	if err := h.e.recorder.Record(rec); err != nil {",
		"quota/embedded", "TestSuite/admission",
	},
	{
		"a hold is resolved once", "hold.go",
		"	if h.done.Load() {\n		return ErrResolved\n	}\n	h.charge(rec, true)\n	if err :=", "	h.charge(rec, true)\n	if err :=",
		"quota/embedded", "TestSuite/admission",
	},
	{
		"a checkpoint stands when the call cannot be recorded", "hold.go",
		"		h.resolve(h.checkpoint())", "		h.resolve(nil)",
		"quota", "TestCheckpoints",
	},
	{
		"a call that is released takes its checkpoint back", "hold.go",
		"	if h.kept {\n		none", "	if false && h.kept {\n		none",
		"quota", "TestCheckpoints",
	},
	{
		"what ends an open call is counted with its own start", "replay.go",
		"		boot = rec.Boot", "		_ = rec.Boot",
		"quota", "TestOpenCallsEndOnce",
	},
	{
		"a call counted when its start was closed is not counted again", "replay.go",
		"		if p == nil || p.closed {", "		if p == nil {",
		"quota", "TestOpenCallsEndOnce",
	},
	{
		"an open call is ended once", "replay.go",
		"		if p == nil || p.closed {", "		if p != nil && p.closed {",
		"quota", "TestOpenCallsEndOnce",
	},
	{
		"idle units follow a recall", "loop.go",
		"	if idle {\n		e.stats.recall.Add(1)", "	if false && idle {\n		e.stats.recall.Add(1)",
		"quota/embedded", "TestSuite/nodes",
	},
	{
		"earlier starts are settled before a new one reports", "round.go",
		"err := e.settleEarlier(ctx, a.id)", "var err error",
		"quota", "TestReplayWaits",
	},
	{
		"script: counters are merged by maximum", "redisstore/scripts/prelude.lua",
		"local u = max(c.u, tonumber(ARGV[i + 3]))", "local u = c.u + tonumber(ARGV[i + 3])",
		"quota/redisstore", "TestStandalone/(model|protocol)",
	},
	{
		"script: alerts in the step that causes them", "redisstore/scripts/close.lua",
		"local crossed = evaluate(subscription)", "local crossed = 0",
		"quota/redisstore", "TestStandalone/(model|thresholds)",
	},
	{
		"script: numbers are printed whole", "redisstore/scripts/prelude.lua",
		"changes[key] = fmt('%.0f:%.0f:%.0f', c.g, c.u, c.r)", "changes[key] = c.g .. ':' .. c.u .. ':' .. c.r",
		"quota/redisstore", "TestStandalone/(model|protocol)",
	},
	{
		"store: a raised grant waits for the replica", "redisstore/script.go",
		"if s.set.wait == 0 {", "if s.set.wait >= 0 {",
		"quota/redisstore", "TestAGrantIsNotUsed",
	},
	{
		"an emptied store is not believed", "admit.go",
		"if reason != ErrUnavailable && !e.whole() {", "if false {",
		"quota/embedded", "TestSuite/witness",
	},
	{
		"nothing is leased from a suspect store", "round.go",
		"if e.suspect.Load() {", "if false {",
		"quota/embedded", "TestSuite/witness",
	},
	{
		"a lost store gets what ended incarnations used", "recovery/restore.go",
		"err := k.tell(ctx, sub, &saved[i], newest[saved[i].Incarnation.Node]); err != nil", "err := error(nil); err != nil",
		"quota/recovery", "TestAnEmptiedStore",
	},
	{
		"the mark comes back only with what was rebuilt", "recovery/keeper.go",
		"k.store.SetMark(ctx, -generation, generation)", "k.store.SetMark(ctx, 0, generation)",
		"quota/recovery", "TestALossDuring",
	},
	{
		"a grant raises only a mark that is known", "recovery/keeper.go",
		"k.store.SetMark(ctx, known, generation)", "k.store.SetMark(ctx, 0, generation)",
		"quota/recovery", "TestAPurchaseRaces",
	},
	{
		"a lower mark is a loss", "recovery/keeper.go",
		"case m.Generation < known:", "case m.Generation < 0:",
		"quota/recovery", "TestAStoreThatWasPutBack",
	},
}

var tryMutations = flag.Bool("mutations", false, "build and test every mutation, which takes minutes")

// TestMutations breaks each rule once and sees the tests that hold it fail. The
// sources are not touched: the compiler is given the broken file in place of
// the whole one. Without -mutations it only checks that the list is up to date.
func TestMutations(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	slots := make(chan struct{}, 2)
	for _, m := range mutations {
		t.Run(m.rule, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(string(readme), "| "+m.rule+" |") {
				t.Error("README.md does not list it")
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			m.try(t, root)
		})
	}
}

func (m *mutation) try(t *testing.T, root string) {
	file := filepath.Join(root, "quota", m.file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		t.Fatalf("%s holds %q %d times, want once: bring the list up to date", m.file, m.old, n)
	}
	if !*tryMutations {
		return
	}
	dir := t.TempDir()
	broken := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(broken, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: broken}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-vet=off", "-timeout", "120s", "-overlay", list, "-run", m.run, "./"+m.pkg)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		t.Errorf("broken like this, %s passes:\n  %s\n  %s\n%s", m.run, m.old, m.new, out)
	case !strings.Contains(string(out), "--- FAIL") && !strings.Contains(string(out), "panic:"):
		t.Errorf("the broken build did not come to a test: %v\n%s", err, out)
	default:
		t.Log(firstFault(string(out)))
	}
}

// firstFault returns the first line that says what failed.
func firstFault(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "_test.go:") || strings.Contains(line, ".go:") && strings.Contains(line, ": ") {
			return fmt.Sprintf("noticed: %.160s", strings.TrimSpace(line))
		}
	}
	return "noticed"
}
