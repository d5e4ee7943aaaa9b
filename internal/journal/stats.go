package journal

import "time"

// Stats is the state of a journal for metrics. Taking it costs the hot path
// nothing.
type Stats struct {
	Appended   int64            // records of this boot
	Segments   int              // with records, on disk or being written
	Spares     int              // segments ready to be used
	Unsynced   int64            // bytes appended and not yet on disk
	Syncs      int64            // writes to disk that were synced
	LastSync   time.Duration    // what the last one took
	Lag        map[string]int64 // records not acknowledged, by consumer
	LagBytes   map[string]int64 // bytes not acknowledged, by consumer
	Full       bool             // CanAdmit answers ErrFull
	StopReason error            // the disk's error once taking was stopped
}

// Stats returns the present state.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Stats{
		Appended:   int64(j.endLocked().Seq - j.firstSeq),
		Segments:   len(j.segs),
		Spares:     len(j.spares),
		Syncs:      j.syncs.Load(),
		LastSync:   time.Duration(j.lastSync.Load()),
		Lag:        map[string]int64{},
		LagBytes:   map[string]int64{},
		Full:       j.full.Load(),
		StopReason: j.failed(),
	}
	for _, seg := range j.segs {
		if seg.sealed.Load() == 0 {
			off, _, _ := seg.end()
			s.Unsynced += int64(off) - int64(seg.durable.Load())
		}
	}
	for name, c := range j.cursors {
		s.Lag[name] = c.lagLocked()
		s.LagBytes[name] = c.lagBytesLocked()
	}
	return s
}
