package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// Reader reads a journal from a position on, in order. It belongs to one
// goroutine and need not be closed before the journal, but holds a file while
// it is open.
type Reader struct {
	j       *Journal
	durable bool
	pos     Position // of the next record

	seg   *segment // the one pos lies in; nil when not looked up
	boot  uint64
	nonce uint64
	file  *os.File
	buf   []byte
	at    uint32 // offset of buf in the segment
}

const readChunk = 64 << 10 // more than the greatest frame

// Reader returns a reader of the records at or after from, of all there are
// for the zero Position. It holds nothing back from being removed: use a
// Consumer where every record must be seen.
func (j *Journal) Reader(from Position) *Reader { return &Reader{j: j, pos: from} }

// DurableOnly makes the reader deliver only what is on disk, so that nothing
// it has delivered can be lost by a crash of the machine. It returns r.
func (r *Reader) DurableOnly() *Reader {
	r.durable = true
	return r
}

// Position returns the place of the next record.
func (r *Reader) Position() Position { return r.pos }

// Next waits for the next record. It answers ctx's error, ErrClosed when the
// journal was closed, or a *CorruptError, the last again and again.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		moved := r.j.wake.wait()
		rec, ok, err := r.TryNext()
		if ok || err != nil {
			return rec, err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		case <-r.j.quit:
			return Record{}, ErrClosed
		}
	}
}

// TryNext returns the next record, or false when there is none yet.
func (r *Reader) TryNext() (Record, bool, error) {
	for {
		ok, err := r.fill()
		if !ok || err != nil {
			return Record{}, false, err
		}
		f, ok := parseFrame(r.buf[r.pos.Offset-r.at:], r.pos.Offset, r.nonce)
		if !ok {
			if r.pos.Offset == r.at {
				return Record{}, false, &CorruptError{File: r.seg.name, Pos: r.pos}
			}
			r.buf = r.buf[:0] // it may go on behind the chunk
			continue
		}
		rec := Record{
			Pos:  Position{Segment: r.pos.Segment, Offset: r.pos.Offset, Seq: f.seq},
			End:  Position{Segment: r.pos.Segment, Offset: r.pos.Offset + f.size, Seq: f.seq + 1},
			Kind: f.kind, Boot: r.boot, Payload: f.payload,
		}
		r.pos = rec.End
		if f.kind != kindPad {
			return rec, true, nil
		}
	}
}

// SkipCorrupt moves behind the damage a *CorruptError told of, to the next
// valid record, and returns how many bytes were passed over. It is for an
// operator who has settled by hand what is lost.
func (r *Reader) SkipCorrupt() (int64, error) {
	ok, err := r.fill()
	if !ok || err != nil {
		return 0, err
	}
	limit, _ := r.limit()
	rest := make([]byte, limit-r.pos.Offset)
	if err := r.read(rest, r.pos.Offset); err != nil {
		return 0, err
	}
	n := uint32(8)
	for ; int(n) < len(rest); n += 8 {
		if f, ok := parseFrame(rest[n:], r.pos.Offset+n, r.nonce); ok && f.seq >= r.pos.Seq {
			r.pos.Seq = f.seq
			break
		}
	}
	n = min(n, uint32(len(rest)))
	r.pos.Offset += n
	r.buf = r.buf[:0]
	return int64(n), nil
}

// fill makes the bytes at pos present in buf, moving on over the ends of
// segments, and reports false when there is nothing to read yet.
func (r *Reader) fill() (bool, error) {
	for {
		if r.seg == nil && !r.enter() {
			return false, nil
		}
		if end := r.at + uint32(len(r.buf)); r.pos.Offset >= r.at && r.pos.Offset < end {
			return true, nil
		}
		limit, last := r.limit()
		if r.pos.Offset >= limit {
			if !last {
				return false, nil
			}
			if !r.leave() {
				return false, nil
			}
			continue
		}
		if r.buf == nil {
			r.buf = make([]byte, 0, readChunk)
		}
		r.buf = r.buf[:min(limit-r.pos.Offset, readChunk)]
		r.at = r.pos.Offset
		err := r.read(r.buf, r.at)
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile: everyone was done with it
			if r.leave() {
				continue
			}
			return false, nil
		}
		if err != nil {
			r.buf = r.buf[:0]
			return false, fmt.Errorf("journal: read %s: %w", r.seg.name, err)
		}
		return true, nil
	}
}

// enter finds the segment of pos, or the first one after it.
func (r *Reader) enter() bool {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	i, found := slices.BinarySearchFunc(r.j.segs, r.pos.Segment, func(s *segment, n uint64) int {
		return Position{Segment: s.number}.Compare(Position{Segment: n})
	})
	if i == len(r.j.segs) {
		return false
	}
	r.seg = r.j.segs[i]
	r.boot, r.nonce = r.seg.boot, r.seg.nonce
	if !found || r.pos.Offset < headerSize {
		r.pos = Position{Segment: r.seg.number, Offset: headerSize, Seq: r.seg.base}
	}
	r.buf = r.buf[:0]
	r.at = 0
	return true
}

// leave moves to the segment after the present one, if there is one.
func (r *Reader) leave() bool {
	r.j.mu.Lock()
	more := len(r.j.segs) > 0 && r.j.segs[len(r.j.segs)-1].number > r.seg.number
	r.j.mu.Unlock()
	if !more {
		return false
	}
	r.release()
	r.pos = Position{Segment: r.pos.Segment + 1, Seq: r.pos.Seq}
	return true
}

func (r *Reader) release() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
	r.seg = nil
	r.buf = r.buf[:0]
	r.at = 0
}

// limit returns the offset up to which the segment can be read now, and
// whether nothing will come after it there.
func (r *Reader) limit() (uint32, bool) {
	s := r.seg
	if s.sealed.Load() == 0 && !s.complete() {
		s.advance()
	}
	off := s.committed.Load()
	last := s.complete()
	if r.durable && s.sealed.Load() == 0 {
		if d := s.durable.Load(); d != off {
			off, last = d, false
		}
	}
	return off, last
}

// read reads len(b) bytes at off, from the front while there is one.
func (r *Reader) read(b []byte, off uint32) error {
	if r.file == nil {
		if r.seg.copyFront(b, off) {
			return nil
		}
		f, err := os.Open(r.seg.name)
		if err != nil {
			return err
		}
		r.file = f
	}
	n, err := r.file.ReadAt(b, int64(off))
	if errors.Is(err, io.EOF) { // cut short by someone: what is missing fails its check
		clear(b[n:])
		return nil
	}
	return err
}

// Close gives the reader's file back. A closed reader may be used again.
func (r *Reader) Close() error {
	r.release()
	return nil
}
