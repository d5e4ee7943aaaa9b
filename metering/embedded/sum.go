package embedded

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// The body of a rollup row, version 1; varints are zig-zag, as encoding/binary
// writes them:
//
//	version   1 byte, 1
//	calls, counted, errors, cached, reasoning, bytes in, bytes out, time in ns: varints
//	units, charged, overrun: uvarint bit set of what is not zero, a varint each
//	latencies: uvarint count, then for each bucket, the lowest first: uvarint
//	          distance from the one before, varint count of calls
const sumVersion = 1

var errSum = errors.New("metering: a rollup row is damaged: restore usage.db from a copy")

func appendSum(dst []byte, s *metering.Sum) []byte {
	dst = append(dst, sumVersion)
	for _, n := range [...]int64{s.Calls, s.Counted, s.Errors, s.Cached, s.Reasoning, s.BytesIn, s.BytesOut, int64(s.Time)} {
		dst = binary.AppendVarint(dst, n)
	}
	for _, u := range [...]*usage.Units{&s.Units, &s.Charged, &s.Overrun} {
		var bits uint64
		for i, n := range u {
			if n != 0 {
				bits |= 1 << i
			}
		}
		dst = binary.AppendUvarint(dst, bits)
		for _, n := range u {
			if n != 0 {
				dst = binary.AppendVarint(dst, n)
			}
		}
	}
	keys := make([]uint16, 0, len(s.Latency))
	for k := range s.Latency {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	dst = binary.AppendUvarint(dst, uint64(len(keys)))
	var last uint16
	for _, k := range keys {
		dst = binary.AppendUvarint(dst, uint64(k-last))
		dst = binary.AppendVarint(dst, s.Latency[k])
		last = k
	}
	return dst
}

// decodeSum reads a body into s; the latencies only when they are wanted.
func decodeSum(b []byte, s *metering.Sum, latency bool) error {
	if len(b) == 0 || b[0] != sumVersion {
		return errSum
	}
	b = b[1:]
	bad := false
	next := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	unsigned := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	s.Latency = nil
	for _, dst := range [...]*int64{&s.Calls, &s.Counted, &s.Errors, &s.Cached, &s.Reasoning, &s.BytesIn, &s.BytesOut, (*int64)(&s.Time)} {
		*dst = next()
	}
	for _, u := range [...]*usage.Units{&s.Units, &s.Charged, &s.Overrun} {
		*u = usage.Units{}
		bits := unsigned()
		if bits>>usage.NumUnits != 0 {
			return errSum
		}
		for i := range u {
			if bits&(1<<i) != 0 {
				u[i] = next()
			}
		}
	}
	if !latency {
		if bad {
			return errSum
		}
		return nil
	}
	n := unsigned()
	s.Latency = make(metering.Histogram, min(n, 1<<12))
	var k uint64
	for ; n > 0 && !bad; n-- {
		k += unsigned()
		s.Latency[uint16(k)] = next()
	}
	if bad || len(b) != 0 {
		return errSum
	}
	return nil
}

// milli returns t in Unix ms, and 0 for the zero time.
func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
