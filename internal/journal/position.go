package journal

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Kind says what a record is. The journal only stores it.
type Kind uint8

// The kinds of record, in one place so that no two packages use the same
// number. They are part of the format: never renumber them.
const (
	KindUsage       Kind = 1 // one call: usage.AppendRecord
	KindIncarnation Kind = 2 // quota: a note on the life of a node's incarnation
	KindLease       Kind = 3 // quota: a note on a lease
	KindCheckpoint  Kind = 4 // quota: a summary that shortens replay
	KindBatch       Kind = 5 // metering: the bounds of a batch about to be sent

	kindPad  Kind = 0xff // filler of a hole, made by recovery; never delivered
	maxKind  Kind = 0xef // the greatest kind a caller may use
	kindNone Kind = 0
)

// String returns the name of k.
func (k Kind) String() string {
	switch k {
	case KindUsage:
		return "usage"
	case KindIncarnation:
		return "incarnation"
	case KindLease:
		return "lease"
	case KindCheckpoint:
		return "checkpoint"
	case KindBatch:
		return "batch"
	case kindPad:
		return "pad"
	default:
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
}

// Position is a place between two records of one journal. Positions are
// totally ordered by Segment, then Offset, and are never used twice; Seq goes
// along and increases with them.
//
// The position of a record is the place where it begins. The zero Position is
// before everything.
type Position struct {
	Segment uint64 `json:"segment"`
	Offset  uint32 `json:"offset"`
	Seq     uint64 `json:"seq"` // number of the record that begins here
}

// Compare orders positions: -1 when p is before q, 0 when they are the same
// place, +1 when it is after.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Segment, q.Segment); c != 0 {
		return c
	}
	return cmp.Compare(p.Offset, q.Offset)
}

// Before reports whether p is before q.
func (p Position) Before(q Position) bool { return p.Compare(q) < 0 }

// IsZero reports whether p is the place before everything.
func (p Position) IsZero() bool { return p.Segment == 0 && p.Offset == 0 }

// String returns "segment:offset@seq".
func (p Position) String() string {
	return strconv.FormatUint(p.Segment, 10) + ":" + strconv.FormatUint(uint64(p.Offset), 10) +
		"@" + strconv.FormatUint(p.Seq, 10)
}

// ErrPosition says that a text is not a position.
var ErrPosition = errors.New("journal: a position is written segment:offset@seq, for example 3:128@7")

// ParsePosition reads the form String writes.
func ParsePosition(s string) (Position, error) {
	head, seq, ok := strings.Cut(s, "@")
	seg, off, ok2 := strings.Cut(head, ":")
	if !ok || !ok2 {
		return Position{}, ErrPosition
	}
	var p Position
	var errs [3]error
	var o uint64
	p.Segment, errs[0] = strconv.ParseUint(seg, 10, 64)
	o, errs[1] = strconv.ParseUint(off, 10, 32)
	p.Seq, errs[2] = strconv.ParseUint(seq, 10, 64)
	if errors.Join(errs[:]...) != nil {
		return Position{}, ErrPosition
	}
	p.Offset = uint32(o)
	return p, nil
}

// Record is one record as it was appended.
type Record struct {
	Pos     Position // where it begins; its identity within the journal
	End     Position // where it ends: acknowledge this to be done with it
	Kind    Kind
	Boot    uint64 // boot of the node that wrote it; with the node's name, its incarnation
	Payload []byte // owned by the reader, valid until its next call
}
