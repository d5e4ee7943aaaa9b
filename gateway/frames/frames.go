package frames

import (
	"encoding/binary"
	"errors"
	"io"
)

// Opcodes.
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xa
)

// Close codes (RFC 6455 section 7.4.1).
const (
	StatusGoingAway = 1001
	StatusProtocol  = 1002
	StatusPolicy    = 1008
	StatusTooBig    = 1009
	StatusInternal  = 1011
)

// Errors of a peer.
var (
	ErrProtocol = errors.New("frames: the peer does not keep to the WebSocket protocol")
	ErrTooBig   = errors.New("frames: a message is larger than allowed")
)

// Frame is one frame. Its slices are good until the next is read.
type Frame struct {
	Raw     []byte // as it came, header and masked payload
	Payload []byte // unmasked
	Opcode  byte
	Final   bool
}

// Reader reads the frames of one direction.
type Reader struct {
	r      io.Reader
	masked bool // frames of clients are masked, those of servers are not
	limit  int  // of a message

	raw, plain []byte
	inMessage  bool
	size       int // of the message under way
}

// NewReader returns a reader of frames; limit bounds a message and with it what
// is kept.
func NewReader(r io.Reader, masked bool, limit int) *Reader {
	return &Reader{r: r, masked: masked, limit: limit}
}

// keepBuffer is how large a buffer may stay between two frames.
const keepBuffer = 64 << 10

// Next reads the next frame.
func (r *Reader) Next() (f Frame, err error) {
	if cap(r.raw) > keepBuffer {
		r.raw, r.plain = nil, nil
	}
	r.raw = r.raw[:0]
	if err := r.more(2); err != nil {
		return f, err
	}
	b0, b1 := r.raw[0], r.raw[1]
	f.Final, f.Opcode = b0&0x80 != 0, b0&0x0f
	n, masked := uint64(b1&0x7f), b1&0x80 != 0
	if b0&0x70 != 0 || masked != r.masked {
		return f, ErrProtocol // no extension was agreed on
	}
	switch f.Opcode {
	case Continuation:
		if !r.inMessage {
			return f, ErrProtocol
		}
	case Text, Binary:
		if r.inMessage {
			return f, ErrProtocol
		}
		r.size = 0
	case Close, Ping, Pong:
		if n > 125 || !f.Final {
			return f, ErrProtocol
		}
	default:
		return f, ErrProtocol
	}
	switch n {
	case 126:
		if err := r.more(2); err != nil {
			return f, err
		}
		n = uint64(binary.BigEndian.Uint16(r.raw[2:]))
	case 127:
		if err := r.more(8); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(r.raw[2:])
	}
	if n > uint64(r.limit) || f.Opcode < Close && r.size+int(n) > r.limit {
		return f, ErrTooBig
	}
	var key [4]byte
	if masked {
		if err := r.more(4); err != nil {
			return f, err
		}
		copy(key[:], r.raw[len(r.raw)-4:])
	}
	head := len(r.raw)
	// Room is made as bytes come: a length alone must not cost memory.
	for left := int(n); left > 0; {
		step := min(left, keepBuffer)
		if err := r.more(step); err != nil {
			return f, err
		}
		left -= step
	}
	f.Raw = r.raw
	f.Payload = r.raw[head:]
	if masked {
		r.plain = append(r.plain[:0], f.Payload...)
		for i := range r.plain {
			r.plain[i] ^= key[i&3]
		}
		f.Payload = r.plain
	}
	if f.Opcode < Close {
		r.size += int(n)
		r.inMessage = !f.Final
	}
	return f, nil
}

// more reads n bytes to the end of raw. The end within a frame is unexpected.
func (r *Reader) more(n int) error {
	at := len(r.raw)
	r.raw = append(r.raw, make([]byte, n)...)
	_, err := io.ReadFull(r.r, r.raw[at:])
	if err == io.EOF && at > 0 {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Append appends a frame without a mask, as a server sends it.
func Append(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
	return append(dst, payload...)
}

// AppendClose appends a close frame of a server; of the reason at most 123
// bytes fit.
func AppendClose(dst []byte, status int, reason string) []byte {
	return Append(dst, Close, closing(status, reason))
}

// AppendMaskedClose appends a close frame of a client. The mask hides nothing,
// so that of zeros is as good as any.
func AppendMaskedClose(dst []byte, status int, reason string) []byte {
	p := closing(status, reason)
	dst = append(dst, 0x80|Close, 0x80|byte(len(p)), 0, 0, 0, 0)
	return append(dst, p...)
}

func closing(status int, reason string) []byte {
	p := binary.BigEndian.AppendUint16(nil, uint16(status))
	return append(p, reason[:min(len(reason), 123)]...)
}
