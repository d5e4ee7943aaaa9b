package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Options are the settings of a journal. The zero value is usable.
type Options struct {
	// Node is the node's name: 1 to 64 letters, digits, '.', '_' or '-'. Empty
	// takes the name kept in the folder, and on the first start makes one.
	Node string

	// Consumers are the names that must acknowledge a record before it may be
	// removed. With none, segments are kept for Retain only.
	Consumers []string

	// SegmentSize is the size of one segment in bytes; default 16 MiB, at least
	// 64 KiB, at most 1 GiB. Up to four segments lie in the front at once (one
	// in use, two ahead, one being copied out), so with a front in memory it
	// costs four times as much of it. 16 MiB are some 80,000 records.
	SegmentSize int

	// SyncEvery is the longest time a record waits for its copying to disk to
	// begin, and so, with the time of one fdatasync, what a crash of the machine
	// can lose; default 20 ms. Less costs more disk writes.
	SyncEvery time.Duration

	// Strict makes Append wait until the record is on disk. It costs each call
	// one group fdatasync: a tenth of a millisecond on a good disk, tens on a
	// bad one.
	Strict bool

	// FrontDir is where fronts lie. Empty puts them beside the segments: they
	// survive all but a crash of the machine, but a store may wait for the file
	// system when the kernel has written a page back meanwhile. A folder on a
	// tmpfs never waits; what was not yet copied is lost with the tmpfs, so in a
	// container give it a volume that outlives the container.
	FrontDir string

	// Retain keeps segments that every consumer has acknowledged for this long
	// after they were sealed; default 0.
	Retain time.Duration

	// StallLimit is how long an allocation may take before CanAdmit takes the
	// disk for full; default 1 s.
	StallLimit time.Duration

	// Now is the clock; default time.Now.
	Now func() time.Time

	// Log takes what happens behind Append: errors of the disk, recoveries.
	// Default: discarded.
	Log *slog.Logger

	disk disk // tests put faults here; default the operating system
}

// Limits of the settings.
const (
	MaxPayload     = 32 << 10 // greatest payload of a record, in bytes
	minSegmentSize = 64 << 10
	maxSegmentSize = 1 << 30
)

// Validate returns every fault of the settings, joined.
func (o *Options) Validate() error {
	var errs []error
	if o.Node != "" && !validName(o.Node, 64) {
		errs = append(errs, fmt.Errorf("journal: node name %q: use 1 to 64 letters, digits, '.', '_' or '-'", o.Node))
	}
	seen := map[string]bool{}
	for _, c := range o.Consumers {
		if !validName(c, 32) {
			errs = append(errs, fmt.Errorf("journal: consumer name %q: use 1 to 32 letters, digits, '.', '_' or '-'", c))
		}
		if seen[c] {
			errs = append(errs, fmt.Errorf("journal: consumer %q is named twice", c))
		}
		seen[c] = true
	}
	if o.SegmentSize != 0 && (o.SegmentSize < minSegmentSize || o.SegmentSize > maxSegmentSize) {
		errs = append(errs, fmt.Errorf("journal: segment size %d is outside %d..%d bytes", o.SegmentSize, minSegmentSize, maxSegmentSize))
	}
	if o.SyncEvery < 0 {
		errs = append(errs, fmt.Errorf("journal: sync interval %s is negative", o.SyncEvery))
	}
	if o.Retain < 0 {
		errs = append(errs, fmt.Errorf("journal: retention %s is negative", o.Retain))
	}
	if o.StallLimit < 0 {
		errs = append(errs, fmt.Errorf("journal: stall limit %s is negative", o.StallLimit))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.SegmentSize == 0 {
		o.SegmentSize = 16 << 20
	}
	o.SegmentSize &^= 4095
	if o.SyncEvery == 0 {
		o.SyncEvery = 20 * time.Millisecond
	}
	if o.StallLimit == 0 {
		o.StallLimit = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.disk == nil {
		o.disk = osDisk{}
	}
	return o
}

func validName(s string, most int) bool {
	if s == "" || len(s) > most || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
