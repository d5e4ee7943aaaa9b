package usage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"time"
	"unicode/utf8"
)

// The binary form of a record, version 1. It is what lies in the journal.
//
//	version   1 byte, 1
//	id        16 bytes
//	time      instant             admission
//	took      varint              finished − time, ms; with flag bit 0 of "present"
//	present   1 byte              bit 0: finished is set
//	auth, rule, basis             1 byte each
//	flags     uvarint
//	status    varint
//	texts     node, account, subscription, product, api, model, credential,
//	          application, region, reason: uvarint length, bytes
//	units     amounts
//	overrun   amounts
//	cached, reasoning             varint
//	charges   uvarint count, then each: text lot, 1 byte unit, varint amount, varint bucket
//	total, upstream, first byte   varint, ns
//	bytes in, bytes out           varint
//	fields    any number of: uvarint tag (from 1), uvarint length, bytes
//
// The fields, which stand only where they say something:
//
//	tag 1     boot: uvarint
//	tag 16    attempts: uvarint
//
//	varint    zig-zag, as encoding/binary writes it
//	instant   uvarint: 0 when unset, else 1 + zig-zag of Unix ms
//	amounts   uvarint bit set of the units whose amount is not zero, then a
//	          varint for each, lowest unit first
//
// What a later version of Tollgate adds to a record goes into the fields at
// the end, under a tag of its own; this version passes over the tags it does
// not know, so a node can be rolled back without losing its journal. The
// version byte changes only when that cannot be done. A unit that is not known
// is an error, because an amount must never be dropped silently.
const codecVersion = 1

// MaxText is the greatest length in bytes of a text within an encoded record;
// longer ones are cut at a character. The model's name comes from the client:
// it must not be able to make a record too large for the journal.
const MaxText = 256

// ErrCodec says that bytes are not an encoded record.
var ErrCodec = errors.New("usage: not an encoded record")

// AppendRecord appends the binary form of r to dst. Times are kept in whole
// milliseconds. It allocates only when dst has no room.
func AppendRecord(dst []byte, r *Record) []byte {
	dst = append(dst, codecVersion)
	dst = append(dst, r.ID[:]...)
	dst = appendInstant(dst, r.Time)
	if r.Finished.IsZero() {
		dst = append(dst, 0, 0)
	} else {
		dst = binary.AppendVarint(dst, r.Finished.UnixMilli()-startMilli(r.Time))
		dst = append(dst, 1)
	}
	dst = append(dst, byte(r.Auth), byte(r.Rule), byte(r.Basis))
	dst = binary.AppendUvarint(dst, uint64(r.Flags))
	dst = binary.AppendVarint(dst, int64(r.Status))
	dst = appendText(dst, r.Node)
	dst = appendText(dst, r.Account)
	dst = appendText(dst, r.Subscription)
	dst = appendText(dst, r.Product)
	dst = appendText(dst, r.API)
	dst = appendText(dst, r.Model)
	dst = appendText(dst, r.Credential)
	dst = appendText(dst, r.Application)
	dst = appendText(dst, r.Region)
	dst = appendText(dst, r.Reason)
	dst = appendUnits(dst, &r.Units)
	dst = appendUnits(dst, &r.Overrun)
	dst = binary.AppendVarint(dst, r.Cached)
	dst = binary.AppendVarint(dst, r.Reasoning)
	dst = binary.AppendUvarint(dst, uint64(len(r.Charges)))
	for i := range r.Charges {
		c := &r.Charges[i]
		dst = appendText(dst, c.Lot)
		dst = append(dst, byte(c.Unit))
		dst = binary.AppendVarint(dst, c.Amount)
		dst = binary.AppendVarint(dst, c.Bucket)
	}
	dst = binary.AppendVarint(dst, int64(r.Total))
	dst = binary.AppendVarint(dst, int64(r.Upstream))
	dst = binary.AppendVarint(dst, int64(r.FirstByte))
	dst = binary.AppendVarint(dst, r.BytesIn)
	dst = binary.AppendVarint(dst, r.BytesOut)
	if r.Boot > 0 {
		dst = appendNumber(dst, fieldBoot, r.Boot)
	}
	if r.Attempts > 0 {
		dst = appendNumber(dst, fieldAttempts, uint64(r.Attempts))
	}
	return dst
}

// The tags of the fields: fieldBoot of Record.Boot, fieldAttempts of
// Record.Attempts.
const (
	fieldBoot     = 1
	fieldAttempts = 16
)

// appendNumber appends a field that holds one number. A tag below 128 is one
// byte.
func appendNumber(dst []byte, tag byte, n uint64) []byte {
	var v [binary.MaxVarintLen64]byte
	size := binary.PutUvarint(v[:], n)
	dst = append(dst, tag, byte(size))
	return append(dst, v[:size]...)
}

