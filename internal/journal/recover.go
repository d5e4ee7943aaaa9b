package journal

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// image is one segment as it is on disk with its front laid over it.
type image struct {
	number uint64
	b      []byte
	h      header
	ok     bool   // the header is valid
	unused bool   // allocated and never written to
	from   uint32 // first offset that comes from the front; 0 without a front
	lost   bool   // it was in use and has no front
	size   int64  // of the file on disk
}

// loadImage reads segment number from its file on disk and its front, either
// of which may be "" for absent. It changes nothing.
//
// As far as the frames on disk are whole, the disk is right: after a crash of
// the machine the front, which is never synced, may have lost what the disk
// has. From there on the front is right, which the dead process wrote last.
func loadImage(number uint64, seg, front string, id [16]byte) (image, error) {
	m := image{number: number}
	var disk, over []byte
	var err error
	if seg != "" {
		if disk, err = os.ReadFile(seg); err != nil {
			return m, fmt.Errorf("journal: %w", err)
		}
		m.size = int64(len(disk))
	}
	if front != "" {
		if over, err = os.ReadFile(front); err != nil {
			return m, fmt.Errorf("journal: %w", err)
		}
	}
	dh, dok := parseHeader(disk)
	fh, fok := parseHeader(over)
	for _, h := range []struct {
		header
		ok   bool
		name string
	}{{dh, dok, seg}, {fh, fok, front}} {
		if h.ok && (h.journal != id || h.segment != number) {
			return m, fmt.Errorf("journal: %s belongs to another journal or place: remove it, or restore the folder whole", h.name)
		}
	}
	switch {
	case fok && dok && dh.nonce != fh.nonce:
		return m, fmt.Errorf("journal: %s does not belong to %s: remove the one that is older", front, seg)
	case dok && (dh.sealed != 0 || !fok):
		m.b, m.h, m.ok = disk, dh, true
		m.lost = dh.sealed == 0
	case fok:
		m.b, m.h, m.ok = over, fh, true
		m.from = headerSize
		m.h.durable = 0
		if dok {
			m.from, m.h.durable = onDisk(disk, &dh), dh.durable
			m.b = append(disk[:m.from:m.from], over[min(int(m.from), len(over)):]...)
		}
	case blank(disk):
		m.unused = true
	default:
		m.b = disk
		if m.b == nil {
			m.b = over
		}
	}
	return m, nil
}

// onDisk returns the end of the frames that are whole on disk, and at least
// the durable mark: damage before it is not to be papered over.
func onDisk(disk []byte, h *header) uint32 {
	off := uint32(headerSize)
	for int(off) < len(disk) {
		f, ok := parseFrame(disk[off:], off, h.nonce)
		if !ok {
			break
		}
		off += f.size
	}
	return min(max(off, h.durable), uint32(len(disk)))
}

// blank reports whether a header was never written.
func blank(b []byte) bool {
	return len(bytes.TrimRight(b[:min(len(b), headerSize)], "\x00")) == 0
}

