package journal

import (
	"fmt"
	"strings"
)

// Report is what Open recovered or Verify found.
type Report struct {
	Node     string `json:"node"`
	Boot     uint64 `json:"boot"`     // of the last start
	Segments int    `json:"segments"` // with records
	Records  int64  `json:"records"`  // valid ones in the segments that were read
	Bytes    int64  `json:"bytes"`    // of the segments
	// Unchecked counts segments that Open did not read again because they were
	// sealed and every consumer is done with them.
	Unchecked int `json:"unchecked,omitempty"`

	First Position `json:"first"` // of the first record kept
	End   Position `json:"end"`   // behind the last

	// Unsealed counts segments that were in use when the last process died.
	Unsealed int `json:"unsealed,omitempty"`
	// FrontsMissing counts those of them without a front, as after a crash of
	// the machine: what was appended in the last SyncEvery may be missing.
	FrontsMissing int `json:"fronts_missing,omitempty"`
	// Torn counts bytes of records that were not finished; TornAt is the first.
	Torn   int64     `json:"torn,omitempty"`
	TornAt *Position `json:"torn_at,omitempty"`
	// Corrupt lists the first damaged place of each damaged segment. Readers
	// stop there.
	Corrupt []CorruptError `json:"corrupt,omitempty"`
	// Missing lists records that were written, that not every consumer has
	// acknowledged, and that are in no segment though later ones of the same
	// start are: a file was removed, or left out of a copy. Between two starts
	// nothing tells that from what a crash of the machine lost.
	Missing []Gap `json:"missing,omitempty"`

	Cursors map[string]Position `json:"cursors,omitempty"`
	InUse   bool                `json:"in_use,omitempty"` // Verify: a process has it open; its last records may look torn
}

// Gap is a range of records, by their seq: From is the first, To the one behind
// the last.
type Gap struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// OK reports whether nothing is damaged or missing. Torn bytes are no damage:
// they belong to records that were never finished.
func (r *Report) OK() bool { return len(r.Corrupt) == 0 && len(r.Missing) == 0 }

// miss notes the records between the end of one segment and the base of the
// next. acked is the least seq that a consumer goes on from: what is before it
// is not missed.
func (r *Report) miss(end, base, acked uint64) {
	if from := max(end, acked); base > from {
		r.Missing = append(r.Missing, Gap{From: from, To: base})
	}
}

// leastSeq returns the least seq that a consumer goes on from. One that has not
// begun tells nothing, unless none has.
func leastSeq(cursors map[string]Position) uint64 {
	least := uint64(0)
	for _, c := range cursors {
		if !c.IsZero() && (least == 0 || c.Seq < least) {
			least = c.Seq
		}
	}
	return max(least, 1)
}

// String says in one line what was found.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "node %s boot %d: %d records in %d segments, %d bytes, up to %s",
		r.Node, r.Boot, r.Records, r.Segments, r.Bytes, r.End)
	if r.Unsealed > 0 {
		fmt.Fprintf(&b, "; %d left open by a crash", r.Unsealed)
	}
	if r.FrontsMissing > 0 {
		fmt.Fprintf(&b, "; %d without their front: the last moments before the crash may be missing", r.FrontsMissing)
	}
	if r.Torn > 0 {
		fmt.Fprintf(&b, "; %d torn bytes from %s", r.Torn, r.TornAt)
	}
	for i := range r.Corrupt {
		fmt.Fprintf(&b, "; %s", r.Corrupt[i].Error())
	}
	for _, g := range r.Missing {
		fmt.Fprintf(&b, "; records %d to %d are in no segment: a file is missing", g.From, g.To-1)
	}
	return b.String()
}

// add takes in one segment.
func (r *Report) add(name string, h *header, s *scanned, size int64) {
	r.Bytes += size
	if s.end > headerSize || s.corrupt != 0 {
		r.Segments++
	}
	r.Records += s.records
	if r.First.IsZero() && s.end > headerSize {
		r.First = Position{Segment: h.segment, Offset: headerSize, Seq: h.base}
	}
	if s.end > headerSize {
		r.End = Position{Segment: h.segment, Offset: s.end, Seq: s.endSeq}
	}
	if s.torn > 0 {
		if r.Torn == 0 {
			r.TornAt = &Position{Segment: h.segment, Offset: s.tornAt, Seq: s.endSeq}
		}
		r.Torn += s.torn
	}
	if s.corrupt != 0 {
		r.Corrupt = append(r.Corrupt, CorruptError{File: name, Pos: Position{Segment: h.segment, Offset: s.corrupt, Seq: h.base}})
	}
}
