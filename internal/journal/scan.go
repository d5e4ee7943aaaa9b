package journal

import "bytes"

// span is a range of offsets in a segment.
type span struct{ from, to uint32 }

// scanned is what scan found in one segment.
type scanned struct {
	records int64  // delivered ones: padding is not counted
	end     uint32 // behind the last valid frame
	endSeq  uint64
	holes   []span // torn places with valid frames behind them
	torn    int64  // bytes in holes and behind the end that are not zero
	tornAt  uint32 // first torn offset; 0 when none
	corrupt uint32 // first invalid offset before the durable mark; 0 when none
}

// scan walks the frames of a segment's bytes. Every invalid place before
// durable is corruption, every one at or after it is torn: it was written
// while the process or the machine died. fn, which may be nil, gets each valid
// frame that is not padding, and ends the walk by returning an error.
func scan(b []byte, h *header, fn func(off uint32, f frame) error) (scanned, error) {
	durable := max(h.durable, h.sealed)
	if h.sealed != 0 && int(h.sealed) < len(b) {
		b = b[:h.sealed]
	}
	r := scanned{end: headerSize, endSeq: h.base}
	off := uint32(headerSize)
	for int(off) < len(b) {
		f, ok := parseFrame(b[off:], off, h.nonce)
		if ok && f.seq >= r.endSeq {
			if f.kind != kindPad {
				r.records++
				if fn != nil {
					if err := fn(off, f); err != nil {
						return r, err
					}
				}
			}
			off += f.size
			r.end, r.endSeq = off, f.seq+1
			continue
		}
		next := resync(b, off, h.nonce, r.endSeq)
		if off < durable {
			if r.corrupt == 0 {
				r.corrupt = off
			}
		} else if next != 0 {
			r.holes = append(r.holes, span{off, next})
			r.tear(off, int64(next-off))
		}
		if next == 0 {
			break
		}
		off = next
	}
	if h.sealed != 0 && r.end < h.sealed && r.corrupt == 0 {
		r.corrupt = r.end // the file is shorter than it was
	}
	if h.sealed == 0 && int(r.end) < len(b) {
		tail := bytes.TrimRight(b[r.end:], "\x00")
		if len(tail) > 0 && r.corrupt != r.end {
			r.tear(r.end, int64(len(tail)))
		}
	}
	return r, nil
}

func (r *scanned) tear(at uint32, n int64) {
	if r.torn == 0 {
		r.tornAt = at
	}
	r.torn += n
}

// resync returns the offset of the first valid frame behind off whose seq is
// at least least, or 0.
func resync(b []byte, off uint32, nonce, least uint64) uint32 {
	for off += 8; int(off)+frameHeader <= len(b); off += 8 {
		if committed(b[off:]) == 0 {
			continue
		}
		if f, ok := parseFrame(b[off:], off, nonce); ok && f.seq >= least {
			return off
		}
	}
	return 0
}

// padHoles fills every hole with padding frames, so that readers walk over it.
func padHoles(b []byte, h *header, holes []span, seqBefore func(off uint32) uint64) {
	for _, s := range holes {
		clear(b[s.from:s.to])
		seq := seqBefore(s.from)
		for off := s.from; off < s.to; {
			n := min(s.to-off, 1<<20)
			if rest := s.to - off - n; rest > 0 && rest < frameHeader {
				n -= frameHeader
			}
			putFrame(b, off, h.nonce, seq, kindPad, make([]byte, n-frameHeader))
			off += n
		}
	}
}
