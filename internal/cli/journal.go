package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
)

// Journal is `tollgate journal`.
type Journal struct {
	Inspect InspectJournal `cmd:"" help:"Print every record as a line of JSON."`
	Verify  VerifyJournal  `cmd:"" help:"Check every segment; exit code 1 when one is damaged."`
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

// Run checks the journal.
func (c *VerifyJournal) Run(s Streams) error {
	report, err := journal.Verify(c.path())
	if err != nil {
		return err
	}
	fmt.Fprintln(s.Out, report.String())
	if !report.OK() {
		return fmt.Errorf("the journal is damaged: start the gateway to recover what is before the damage, and keep a copy of %s", c.path())
	}
	return nil
}
