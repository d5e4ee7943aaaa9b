package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// segment is one segment of an open journal: a spare that waits to be used,
// the active one, one being copied out, or one that is complete on disk.
type segment struct {
	number uint64
	base   uint64 // seq of the first frame; set when it becomes active
	boot   uint64
	nonce  uint64
	size   uint32 // of the front; 0 when there is none to append to
	name   string // of the file on disk
	front  string // name of the front; empty when there is none

	// mem is the mapped front. Appenders use it without a lock: a place in it
	// can be reserved only before closedAt is set, and it is unmapped only after
	// every reserved place was committed.
	mem []byte

	_ [64]byte
	// tail is what is reserved: frames in the high, end offset in the low half.
	tail atomic.Uint64
	_    [56]byte

	// closedAt is the tail at which the segment was closed to appends; 0 before.
	closedAt atomic.Uint64

	ahead     atomic.Uint32 // pages before this were made present
	walk      sync.Mutex
	committed atomic.Uint32 // all before this is committed
	durable   atomic.Uint32 // all before this is on disk

	mu     sync.RWMutex // readers of mem against its unmapping
	mapped bool

	file   file         // while it is being copied out; the flusher's
	sealed atomic.Int64 // Unix ms of its sealing; 0 before
}

func segmentName(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%012d.seg", number))
}

func frontName(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%012d.front", number))
}

// listNumbered returns the files of dir named by a number and ext.
func listNumbered(dir, ext string) (map[uint64]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, err
	}
	found := map[uint64]string{}
	for _, e := range list {
		head, ok := strings.CutSuffix(e.Name(), ext)
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(head, 10, 64); err == nil && n > 0 {
			found[n] = filepath.Join(dir, e.Name())
		}
	}
	return found, nil
}

// newSegment allocates a spare. The disk comes first: a full one is found
// before memory is taken.
func (j *Journal) newSegment() (*segment, error) {
	s := &segment{
		number: j.nextNumber,
		boot:   j.node.Boot,
		nonce:  randomNonce(),
		size:   uint32(j.opt.SegmentSize),
		name:   segmentName(j.dir, j.nextNumber),
		front:  frontName(j.node.fronts(j.dir), j.nextNumber),
	}
	f, err := j.opt.disk.create(s.name, int64(j.opt.SegmentSize))
	if err != nil {
		return nil, err
	}
	if s.mem, err = createFront(s.front, j.opt.SegmentSize); err != nil {
		_ = f.Close()
		_ = os.Remove(s.name)
		return nil, err
	}
	s.mapped = true
	s.file = f
	s.ahead.Store(min(s.size, aheadBytes))
	s.tail.Store(headerSize)
	s.committed.Store(headerSize)
	s.durable.Store(headerSize)
	j.nextNumber++
	return s, nil
}

// activate gives a spare its place in the order. Its header makes it count.
func (s *segment) activate(base uint64, id [16]byte, createdMs int64) {
	s.base = base
	h := header{segment: s.number, boot: s.boot, base: base, nonce: s.nonce, created: createdMs, journal: id}
	h.put(s.mem)
}

// discard removes a spare, or an active segment that was never written to.
func (s *segment) discard() {
	s.unmap()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	_ = os.Remove(s.front)
	_ = os.Remove(s.name)
}

// unmap gives the front's mapping back. The caller knows that nothing is
// being appended any more.
func (s *segment) unmap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mapped {
		s.mapped = false
		_ = unix.Munmap(s.mem)
	}
}

// aheadBytes is how much of a front is made present before it is needed. All
// of it would count as the process's memory.
const aheadBytes = 1 << 20

// runsShort reports whether appenders come near the pages not yet present.
func (s *segment) runsShort() bool {
	ahead := s.ahead.Load()
	return ahead < s.size && uint32(s.tail.Load())+aheadBytes/2 > ahead
}

// prefault makes the pages ahead of the tail present. It may wait for the
// file system.
func (s *segment) prefault() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	from := min(uint32(s.tail.Load()), s.size) &^ 4095
	to := min(from+aheadBytes, s.size)
	if s.mapped && from < to {
		repopulate(s.mem[from:to])
		s.ahead.Store(to)
	}
}

// copyFront copies what lies at off into b, and reports false when the front
// is gone and the file on disk must be read.
func (s *segment) copyFront(b []byte, off uint32) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.mapped {
		return false
	}
	copy(b, s.mem[off:])
	return true
}

// end returns the offset and the seq behind the last frame, and whether the
// segment is closed to appends.
func (s *segment) end() (off uint32, seq uint64, closed bool) {
	v := s.closedAt.Load()
	if v != 0 {
		return uint32(v), s.base + v>>32, true
	}
	v = s.tail.Load()
	if uint32(v) > s.size { // between the crossing and its being published
		v = uint64(s.committed.Load()) | v&^0xffffffff
	}
	return uint32(v), s.base + v>>32, false
}

// advance moves committed over the frames finished since, and reports whether
// it moved.
func (s *segment) advance() bool {
	s.walk.Lock()
	defer s.walk.Unlock()
	off := s.committed.Load()
	limit := s.size
	if v := s.closedAt.Load(); v != 0 {
		limit = uint32(v)
	}
	was := off
	for off+frameHeader <= limit {
		n := committed(s.mem[off:])
		if n == 0 {
			break
		}
		off += n
	}
	if off == was {
		return false
	}
	s.committed.Store(off)
	return true
}

// complete reports whether the segment is closed and every place reserved in
// it was committed.
func (s *segment) complete() bool {
	v := s.closedAt.Load()
	return v != 0 && s.committed.Load() == uint32(v)
}