// DecodeRecord reads the binary form into r, replacing all of it. Texts that r
// already holds are kept rather than allocated again, and so is the array
// behind r.Charges: decode into a fresh Record to keep the charges of the one
// before. Errors are ErrCodec; r is then undefined.
func DecodeRecord(b []byte, r *Record) error {
	d := decoder{b: b}
	if v := d.byte(); d.bad == "" && v != codecVersion {
		return errVersion(v)
	}
	copy(r.ID[:], d.bytes(len(r.ID)))
	r.Time = d.instant()
	took := d.varint()
	r.Finished = time.Time{}
	if d.byte()&1 != 0 {
		r.Finished = time.UnixMilli(startMilli(r.Time) + took).UTC()
	}
	r.Auth, r.Rule, r.Basis = Auth(d.byte()), Rule(d.byte()), Basis(d.byte())
	r.Flags = Flags(d.uvarint())
	r.Status = int(d.varint())
	d.text(&r.Node)
	d.text(&r.Account)
	d.text(&r.Subscription)
	d.text(&r.Product)
	d.text(&r.API)
	d.text(&r.Model)
	d.text(&r.Credential)
	d.text(&r.Application)
	d.text(&r.Region)
	d.text(&r.Reason)
	d.units(&r.Units)
	d.units(&r.Overrun)
	r.Cached = d.varint()
	r.Reasoning = d.varint()
	d.charges(r)
	r.Total = time.Duration(d.varint())
	r.Upstream = time.Duration(d.varint())
	r.FirstByte = time.Duration(d.varint())
	r.BytesIn = d.varint()
	r.BytesOut = d.varint()
	r.Boot, r.Attempts = 0, 0
	for len(d.b) > 0 && d.bad == "" {
		tag := d.uvarint()
		if tag == 0 {
			d.fail("a field has tag 0")
		}
		v := d.bytes(d.length())
		n, size := binary.Uvarint(v)
		switch {
		case tag == fieldBoot:
			if size <= 0 {
				d.fail("the boot is not a number")
			}
			r.Boot = n
		case tag == fieldAttempts:
			if size <= 0 || n > 1<<20 {
				d.fail("the number of attempts is not one")
			}
			r.Attempts = int64(n)
		}
	}
	if d.bad != "" {
		return fmt.Errorf("%w: %s", ErrCodec, d.bad)
	}
	return nil
}

// PeekFlags reads the flags of a record's binary form and nothing else of it.
// Errors are ErrCodec.
func PeekFlags(b []byte) (Flags, error) {
	d := decoder{b: b}
	if v := d.byte(); d.bad == "" && v != codecVersion {
		return 0, errVersion(v)
	}
	d.bytes(len(Record{}.ID))
	d.uvarint() // time
	d.uvarint() // took
	d.bytes(4)  // present, auth, rule, basis
	f := Flags(d.uvarint())
	if d.bad != "" {
		return 0, fmt.Errorf("%w: %s", ErrCodec, d.bad)
	}
	return f, nil
}

func errVersion(v byte) error {
	return fmt.Errorf("%w: version %d is not known here, only %d: read it with the version of Tollgate that wrote it", ErrCodec, v, codecVersion)
}

// startMilli is what Finished is counted from.
func startMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func appendInstant(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(dst, 0)
	}
	ms := t.UnixMilli()
	return binary.AppendUvarint(dst, 1+(uint64(ms)<<1^uint64(ms>>63)))
}

func appendText(dst []byte, s string) []byte {
	if len(s) > MaxText {
		n := MaxText
		for n > MaxText-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendUnits(dst []byte, u *Units) []byte {
	var set uint64
	for i, n := range u {
		if n != 0 {
			set |= 1 << i
		}
	}
	dst = binary.AppendUvarint(dst, set)
	for i, n := range u {
		if set&(1<<i) != 0 {
			dst = binary.AppendVarint(dst, n)
		}
	}
	return dst
}

// decoder takes values off b. After the first fault every value is zero.
type decoder struct {
	b   []byte
	bad string
}

func (d *decoder) fail(why string) {
	if d.bad == "" {
		d.bad = why
	}
	d.b = nil
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.fail("it is cut short")
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("a number is cut short or too large")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// length reads a number of bytes or of things of at least one byte each.
func (d *decoder) length() int {
	v := d.uvarint()
	if v > uint64(len(d.b)) {
		d.fail("a length goes beyond the end")
		return 0
	}
	return int(v)
}

func (d *decoder) instant() time.Time {
	v := d.uvarint()
	if v == 0 {
		return time.Time{}
	}
	v--
	return time.UnixMilli(int64(v>>1) ^ -int64(v&1)).UTC()
}

func (d *decoder) text(s *string) {
	b := d.bytes(d.length())
	if *s != string(b) { // the comparison does not allocate
		*s = string(b)
	}
}

func (d *decoder) units(u *Units) {
	*u = Units{}
	set := d.uvarint()
	if set>>NumUnits != 0 {
		d.fail(fmt.Sprintf("unit %d is not known here: read it with the version of Tollgate that wrote it", bits.Len64(set)-1))
		return
	}
	for i := range u {
		if set&(1<<i) != 0 {
			u[i] = d.varint()
		}
	}
}

func (d *decoder) charges(r *Record) {
	n := d.length()
	if n == 0 {
		r.Charges = nil
		return
	}
	if n <= cap(r.Charges) {
		r.Charges = r.Charges[:n]
	} else {
		// A charge takes four bytes or more: a false count cannot ask for much.
		r.Charges = make([]Charge, min(n, len(d.b)/4+1))
	}
	for i := range n {
		if d.bad != "" || i >= len(r.Charges) {
			d.fail("there are fewer charges than it says")
			return
		}
		c := &r.Charges[i]
		d.text(&c.Lot)
		c.Unit = Unit(d.byte())
		if c.Unit >= NumUnits {
			d.fail(fmt.Sprintf("unit %d is not known here: read it with the version of Tollgate that wrote it", c.Unit))
		}
		c.Amount = d.varint()
		c.Bucket = d.varint()
	}
}