// recover brings every segment of earlier boots into its final form on disk
// and returns the seq for the next record. It may be interrupted anywhere and
// run again.
func (j *Journal) recover(before *nodeState) (uint64, error) {
	segs, err := listNumbered(j.dir, ".seg")
	if err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	fronts, err := before.ownFronts(j.dir)
	if err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	j.report = Report{Node: j.node.Node, Boot: j.node.Boot - 1, Cursors: map[string]Position{}}
	var most Position
	least := Position{}
	for name, c := range j.cursors {
		j.report.Cursors[name] = c.acked
		if c.acked.Segment > most.Segment {
			most = c.acked
		}
		if least.IsZero() || c.acked.Before(least) {
			least = c.acked
		}
		if c.acked.IsZero() {
			least = Position{Segment: 1}
		}
	}
	seq := uint64(1)
	for _, c := range j.cursors {
		seq = max(seq, c.acked.Seq)
	}
	acked, behind := leastSeq(j.report.Cursors), &segment{}
	last := most.Segment
	numbers := slices.Sorted(maps.Keys(segs))
	for n := range fronts {
		if segs[n] == "" {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		last = max(last, n)
		s, err := j.recoverSegment(n, segs[n], fronts[n], least, seq)
		if err != nil {
			return 0, err
		}
		if s != nil {
			j.segs = append(j.segs, s)
			_, end, _ := s.end()
			if s.boot == behind.boot {
				_, end, _ := behind.end()
				j.report.miss(end, s.base, acked)
			}
			behind = s
			seq = max(seq, end)
		}
	}
	j.nextNumber = last + 1
	if before.Front != j.node.Front {
		before.dropFronts()
	}
	if r := &j.report; r.Unsealed > 0 || !r.OK() {
		j.opt.Log.Warn("journal recovered", "dir", j.dir, "report", r.String())
	}
	return seq, nil
}

// recoverSegment brings one segment into its final form. Segments before
// least are not read when they are sealed. It returns nil for one that held
// nothing.
func (j *Journal) recoverSegment(n uint64, seg, front string, least Position, seq uint64) (*segment, error) {
	if seg != "" && front == "" && n < least.Segment {
		if s, err := sealedSegment(n, seg); s != nil || err != nil {
			j.report.Unchecked++
			return s, err
		}
	}
	m, err := loadImage(n, seg, front, j.node.id())
	if err != nil {
		return nil, err
	}
	if m.unused {
		return nil, removeAll(seg, front)
	}
	if !m.ok { // the header is damaged: nothing can be read, nothing is thrown away
		s := scanned{end: uint32(len(m.b)), endSeq: seq, corrupt: headerSize}
		m.h = header{segment: n, base: seq}
		j.report.add(seg, &m.h, &s, m.size)
		return diskSegment(&m.h, seg, s.end, s.endSeq), nil
	}
	if m.h.sealed == 0 {
		j.report.Unsealed++
		if m.lost {
			j.report.FrontsMissing++
		}
	}
	var ends map[uint32]uint64 // offset behind a frame -> seq
	if m.h.sealed == 0 {
		ends = map[uint32]uint64{headerSize: m.h.base}
	}
	found, err := scan(m.b, &m.h, func(off uint32, f frame) error {
		if ends != nil {
			ends[off+f.size] = f.seq + 1
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	name := segmentName(j.dir, n)
	j.report.add(name, &m.h, &found, m.size)
	if found.end == headerSize && found.corrupt == 0 {
		return nil, removeAll(seg, front)
	}
	if m.h.sealed == 0 {
		padHoles(m.b, &m.h, found.holes, func(off uint32) uint64 { return ends[off] })
		m.h.durable, m.h.sealed, m.h.endSeq = found.end, found.end, found.endSeq
		if err := writeSealed(name, m.b[:found.end], &m.h, max(m.from, headerSize)); err != nil {
			return nil, err
		}
	}
	if err := removeAll("", front); err != nil {
		return nil, err
	}
	return diskSegment(&m.h, name, m.h.sealed, m.h.endSeq), nil
}

// sealedSegment describes a sealed file from its header alone, or returns nil.
func sealedSegment(n uint64, name string) (*segment, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	b := make([]byte, headerSize)
	if k, _ := f.ReadAt(b, 0); k < headerSize {
		return nil, nil
	}
	h, ok := parseHeader(b)
	if !ok || h.sealed == 0 || h.segment != n {
		return nil, nil
	}
	return diskSegment(&h, name, h.sealed, h.endSeq), nil
}

// diskSegment returns a segment that is complete on disk.
func diskSegment(h *header, name string, end uint32, endSeq uint64) *segment {
	s := &segment{number: h.segment, base: h.base, boot: h.boot, nonce: h.nonce, name: name}
	v := (endSeq-h.base)<<32 | uint64(end)
	s.tail.Store(v)
	s.closedAt.Store(v)
	s.committed.Store(end)
	s.durable.Store(end)
	s.sealed.Store(max(1, h.created))
	if st, err := os.Stat(name); err == nil {
		s.sealed.Store(max(1, st.ModTime().UnixMilli()))
	}
	return s
}

// writeSealed writes b from offset from on and its header to the file name,
// sealed and durable. The header goes last: until it is there, this can be
// done again from the front.
func writeSealed(name string, b []byte, h *header, from uint32) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer f.Close()
	step := func(what string, err error) error {
		if err != nil {
			return fmt.Errorf("journal: %s %s: %w", what, name, err)
		}
		return nil
	}
	if int(from) < len(b) {
		if _, err := f.WriteAt(b[from:], int64(from)); err != nil {
			return step("write", err)
		}
		if err := datasync(f); err != nil {
			return step("sync", err)
		}
	}
	var head [headerSize]byte
	h.put(head[:])
	if _, err := f.WriteAt(head[:], 0); err != nil {
		return step("write", err)
	}
	if err := f.Truncate(int64(len(b))); err != nil {
		return step("truncate", err)
	}
	if err := f.Sync(); err != nil {
		return step("sync", err)
	}
	return step("sync", syncDir(filepath.Dir(name)))
}

func removeAll(names ...string) error {
	for _, n := range names {
		if n == "" {
			continue
		}
		if err := os.Remove(n); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("journal: %w", err)
		}
	}
	return nil
}
