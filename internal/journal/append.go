package journal

import (
	"fmt"
	"runtime"
	"time"
)

// Append writes one record and returns its position.
//
// When it returns without an error the record survives the death of the
// process; with Options.Strict it is on disk as well. It does not ask
// CanAdmit: a call that was admitted is recorded even after the disk filled up
// or failed, as long as the reserve lasts. ErrFull and ErrStopped from Append
// mean that the record is not kept. In strict mode ErrStopped means that it is
// kept in the front but is not known to be on disk.
//
// Append may be called from any number of goroutines; it does not allocate
// and does not keep payload.
func (j *Journal) Append(kind Kind, payload []byte) (Position, error) {
	if kind == kindNone || kind > maxKind {
		return Position{}, ErrKind
	}
	if len(payload) > MaxPayload {
		return Position{}, ErrTooLarge
	}
	n := frameSize(len(payload))
	for {
		s := j.active.Load()
		if uint32(s.tail.Load()) <= s.size {
			v := s.tail.Add(1<<32 | uint64(n))
			off := uint32(v) - n
			if uint32(v) <= s.size {
				seq := s.base + v>>32 - 1
				putFrame(s.mem, off, s.nonce, seq, kind, payload)
				if !j.dirty.Load() && j.dirty.CompareAndSwap(false, true) {
					poke(j.kickPump)
				}
				if j.opt.Strict {
					if err := j.waitDurable(s, uint32(v)); err != nil {
						return Position{}, err
					}
				}
				return Position{Segment: s.number, Offset: off, Seq: seq}, nil
			}
			if off <= s.size { // the one that crosses the end closes the segment
				s.closedAt.Store(v - (1<<32 | uint64(n)))
			}
		}
		if err := j.rotate(s); err != nil {
			return Position{}, err
		}
	}
}

// CanAdmit answers nil while a metered call may be taken: the journal promises
// room for its record. ErrFull passes by itself when room was made; ErrStopped
// and ErrClosed stay. It costs two atomic loads.
func (j *Journal) CanAdmit() error {
	if j.state.Load() != nil {
		return *j.state.Load()
	}
	if j.full.Load() {
		return ErrFull
	}
	return nil
}

// rotate replaces the active segment s by a spare. It waits for an allocation
// only when both spares are used up and the disk has not refused.
func (j *Journal) rotate(s *segment) error {
	var giveUp <-chan time.Time
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		if j.closed {
			return ErrClosed
		}
		if j.active.Load() != s {
			return nil
		}
		if len(j.spares) > 0 {
			for s.closedAt.Load() == 0 {
				runtime.Gosched() // its crosser is between two instructions
			}
			j.takeSpare()
			return nil
		}
		if j.allocErr != nil {
			return fmt.Errorf("%w: %w", ErrFull, j.allocErr)
		}
		if err := j.state.Load(); err != nil {
			return *err // after a disk error no segment is added
		}
		j.full.Store(true)
		poke(j.kickAlloc)
		made := j.spareMade.wait()
		if giveUp == nil {
			t := time.NewTimer(j.opt.StallLimit)
			defer t.Stop()
			giveUp = t.C
		}
		j.mu.Unlock()
		select {
		case <-made:
			j.mu.Lock()
		case <-giveUp:
			j.mu.Lock()
			return ErrFull
		}
	}
}

// takeSpare makes the first spare the active segment. The caller holds j.mu.
func (j *Journal) takeSpare() {
	old := j.active.Load()
	_, seq, _ := old.end()
	next := j.spares[0]
	j.spares = append(j.spares[:0], j.spares[1:]...)
	next.activate(seq, j.node.id(), j.opt.Now().UnixMilli())
	j.segs = append(j.segs, next)
	j.active.Store(next)
	if len(j.spares) == 0 {
		j.full.Store(true) // the reserve itself is in use
	}
	poke(j.kickAlloc)
	poke(j.kickPump)
}

// waitDurable waits until all of s before off is on disk.
func (j *Journal) waitDurable(s *segment, off uint32) error {
	for {
		moved := j.wake.wait()
		if s.durable.Load() >= off {
			return nil
		}
		if err := j.failed(); err != nil {
			return err
		}
		<-moved
	}
}

// poke wakes the goroutine behind c without waiting.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
