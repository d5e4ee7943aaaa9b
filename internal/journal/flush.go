package journal

import (
	"fmt"
	"os"
	"time"
)

// spareTarget is how many segments are kept ready: the next one and the
// reserve.
const spareTarget = 2

// pump looks SyncEvery after the first append of a round for what was
// finished, and wakes the readers and the flusher. Between rounds it sleeps
// without a timer: an idle journal costs nothing.
func (j *Journal) pump() {
	defer j.done.Done()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-j.kickPump:
		case <-j.quit:
			return
		}
		if !j.opt.Strict {
			timer.Reset(j.opt.SyncEvery)
			select {
			case <-timer.C:
			case <-j.quit:
				return
			}
		}
		j.dirty.Store(false) // before looking: a later append pokes again
		j.publish()
		poke(j.kickFlush)
		if j.active.Load().runsShort() {
			poke(j.kickAlloc)
		}
		j.checkStall()
	}
}

// publish advances what is committed and wakes the readers.
func (j *Journal) publish() {
	moved := false
	for _, s := range j.open() {
		if !s.complete() && s.advance() {
			moved = true
		}
	}
	if moved {
		j.wake.notify()
	}
}

// open returns the segments that are not yet complete on disk.
func (j *Journal) open() []*segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	first := len(j.segs)
	for first > 0 && j.segs[first-1].sealed.Load() == 0 {
		first--
	}
	return append([]*segment(nil), j.segs[first:]...)
}

// checkStall takes a disk that is not done allocating for full.
func (j *Journal) checkStall() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.spares) < spareTarget && !j.allocSince.IsZero() && time.Since(j.allocSince) > j.opt.StallLimit {
		j.full.Store(true)
	}
}

// flusher copies what is committed to disk.
func (j *Journal) flusher() {
	defer j.done.Done()
	for {
		select {
		case <-j.kickFlush:
		case <-j.quit:
			return
		}
		if j.broken.Load() != nil {
			continue
		}
		if err := j.flush(); err != nil {
			j.stop(err)
		}
	}
}

// flush copies all that is committed, oldest segment first, and seals the
// segments that are complete.
func (j *Journal) flush() error {
	j.flushMu.Lock()
	defer j.flushMu.Unlock()
	for _, s := range j.open() {
		if err := j.flushSegment(s); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) flushSegment(s *segment) error {
	to, from := s.committed.Load(), s.durable.Load()
	if to > from {
		began := time.Now()
		// The mark says what an earlier sync made durable; it becomes durable
		// itself with this one.
		if from > headerSize {
			putMark(s.mem[72:], from)
		}
		if _, err := s.file.WriteAt(s.mem[:headerSize], 0); err != nil {
			return fmt.Errorf("write %s: %w", s.name, err)
		}
		if _, err := s.file.WriteAt(s.mem[from:to], int64(from)); err != nil {
			return fmt.Errorf("write %s: %w", s.name, err)
		}
		if err := s.file.datasync(); err != nil {
			return fmt.Errorf("sync %s: %w", s.name, err)
		}
		j.lastSync.Store(int64(time.Since(began)))
		j.syncs.Add(1)
		s.durable.Store(to)
		j.wake.notify()
	}
	if !s.complete() || s.durable.Load() != s.committed.Load() {
		return nil
	}
	return j.seal(s)
}

// seal marks a segment that is whole on disk as finished, gives the disk what
// it does not need, and removes the front.
func (j *Journal) seal(s *segment) error {
	end, endSeq, _ := s.end()
	if end == headerSize { // never used: leave no trace
		j.mu.Lock()
		if n := len(j.segs); n > 0 && j.segs[n-1] == s {
			j.segs = j.segs[:n-1]
		}
		j.mu.Unlock()
		s.sealed.Store(1)
		s.discard()
		return nil
	}
	h, ok := parseHeader(s.mem)
	if !ok {
		return fmt.Errorf("front %s: its header was overwritten", s.front)
	}
	h.durable, h.sealed, h.endSeq = end, end, endSeq
	var b [headerSize]byte
	h.put(b[:])
	if _, err := s.file.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("write %s: %w", s.name, err)
	}
	if err := s.file.Truncate(int64(end)); err != nil {
		return fmt.Errorf("truncate %s: %w", s.name, err)
	}
	if err := s.file.datasync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.name, err)
	}
	if err := s.file.Close(); err != nil {
		return fmt.Errorf("close %s: %w", s.name, err)
	}
	s.file = nil
	s.sealed.Store(j.opt.Now().UnixMilli())
	s.unmap()
	if err := os.Remove(s.front); err != nil {
		return fmt.Errorf("remove %s: %w", s.front, err)
	}
	j.wake.notify()
	poke(j.kickAlloc)
	return nil
}

// allocator keeps spares ready, removes what every consumer is done with, and
// keeps the pages just ahead of the appenders present. All of it may wait for
// the disk; nothing waits for it.
func (j *Journal) allocator() {
	defer j.done.Done()
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	defer retry.Stop()
	for {
		select {
		case <-j.kickAlloc:
		case <-retry.C:
		case <-j.quit:
			return
		}
		j.active.Load().prefault()
		j.free()
		if !j.allocate() {
			retry.Reset(j.opt.StallLimit)
		}
	}
}

// allocate brings the spares to their number and reports whether it could.
func (j *Journal) allocate() bool {
	for {
		j.mu.Lock()
		if len(j.spares) >= spareTarget && j.active.Load().size > 0 || j.closed || j.broken.Load() != nil {
			j.mu.Unlock()
			return true
		}
		j.allocSince = time.Now()
		j.mu.Unlock()

		s, err := j.newSegment()

		j.mu.Lock()
		j.allocSince = time.Time{}
		if err != nil && j.allocErr == nil {
			j.opt.Log.Error("journal segment cannot be allocated", "dir", j.dir, "error", err)
		}
		if j.allocErr = err; err == nil {
			j.spares = append(j.spares, s)
			if j.active.Load().size == 0 {
				j.takeSpare()
			}
		}
		switch {
		case len(j.spares) >= spareTarget:
			j.full.Store(false)
		case err != nil:
			j.full.Store(true)
		}
		j.mu.Unlock()
		j.spareMade.notify()
		if err != nil {
			return false
		}
	}
}

// free removes the segments that every consumer has acknowledged and whose
// retention is over.
func (j *Journal) free() {
	for {
		s := j.takeFreed()
		if s == nil {
			return
		}
		if err := os.Remove(s.name); err != nil && !os.IsNotExist(err) {
			j.opt.Log.Error("journal segment cannot be removed", "file", s.name, "error", err)
		}
	}
}

func (j *Journal) takeFreed() *segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segs) == 0 || j.segs[0] == j.active.Load() {
		return nil
	}
	s := j.segs[0]
	sealed := s.sealed.Load()
	if sealed == 0 || j.opt.Now().UnixMilli()-sealed < j.opt.Retain.Milliseconds() {
		return nil
	}
	off, seq, _ := s.end()
	end := Position{Segment: s.number, Offset: off, Seq: seq}
	for _, c := range j.cursors {
		if c.acked.Before(end) {
			return nil
		}
	}
	j.segs = append(j.segs[:0], j.segs[1:]...)
	return s
}
