package quota

import (
	"context"

	"tollgate/internal/usage"
)

// Recorder keeps the record of a settled call. The node's journal is one.
type Recorder interface {
	// Record appends rec. When it returns nil the record survives the death of
	// the process. It must not keep rec.
	Record(rec *usage.Record) error
}

// RecorderFunc is a function that is a Recorder.
type RecorderFunc func(rec *usage.Record) error

// Record calls f.
func (f RecorderFunc) Record(rec *usage.Record) error { return f(rec) }

// History reads the journal back, from the oldest record that is kept, in the
// order of appending.
type History interface {
	// Records calls fn for each record with the boot number of the incarnation
	// of this node that wrote it, and stops at fn's first error. rec is only
	// valid during the call.
	Records(ctx context.Context, fn func(boot uint64, rec *usage.Record) error) error
}
