package metering

import (
	"fmt"

	"tollgate/internal/usage"
)

// CheckRecords returns ErrInput when a record cannot be stored.
func CheckRecords(recs []usage.Record) error {
	for i := range recs {
		if recs[i].ID.IsZero() {
			return fmt.Errorf("%w: record %d has no request id", ErrInput, i)
		}
	}
	return nil
}

// Supersedes reports whether r takes the place of old, a record of the same
// request that is stored: a final one stays for good; a provisional one gives
// way to a final one and to one written at the same time or later.
func Supersedes(r, old *usage.Record) bool {
	return old.Has(usage.Provisional) && (!r.Has(usage.Provisional) || !r.Finished.Before(old.Finished))
}
