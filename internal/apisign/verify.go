package apisign

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"sync"
	"time"
)

// DateLayout is the form of X-Sdk-Date, always in UTC.
const DateLayout = "20060102T150405Z"

// DefaultSkew is how far X-Sdk-Date may be from the server's clock, either way.
const DefaultSkew = 15 * time.Minute

// UnsignedPayload as the value of X-Sdk-Content-Sha256 says that the body was
// not signed. It is honoured only where that header is itself signed: without
// that rule anybody on the way could add it and change the body.
const UnsignedPayload = "UNSIGNED-PAYLOAD"

// Request is what a signature covers, as it stood on the wire.
type Request struct {
	Method []byte
	// Path is the path of the request line, still escaped, without the query.
	Path []byte
	// Query is what follows "?", without it.
	Query []byte
	// Host is the Host field, with its port where the client sent one.
	Host    []byte
	Headers Headers
	// Body is the whole body, before any decoding. It is not looked at when
	// BodySHA256 is set or the payload is unsigned.
	Body []byte
	// BodySHA256 is the hash of the body, for callers that hashed it while
	// they read it.
	BodySHA256 *[sha256.Size]byte
}

// Verifier checks signatures without allocating. It is not safe for concurrent
// use: take one from [Acquire] and give it back to [Release].
type Verifier struct {
	canonicaliser
	request []byte // the canonical request
	tail    []byte // its part from the first header on, common to all readings
	values  [][]byte
	mac     macBuffer
}

var verifiers = sync.Pool{New: func() any { return new(Verifier) }}

// Acquire returns a verifier for one request.
func Acquire() *Verifier { return verifiers.Get().(*Verifier) }

// Release takes a verifier back. Nothing obtained from it may be used after.
func Release(v *Verifier) {
	clear(v.values[:cap(v.values)])
	clear(v.mac[:])
	if cap(v.request) > 64<<10 { // one huge request must not stay in memory
		*v = Verifier{}
	}
	verifiers.Put(v)
}

// FromHeaders finds the one Authorization field among h and parses it into p.
// It reports false when none of them claims to be an app signature. A second
// Authorization field beside a signature is an error: which of the two counts
// would be for the reader to guess.
func (v *Verifier) FromHeaders(p *Parsed, h Headers) (bool, error) {
	v.values = h.AppendValues(v.values[:0], nameAuthorization)
	for _, value := range v.values {
		if !IsSignature(value) {
			continue
		}
		if len(v.values) > 1 {
			return true, errAuthTwice
		}
		return true, p.Parse(value)
	}
	return false, nil
}

// Verify checks that r was signed with secret and that its date is within skew
// of now; a skew of 0 means [DefaultSkew]. The error matches one of the
// sentinels of this package. It does not look at p.Access: finding the secret
// that belongs to it, and refusing an unknown one, is the caller's part.
func (v *Verifier) Verify(p *Parsed, r *Request, secret []byte, now time.Time, skew time.Duration) error {
	v.request = v.request[:0]
	date, err := v.checkDate(p, r, now, skew)
	if err != nil {
		return err
	}
	if err := v.buildTail(p, r); err != nil {
		return err
	}
	if bytes.IndexByte(r.Method, '\n') >= 0 {
		return errValueBroken
	}
	escaped := bytes.IndexByte(r.Path, '%') >= 0
	plus := bytes.IndexByte(r.Query, '+') >= 0
	for reading := pathDecoded; reading <= pathMixed; reading++ {
		for blank := range 2 {
			v.build(r, reading, blank == 0)
			if v.mac.matches(v.request, date, secret, &p.Signature) {
				return nil
			}
			if !plus {
				break
			}
		}
		if !escaped {
			break
		}
	}
	v.build(r, pathDecoded, false)
	return ErrMismatch
}

// AppendCanonical appends the canonical request of the last [Verifier.Verify]
// that returned [ErrMismatch], with "|" for its line breaks: the form in which
// the vendor's gateway shows callers what it computed. It holds header values
// of the request and belongs in the answer, not in a log.
func (v *Verifier) AppendCanonical(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, v.request...)
	for i := start; i < len(dst); i++ {
		if dst[i] == '\n' {
			dst[i] = '|'
		}
	}
	return dst
}

// BodyUnsigned reports whether the request declares its payload unsigned in a
// way that Verify honours, so that the body may be streamed on instead of
// being collected for its hash.
func (v *Verifier) BodyUnsigned(p *Parsed, h Headers) bool {
	if !p.hashSigned {
		return false
	}
	v.values = h.AppendValues(v.values[:0], nameHash)
	return len(v.values) == 1 && string(bytes.TrimSpace(v.values[0])) == UnsignedPayload
}

// checkDate returns the date exactly as it was signed.
func (v *Verifier) checkDate(p *Parsed, r *Request, now time.Time, skew time.Duration) ([]byte, error) {
	v.values = r.Headers.AppendValues(v.values[:0], nameDate)
	switch {
	case len(v.values) == 0:
		return nil, ErrDateMissing
	case len(v.values) > 1:
		return nil, errDateTwice
	case !p.dateSigned:
		return nil, errDateUnsign
	}
	date := bytes.TrimSpace(v.values[0])
	// The length check keeps out fractional seconds, which time.Parse accepts.
	if len(date) != len(DateLayout) {
		return nil, errDateForm
	}
	signed, err := time.Parse(DateLayout, string(date))
	if err != nil {
		return nil, errDateForm
	}
	if skew == 0 {
		skew = DefaultSkew
	}
	if d := now.Sub(signed); d > skew || d < -skew {
		return nil, &ExpiredError{Signed: signed, Server: now}
	}
	return date, nil
}

