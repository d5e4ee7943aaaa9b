package journal

import (
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"unsafe"
)

const (
	headerSize  = 128
	frameHeader = 16
	commitBit   = 1 << 31
	maxFrameLen = 1<<23 - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameSize returns the bytes a payload of n bytes takes up.
func frameSize(n int) uint32 { return uint32(frameHeader+n+7) &^ 7 }

func frameWord(kind Kind, n int) uint32 { return commitBit | uint32(n)<<8 | uint32(kind) }

// frameSeed is the start value of a frame's CRC.
func frameSeed(nonce uint64, off, word uint32) uint32 {
	x := nonce ^ (uint64(off)<<32 | uint64(word))
	x ^= x >> 32
	x *= 0x9e3779b97f4a7c15
	return uint32(x >> 32)
}

// putFrame writes a frame at off of b, its word last. The bytes behind the
// payload are zero already: every place is written once.
func putFrame(b []byte, off uint32, nonce, seq uint64, kind Kind, payload []byte) {
	f := b[off : off+frameSize(len(payload))]
	word := frameWord(kind, len(payload))
	binary.LittleEndian.PutUint64(f[8:], seq)
	copy(f[frameHeader:], payload)
	crc := crc32.Update(frameSeed(nonce, off, word), castagnoli, f[8:frameHeader+len(payload)])
	binary.LittleEndian.PutUint32(f[4:], crc)
	storeWord(f, word)
}

// frame is one parsed frame; payload aliases the bytes it was parsed from.
type frame struct {
	kind    Kind
	seq     uint64
	size    uint32
	payload []byte
}

// parseFrame reads the frame whose bytes begin b and which lies at off of its
// segment.
func parseFrame(b []byte, off uint32, nonce uint64) (frame, bool) {
	if len(b) < frameHeader {
		return frame{}, false
	}
	word := loadWord(b)
	n := int(word >> 8 & maxFrameLen)
	if word&commitBit == 0 || Kind(word) == kindNone || n > len(b)-frameHeader {
		return frame{}, false
	}
	crc := crc32.Update(frameSeed(nonce, off, word), castagnoli, b[8:frameHeader+n])
	if crc != binary.LittleEndian.Uint32(b[4:]) {
		return frame{}, false
	}
	size := frameSize(n)
	if int(size) > len(b) {
		return frame{}, false
	}
	return frame{
		kind:    Kind(word),
		seq:     binary.LittleEndian.Uint64(b[8:]),
		size:    size,
		payload: b[frameHeader : frameHeader+n],
	}, true
}

// committed returns the size of the frame at the start of b, or 0 while it is
// not finished. It looks at the word only.
func committed(b []byte) uint32 {
	word := loadWord(b)
	if word&commitBit == 0 {
		return 0
	}
	return frameSize(int(word >> 8 & maxFrameLen))
}

// bigEndian is constant folded away on the machines Tollgate runs on.
var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// storeWord and loadWord access the first four bytes of b, which are aligned,
// atomically: what was stored before a word is seen by whoever loads it.
func storeWord(b []byte, w uint32) {
	if bigEndian {
		w = w>>24 | w>>8&0xff00 | w<<8&0xff0000 | w<<24
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(b))), w)
}

func loadWord(b []byte) uint32 {
	if uintptr(unsafe.Pointer(unsafe.SliceData(b)))&3 != 0 {
		return binary.LittleEndian.Uint32(b)
	}
	w := atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(b))))
	if bigEndian {
		w = w>>24 | w>>8&0xff00 | w<<8&0xff0000 | w<<24
	}
	return w
}

// header is the fixed part of a segment.
type header struct {
	segment uint64
	boot    uint64
	base    uint64 // seq of the first frame
	nonce   uint64
	created int64 // Unix ms
	journal [16]byte
	durable uint32 // 0: nothing known to be on disk
	sealed  uint32 // 0: not sealed
	endSeq  uint64 // once sealed
}

const magic = "TGJRNL1\n"

func (h *header) put(b []byte) {
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[8:], h.segment)
	binary.LittleEndian.PutUint64(b[16:], h.boot)
	binary.LittleEndian.PutUint64(b[24:], h.base)
	binary.LittleEndian.PutUint64(b[32:], h.nonce)
	binary.LittleEndian.PutUint64(b[40:], uint64(h.created))
	copy(b[48:64], h.journal[:])
	binary.LittleEndian.PutUint32(b[64:], crc32.Checksum(b[:64], castagnoli))
	putMark(b[72:], h.durable)
	putMark(b[80:], h.sealed)
	binary.LittleEndian.PutUint64(b[88:], h.endSeq)
}

// parseHeader reads a header. It answers false for a file that was allocated
// and never used as well as for a damaged one.
func parseHeader(b []byte) (header, bool) {
	if len(b) < headerSize || string(b[:8]) != magic ||
		crc32.Checksum(b[:64], castagnoli) != binary.LittleEndian.Uint32(b[64:]) {
		return header{}, false
	}
	h := header{
		segment: binary.LittleEndian.Uint64(b[8:]),
		boot:    binary.LittleEndian.Uint64(b[16:]),
		base:    binary.LittleEndian.Uint64(b[24:]),
		nonce:   binary.LittleEndian.Uint64(b[32:]),
		created: int64(binary.LittleEndian.Uint64(b[40:])),
		durable: getMark(b[72:]),
		sealed:  getMark(b[80:]),
		endSeq:  binary.LittleEndian.Uint64(b[88:]),
	}
	copy(h.journal[:], b[48:64])
	return h, true
}

// A mark is an offset with its own check, so that a torn one counts as none.
func putMark(b []byte, off uint32) {
	var v uint64
	if off != 0 {
		v = uint64(off) | uint64(off^0x5bd1e995)<<32
	}
	binary.LittleEndian.PutUint64(b, v)
}

func getMark(b []byte) uint32 {
	v := binary.LittleEndian.Uint64(b)
	off := uint32(v)
	if off == 0 || uint32(v>>32) != off^0x5bd1e995 {
		return 0
	}
	return off
}
