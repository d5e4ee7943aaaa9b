package quota

import (
	"bytes"
	"cmp"
	"slices"

	"tollgate/internal/usage"
)

// pending is the last provisional record of a call: what is charged if no final
// one comes.
type pending struct {
	boot    uint64
	sub     string
	charges []usage.Charge
	overrun usage.Units
	record  []byte // as encoded; nil in a state that an earlier version wrote

	// closed says that the incarnation was closed in the store with this call
	// counted: the record that ends it is not counted again.
	closed bool
}

// provisional takes a provisional record of a call.
func (t *Tally) provisional(boot uint64, rec *usage.Record) {
	p := t.open[rec.ID]
	if p == nil {
		p = new(pending)
		t.open[rec.ID] = p
	}
	p.boot, p.sub, p.overrun = boot, rec.Subscription, rec.Overrun
	p.charges = append(p.charges[:0], rec.Charges...)
	p.record = usage.AppendRecord(p.record[:0], rec)
}

// Open lists the calls of starts before boot that are open: each as the record
// that ends it. The process that served them is gone, so nothing else will.
//
// Such a record is final and counted, of the units that the last provisional
// one charged; it is incomplete, its basis is BasisRecovered, and its Boot is
// the start whose lots it charges. Append it to the journal and add it to the
// tally. Until then, and without it, closing a start counts its open calls all
// the same: the record only makes a usage row of what is charged anyway, so
// writing it twice, or on two hosts, charges nothing twice.
func (t *Tally) Open(boot uint64) ([]usage.Record, error) {
	var list []usage.Record
	for id, p := range t.open {
		if p.boot >= boot {
			continue
		}
		rec := usage.Record{ID: id, Time: id.Time(), Subscription: p.sub, Charges: slices.Clone(p.charges), Overrun: p.overrun}
		if len(p.record) > 0 {
			if err := usage.DecodeRecord(p.record, &rec); err != nil {
				return nil, err
			}
		}
		rec.Flags = rec.Flags&^usage.Provisional | usage.Counted | usage.Incomplete
		rec.Basis = usage.BasisRecovered
		rec.Boot = p.boot
		list = append(list, rec)
	}
	slices.SortFunc(list, func(a, b usage.Record) int {
		return cmp.Or(a.Time.Compare(b.Time), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return list, nil
}