// buildTail makes the part of the canonical request that follows the query.
func (v *Verifier) buildTail(p *Parsed, r *Request) error {
	var err error
	v.tail, v.values, err = appendHeaders(v.tail[:0], v.values, p.SignedHeaders, r)
	if err != nil {
		return err
	}
	v.tail = append(v.tail, '\n')
	v.tail = append(v.tail, p.SignedHeaders...)
	v.tail = append(v.tail, '\n')
	return v.appendPayload(p, r)
}

// appendHeaders appends one line for each value of each header on the list, in
// the list's order; several values of one header in ascending order.
func appendHeaders(dst []byte, values [][]byte, list []byte, r *Request) ([]byte, [][]byte, error) {
	for more := true; more; {
		var name []byte
		name, list, more = bytes.Cut(list, semicolon)
		values = values[:0]
		if bytes.Equal(name, nameHost) {
			if len(r.Host) > 0 {
				values = append(values, r.Host)
			}
		} else {
			values = r.Headers.AppendValues(values, name)
		}
		if len(values) == 0 {
			return dst, values, &HeaderMissingError{Name: string(name)}
		}
		if len(values) > 1 {
			slices.SortFunc(values, bytes.Compare)
		}
		for _, value := range values {
			if bytes.IndexByte(value, '\n') >= 0 {
				return dst, values, errValueBroken
			}
			dst = append(dst, name...)
			dst = append(dst, ':')
			dst = append(dst, bytes.TrimSpace(value)...)
			dst = append(dst, '\n')
		}
	}
	return dst, values, nil
}

// appendPayload appends the last line of the canonical request to the tail.
func (v *Verifier) appendPayload(p *Parsed, r *Request) error {
	v.values = r.Headers.AppendValues(v.values[:0], nameHash)
	if len(v.values) > 1 {
		return errHashTwice
	}
	var claim []byte
	if len(v.values) == 1 {
		claim = bytes.TrimSpace(v.values[0])
	}
	unsigned := string(claim) == UnsignedPayload
	if unsigned && p.hashSigned {
		v.tail = append(v.tail, claim...)
		return nil
	}
	sum := bodySum(r)
	if len(claim) == 0 || unsigned {
		v.tail = appendHex(v.tail, sum[:])
		return nil
	}
	var want [sha256.Size]byte
	if len(claim) != hex.EncodedLen(len(want)) {
		return errHashForm
	}
	if _, err := hex.Decode(want[:], claim); err != nil {
		return errHashForm
	}
	if want != sum {
		return ErrBodyHash
	}
	v.tail = append(v.tail, claim...)
	return nil
}

func bodySum(r *Request) [sha256.Size]byte {
	if r.BodySHA256 != nil {
		return *r.BodySHA256
	}
	return sha256.Sum256(r.Body)
}

// build makes the canonical request in one of its readings. The tail must have
// been built.
func (v *Verifier) build(r *Request, path pathReading, plusIsBlank bool) {
	b := append(v.request[:0], r.Method...)
	b = append(b, '\n')
	b = appendPath(b, r.Path, path)
	b = append(b, '\n')
	b = v.appendQuery(b, r.Query, plusIsBlank)
	b = append(b, '\n')
	v.request = append(b, v.tail...)
}

// macBuffer is the working space of one HMAC-SHA256 over a string to sign:
// inner key block, string to sign, hash of the canonical request. Written out
// because hmac.New allocates two hashes for every new key, and every caller
// has its own.
type macBuffer [sha256.BlockSize + len(Algorithm) + 1 + len(DateLayout) + 1 + 2*sha256.Size]byte

func (m *macBuffer) matches(request, date, secret []byte, signature *[sha256.Size]byte) bool {
	sum := m.sum(request, date, secret)
	return subtle.ConstantTimeCompare(sum[:], signature[:]) == 1
}

// sum returns the signature of a canonical request.
func (m *macBuffer) sum(request, date, secret []byte) [sha256.Size]byte {
	var short [sha256.Size]byte
	if len(secret) > sha256.BlockSize {
		short = sha256.Sum256(secret)
		secret = short[:]
	}
	hash := sha256.Sum256(request)
	b := appendPad(m[:0], secret, 0x36)
	b = append(b, Algorithm...)
	b = append(b, '\n')
	b = append(b, date...)
	b = append(b, '\n')
	b = appendHex(b, hash[:])
	inner := sha256.Sum256(b)
	b = appendPad(m[:0], secret, 0x5c)
	b = append(b, inner[:]...)
	return sha256.Sum256(b)
}

// appendPad appends the key block of RFC 2104: the key filled up with zeros,
// each byte combined with pad.
func appendPad(dst, key []byte, pad byte) []byte {
	for i := range sha256.BlockSize {
		c := pad
		if i < len(key) {
			c ^= key[i]
		}
		dst = append(dst, c)
	}
	return dst
}
