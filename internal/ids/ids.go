package ids

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// recent holds the entropy of the milliseconds that ids were last made for,
// shared by every New call, so that ids of one millisecond increase even when
// calls with other instants come between them: goroutines read the clock before
// they get here, and tests have several clocks.
var recent struct {
	sync.Mutex
	slots [8]struct {
		ms   uint64
		from *ulid.MonotonicEntropy
	}
	next int // the slot that was opened the longest ago
}

// New returns a fresh entity id for the instant now. Of two calls for the same
// millisecond the later one returns the greater id, unless ids were made for
// eight other milliseconds between them.
func New(now time.Time) string {
	ms := ulid.Timestamp(now)
	recent.Lock()
	defer recent.Unlock()
	var from *ulid.MonotonicEntropy
	for i := range recent.slots {
		if s := &recent.slots[i]; s.ms == ms {
			from = s.from
		}
	}
	if from == nil {
		s := &recent.slots[recent.next]
		recent.next = (recent.next + 1) % len(recent.slots)
		if s.from == nil {
			s.from = ulid.Monotonic(rand.Reader, 0)
		}
		s.ms, from = ms, s.from
	}
	id, err := ulid.New(ms, from)
	if err != nil {
		// The monotonic counter overflowed within one millisecond (2^80 ids) or
		// the system has no randomness: neither can be continued from.
		panic("ids: cannot make an id: " + err.Error())
	}
	return id.String()
}

// Valid reports whether s has the form of an entity id.
func Valid(s string) bool {
	_, err := ulid.ParseStrict(s)
	return err == nil
}

// UUID returns a random (version 4) UUID in its canonical text form, used
// where the marketplace asks for one: the infer id of an LLM product (LLM-1).
func UUID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("ids: no randomness: " + err.Error())
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	dst := make([]byte, 36)
	hex.Encode(dst[0:8], b[0:4])
	dst[8] = '-'
	hex.Encode(dst[9:13], b[4:6])
	dst[13] = '-'
	hex.Encode(dst[14:18], b[6:8])
	dst[18] = '-'
	hex.Encode(dst[19:23], b[8:10])
	dst[23] = '-'
	hex.Encode(dst[24:36], b[10:16])
	return string(dst)
}

// Request is the id of one call through the gateway: six bytes of Unix
// milliseconds, big endian, then ten random bytes.
type Request [16]byte

// ErrRequestID says that a text is not a request id.
var ErrRequestID = errors.New("ids: a request id is 32 lower-case hexadecimal digits")

// NewRequest returns a fresh request id for the instant now. It does not
// allocate and is safe for concurrent use.
func NewRequest(now time.Time) Request {
	var r Request
	ms := uint64(now.UnixMilli())
	r[0], r[1], r[2] = byte(ms>>40), byte(ms>>32), byte(ms>>24)
	r[3], r[4], r[5] = byte(ms>>16), byte(ms>>8), byte(ms)
	// The runtime's ChaCha8 generator is seeded by the system and is not
	// predictable from its output; uniqueness is what matters here.
	binary.BigEndian.PutUint16(r[6:8], uint16(mathrand.Uint32()))
	binary.BigEndian.PutUint64(r[8:16], mathrand.Uint64())
	return r
}

// Time returns the instant the id was made, in whole milliseconds.
func (r Request) Time() time.Time {
	ms := int64(r[0])<<40 | int64(r[1])<<32 | int64(r[2])<<24 | int64(r[3])<<16 | int64(r[4])<<8 | int64(r[5])
	return time.UnixMilli(ms).UTC()
}

// IsZero reports whether r is unset.
func (r Request) IsZero() bool { return r == Request{} }

// String returns the 32 hexadecimal digits of r.
func (r Request) String() string { return hex.EncodeToString(r[:]) }

// Append appends the 32 hexadecimal digits of r to dst.
func (r Request) Append(dst []byte) []byte { return hex.AppendEncode(dst, r[:]) }

// ParseRequest reads the text form of a request id.
func ParseRequest(s string) (Request, error) {
	var r Request
	if len(s) != 2*len(r) {
		return r, ErrRequestID
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return r, ErrRequestID
		}
	}
	if _, err := hex.Decode(r[:], []byte(s)); err != nil {
		return Request{}, ErrRequestID
	}
	return r, nil
}
