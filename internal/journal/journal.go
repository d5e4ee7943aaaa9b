package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Journal is the open journal of one node. All methods are safe for concurrent
// use.
type Journal struct {
	opt  Options
	dir  string
	node nodeState
	lock *os.File

	active atomic.Pointer[segment]
	dirty  atomic.Bool           // something was appended since the pump last looked
	full   atomic.Bool           // CanAdmit refuses
	state  atomic.Pointer[error] // ErrStopped or ErrClosed
	broken atomic.Pointer[error] // the disk's error behind ErrStopped

	mu         sync.Mutex
	segs       []*segment // in order; the last is the active one
	spares     []*segment
	cursors    map[string]*Consumer
	nextNumber uint64 // the allocator's
	allocErr   error  // of the last allocation
	allocSince time.Time
	closed     bool

	firstSeq  uint64 // of this boot
	report    Report
	wake      signal // something was committed or became durable
	spareMade signal
	kickPump  chan struct{}
	kickFlush chan struct{}
	kickAlloc chan struct{}
	quit      chan struct{}
	done      sync.WaitGroup

	flushMu  sync.Mutex
	lastSync atomic.Int64 // ns the last write and sync took
	syncs    atomic.Int64
}

// Open opens the journal in dir, which it makes if needed, finishes what a
// crash interrupted and begins a new boot of the node. What it found is in
// Recovered. A disk without room is not an error of Open: the journal can be
// read, and CanAdmit answers ErrFull until there is room.
func Open(dir string, opt Options) (*Journal, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w: give a folder that can be written to", err)
	}
	j := &Journal{
		opt:       opt.withDefaults(),
		dir:       dir,
		cursors:   map[string]*Consumer{},
		kickPump:  make(chan struct{}, 1),
		kickFlush: make(chan struct{}, 1),
		kickAlloc: make(chan struct{}, 1),
		quit:      make(chan struct{}),
	}
	if j.lock, err = lockFile(dir); err != nil {
		return nil, err
	}
	if err := j.start(); err != nil {
		j.release()
		return nil, err
	}
	return j, nil
}

func (j *Journal) start() error {
	now, before, err := bootNode(j.dir, &j.opt)
	if err != nil {
		return err
	}
	j.node = now
	for _, name := range j.opt.Consumers {
		c, err := openConsumer(j, name)
		if err != nil {
			return err
		}
		j.cursors[name] = c
	}
	seq, err := j.recover(&before)
	if err != nil {
		return err
	}
	j.firstSeq = seq
	if err := now.makeFronts(j.dir); err != nil {
		return fmt.Errorf("journal: front: %w: give a folder that can be written to", err)
	}

	// Until a first segment is had, appends meet one that is closed already.
	none := &segment{base: seq}
	none.closedAt.Store(headerSize)
	none.committed.Store(headerSize)
	none.tail.Store(1 << 31)
	j.active.Store(none)
	j.full.Store(true)
	j.mu.Lock()
	for range spareTarget + 1 {
		s, err := j.newSegment()
		if err != nil {
			j.allocErr = err
			j.opt.Log.Error("journal segment cannot be allocated", "dir", j.dir, "error", err)
			break
		}
		j.spares = append(j.spares, s)
	}
	if len(j.spares) > 0 {
		j.takeSpare()
	}
	j.full.Store(len(j.spares) < spareTarget)
	j.mu.Unlock()

	poke(j.kickAlloc)
	j.done.Add(3)
	go j.pump()
	go j.flusher()
	go j.allocator()
	return nil
}

// Recovered returns what Open found.
func (j *Journal) Recovered() Report { return j.report }

// End returns the place behind the last record appended so far.
func (j *Journal) End() Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.endLocked()
}

func (j *Journal) endLocked() Position {
	s := j.active.Load()
	off, seq, _ := s.end()
	return Position{Segment: s.number, Offset: off, Seq: seq}
}

// Sync waits until everything appended before the call is on disk. It answers
// ErrStopped, or ctx's error.
func (j *Journal) Sync(ctx context.Context) error {
	j.mu.Lock()
	segs := append([]*segment(nil), j.segs...)
	j.mu.Unlock()
	ends := make([]uint32, len(segs))
	for i, s := range segs {
		ends[i], _, _ = s.end()
	}
	for i, s := range segs {
		for {
			moved := j.wake.wait()
			if s.sealed.Load() != 0 || s.durable.Load() >= ends[i] {
				break
			}
			if err := j.failed(); err != nil {
				return err
			}
			j.publish()
			poke(j.kickFlush)
			select {
			case <-moved:
			case <-ctx.Done():
				return fmt.Errorf("journal: sync %s: %w", s.name, ctx.Err())
			}
		}
	}
	return nil
}

// failed returns ErrStopped with the disk's error once there was one.
func (j *Journal) failed() error {
	if err := j.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// stop ends taking after an error of the disk.
func (j *Journal) stop(cause error) {
	err := fmt.Errorf("%w: %w", ErrStopped, cause)
	if j.broken.CompareAndSwap(nil, &err) {
		j.state.CompareAndSwap(nil, &err)
		j.opt.Log.Error("journal stopped after a disk error", "dir", j.dir, "error", cause)
	}
	j.wake.notify()
	j.spareMade.notify()
}

// Close takes no more records, copies out what was appended and gives the lock
// back. Readers that wait get ErrClosed. It waits for the disk. After a disk
// error it keeps the fronts, from which the next Open recovers.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	closed := ErrClosed
	j.state.CompareAndSwap(nil, &closed)
	active := j.active.Load()
	if v := active.tail.Add(1 << 30); active.closedAt.Load() == 0 {
		if v -= 1 << 30; uint32(v) <= active.size {
			active.closedAt.Store(v)
		}
	}
	j.mu.Unlock()
	for !active.complete() { // appends that reserved a place finish in microseconds
		active.advance()
		runtime.Gosched()
	}
	j.publish()
	close(j.quit)
	j.done.Wait()
	j.spareMade.notify()

	err := j.failed()
	if err == nil {
		if err = j.flush(); err != nil {
			j.stop(err)
		}
	}
	j.wake.notify()
	j.release()
	return err
}

// release gives back everything but what later starts need.
func (j *Journal) release() {
	for _, s := range j.spares {
		s.discard()
	}
	j.spares = nil
	for _, s := range j.segs {
		s.unmap()
		if s.file != nil {
			_ = s.file.Close()
		}
	}
	for _, c := range j.cursors {
		_ = errors.Join(c.slots.sync(), c.slots.close())
	}
	j.node.dropFronts()
	_ = j.lock.Close()
}

// signal wakes everyone who waits for a change. To miss nothing, take the
// channel first and look at the condition afterwards.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
