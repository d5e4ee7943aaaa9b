package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"tollgate/internal/ids"
	"tollgate/internal/journal"
	"tollgate/internal/usage"
)

// Journal is `tollgate journal`.
type Journal struct {
	Inspect InspectJournal `cmd:"" help:"Print every record as a line of JSON."`
	Verify  VerifyJournal  `cmd:"" help:"Check every segment; exit code 1 when one is damaged."`
	Replay  ReplayJournal  `cmd:"" help:"Settle a dead node's journal from a copy of its data folder; exit code 1 when it is refused or fails."`
}

// journalDir names the journal of a data folder.
type journalDir struct {
	Data string `default:"./tollgate-data" placeholder:"DIR" help:"Data folder of the gateway; ./tollgate-data by default."`
}

func (d journalDir) path() string { return filepath.Join(d.Data, "journal") }

// InspectJournal is `tollgate journal inspect`.
type InspectJournal struct{ journalDir }

// inspected is one record as inspect prints it.
type inspected struct {
	Position string        `json:"position"`
	Kind     string        `json:"kind"`
	Boot     uint64        `json:"boot"`
	Bytes    int           `json:"bytes"`
	State    string        `json:"state,omitempty"` // of a usage record: final, provisional or recovered
	Usage    *usage.Record `json:"usage,omitempty"`
}

// Run prints the records.
func (c *InspectJournal) Run(s Streams) error {
	enc := json.NewEncoder(s.Out)
	report, err := journal.Inspect(c.path(), func(r journal.Record) error {
		out := inspected{Position: r.Pos.String(), Kind: r.Kind.String(), Boot: r.Boot, Bytes: len(r.Payload)}
		if r.Kind == journal.KindUsage {
			out.Usage = new(usage.Record)
			if err := usage.DecodeRecord(r.Payload, out.Usage); err != nil {
				return fmt.Errorf("record at %s: %w", r.Pos, err)
			}
			out.State = stateOf(out.Usage)
		}
		return enc.Encode(out)
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(s.Err, report.String())
	return nil
}

// VerifyJournal is `tollgate journal verify`.
type VerifyJournal struct{ journalDir }

// stateOf names what a usage record is to its call: provisional while the call
// runs, recovered where the node's next start ended it, final otherwise.
func stateOf(rec *usage.Record) string {
	switch {
	case rec.Has(usage.Provisional):
		return "provisional"
	case rec.Basis == usage.BasisRecovered:
		return "recovered"
	}
	return "final"
}

// Run checks the journal.
func (c *VerifyJournal) Run(s Streams) error {
	count := map[string]int{}
	open := map[ids.Request]uint64{} // calls whose last record is provisional, by boot
	report, err := journal.Inspect(c.path(), func(r journal.Record) error {
		if r.Kind != journal.KindUsage {
			return nil
		}
		var rec usage.Record
		if err := usage.DecodeRecord(r.Payload, &rec); err != nil {
			return fmt.Errorf("record at %s: %w", r.Pos, err)
		}
		state := stateOf(&rec)
		count[state]++
		if state == "provisional" {
			open[rec.ID] = r.Boot
		} else {
			delete(open, rec.ID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(s.Out, report.String())
	fmt.Fprintf(s.Out, "usage records: %d final, %d recovered after a crash, %d provisional\n", count["final"], count["recovered"], count["provisional"])
	if len(open) > 0 {
		what := "the next start charges them with what was delivered"
		if report.InUse {
			what = "of a running program; those of its earlier starts are charged already"
		}
		fmt.Fprintf(s.Out, "calls without a final record: %d: %s\n", len(open), what)
	}
	if !report.OK() {
		return fmt.Errorf("the journal is damaged: start the gateway to recover what is before the damage, and keep a copy of %s", c.path())
	}
	return nil
}
