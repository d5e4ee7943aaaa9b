package receipt

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding"
	"encoding/hex"
	"errors"
	"hash"
	"strconv"
	"strings"
	"sync"
	"time"

	"tollgate/internal/usage"
)

// Header is the field that carries a receipt.
const Header = "X-Tollgate-Receipt"

// Errors of Verify.
var (
	// ErrForm says that a text is not a receipt.
	ErrForm = errors.New("receipt: this is not a receipt: give the whole value of " + Header + ", from v1 to the end of its signature")
	// ErrSignature says that a receipt was not signed with the key, or changed.
	ErrSignature = errors.New("receipt: the signature does not belong to this text and key: take the key that its field key= names, or the receipt was changed")
)

// Key signs receipts of one account. It holds HMAC-SHA256's two states after
// the key, so that a receipt costs neither the key schedule nor an allocation.
// It is never changed and safe for concurrent use.
type Key struct {
	id           string
	inner, outer []byte
}

// NewKey makes ready the key with that id and text.
func NewKey(id, text string) *Key {
	key := []byte(text)
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	state := func(pad byte) []byte {
		block := make([]byte, sha256.BlockSize)
		copy(block, key)
		for i := range block {
			block[i] ^= pad
		}
		h := sha256.New()
		h.Write(block)
		b, err := h.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			panic("receipt: " + err.Error()) // it never fails
		}
		return b
	}
	return &Key{id: id, inner: state(0x36), outer: state(0x5c)}
}

// ID returns the id of the key.
func (k *Key) ID() string { return k.id }

// worker is what one signature needs.
type worker struct {
	h   hash.Hash
	set encoding.BinaryUnmarshaler
	sum [sha256.Size]byte
}

var workers = sync.Pool{New: func() any {
	h := sha256.New()
	return &worker{h: h, set: h.(encoding.BinaryUnmarshaler)}
}}

// appendSum appends the signature of text in hexadecimal.
func (k *Key) appendSum(dst, text []byte) []byte {
	w := workers.Get().(*worker)
	_ = w.set.UnmarshalBinary(k.inner) // it is what MarshalBinary made
	w.h.Write(text)
	sum := w.h.Sum(w.sum[:0])
	_ = w.set.UnmarshalBinary(k.outer)
	w.h.Write(sum)
	dst = hex.AppendEncode(dst, w.h.Sum(w.sum[:0]))
	workers.Put(w)
	return dst
}

// Append appends the signed receipt of rec to dst.
func (k *Key) Append(dst []byte, rec *usage.Record) []byte {
	from := len(dst)
	dst = append(dst, "v1;id="...)
	dst = rec.ID.Append(dst)
	dst = appendID(append(dst, ";key="...), k.id)
	dst = appendID(append(dst, ";sub="...), rec.Subscription)
	dst = appendID(append(dst, ";product="...), rec.Product)
	dst = appendTime(append(dst, ";at="...), rec.Time)
	dst = appendTime(append(dst, ";done="...), rec.Finished)
	dst = strconv.AppendInt(append(dst, ";status="...), int64(rec.Status), 10)
	counted := byte('0')
	if rec.Has(usage.Counted) {
		counted = '1'
	}
	dst = append(append(dst, ";counted="...), counted)
	dst = append(append(dst, ";rule="...), rec.Rule.String()...)
	dst = append(append(dst, ";basis="...), rec.Basis.String()...)
	dst = appendUnits(append(dst, ";units="...), &rec.Units)
	dst = append(dst, ";lots="...)
	for i := range rec.Charges {
		c := &rec.Charges[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendID(dst, c.Lot)
		dst = append(append(append(dst, ':'), c.Unit.String()...), ':')
		dst = strconv.AppendInt(dst, c.Amount, 10)
	}
	dst = appendUnits(append(dst, ";over="...), &rec.Overrun)
	end := len(dst)
	return k.appendSum(append(dst, sigField...), dst[from:end])
}

const sigField = ";sig="

func appendUnits(dst []byte, u *usage.Units) []byte {
	first := true
	for i, n := range u {
		if n == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(dst, usage.Unit(i).String()...), ':')
		dst = strconv.AppendInt(dst, n, 10)
	}
	return dst
}

// appendID appends an id so that it cannot be taken for anything else.
func appendID(dst []byte, id string) []byte {
	for i := range len(id) {
		c := id[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '.' || c == '_' {
			dst = append(dst, c)
			continue
		}
		const digits = "0123456789ABCDEF"
		dst = append(dst, '%', digits[c>>4], digits[c&15])
	}
	return dst
}

// appendTime appends t in UTC with milliseconds. time.AppendFormat takes thrice
// as long for this layout.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	ms := t.Nanosecond() / 1e6
	if year < 0 || year > 9999 {
		return t.AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	}
	return append(dst,
		byte('0'+year/1000), byte('0'+year/100%10), byte('0'+year/10%10), byte('0'+year%10), '-',
		byte('0'+int(month)/10), byte('0'+int(month)%10), '-', byte('0'+day/10), byte('0'+day%10), 'T',
		byte('0'+hour/10), byte('0'+hour%10), ':', byte('0'+minute/10), byte('0'+minute%10), ':', byte('0'+second/10), byte('0'+second%10), '.',
		byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// Field is one field of a receipt.
type Field struct{ Name, Value string }

// Parse returns the fields of a receipt, the version first under "v" and the
// signature last. It checks the form, not the signature.
func Parse(text string) ([]Field, error) {
	body, sig, ok := cut(text)
	if !ok {
		return nil, ErrForm
	}
	out := []Field{}
	for i, part := range strings.Split(body, ";") {
		if i == 0 {
			if part != "v1" {
				return nil, ErrForm
			}
			out = append(out, Field{"v", part[1:]})
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			return nil, ErrForm
		}
		out = append(out, Field{name, value})
	}
	return append(out, Field{"sig", sig}), nil
}

func cut(text string) (body, sig string, ok bool) {
	i := strings.LastIndex(text, sigField)
	if i < 0 || !strings.HasPrefix(text, "v1;") || len(text)-i-len(sigField) != 2*sha256.Size {
		return "", "", false
	}
	return text[:i], text[i+len(sigField):], true
}

// Verify checks the form and the signature of a receipt.
func (k *Key) Verify(text string) ([]Field, error) {
	fields, err := Parse(text)
	if err != nil {
		return nil, err
	}
	body, sig, _ := cut(text)
	if want := k.appendSum(nil, []byte(body)); subtle.ConstantTimeCompare(want, []byte(sig)) != 1 {
		return nil, ErrSignature
	}
	return fields, nil
}
