package recovery

import "tollgate/quota"

// Verdict is what a gateway makes of the store's mark.
type Verdict int

// The verdicts.
const (
	// Whole: the store has all it was told.
	Whole Verdict = iota
	// Doubtful: another server has the store, and the control plane has not
	// compared it yet. It may lack its last seconds; what it leases is safe by
	// its own learning time, but nobody is told that a package is used up.
	Doubtful
	// Lost: the store was emptied or put back, or is being rebuilt. It is
	// asked for nothing.
	Lost
)

// String returns the verdict as logs print it.
func (v Verdict) String() string { return [...]string{"whole", "doubtful", "lost"}[v] }

// Judge tells from the marks that a gateway sees whether the store is whole. It
// is not safe for concurrent use.
type Judge struct {
	highest int64  // generation ever seen
	server  string // that has it
	above   int64  // the generation must be above this one: its server was another
}

// Look judges a mark. After a change of the server the mark must be raised
// once, which the control plane does when it has compared the store.
func (j *Judge) Look(m quota.Mark) Verdict {
	if m.Server != j.server {
		if j.server != "" {
			j.above = j.highest
		}
		j.server = m.Server
	}
	switch {
	case m.Generation <= 0 || m.Generation < j.highest:
		return Lost
	case j.above > 0 && m.Generation <= j.above:
		return Doubtful
	}
	j.highest, j.above = m.Generation, 0
	return Whole
}
