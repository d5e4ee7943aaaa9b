package journal

import (
	"errors"
	"os"
	"testing"
	"time"
)

// FuzzRecover changes, cuts and mixes the bytes of a front and of a segment.
// Whatever they are, nothing panics, Inspect and Open agree, every record that
// is delivered was appended and comes once and in order, and appending goes on.
func FuzzRecover(f *testing.F) {
	known := map[string]int{}
	base := func(t testing.TB) string {
		j := mustOpen(t, memoryDir(t), Options{SyncEvery: time.Hour})
		for k, p := range numbered(40) {
			known[p] = k
			mustAppend(t, j, p)
			if k == 15 {
				if err := j.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		dir := snapshot(t, j)
		_ = j.Close()
		return dir
	}(f)
	f.Add([]byte{}, []byte{})
	f.Add([]byte{0, 0, 0xff}, []byte{})
	f.Add([]byte{0, 200, 1, 3, 0, 0}, []byte{0, 9, 9})
	f.Add([]byte{}, []byte{0x80, 1, 0})
	f.Fuzz(func(t *testing.T, front, seg []byte) {
		if len(front)+len(seg) > 300 {
			return
		}
		dir := memoryDir(t)
		copyTree(t, base, dir)
		for name, changes := range map[string][]byte{firstFront(dir): front, segmentName(dir, 1): seg} {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			// Triples: where (16 bits; the highest cuts the file there), and by
			// what the byte is changed.
			for ; len(changes) >= 3; changes = changes[3:] {
				at := int(changes[0])<<8 | int(changes[1])
				if at&0x8000 != 0 {
					b = b[:min(len(b), at&0x1fff)]
				} else if at &= 0x1fff; at < len(b) {
					b[at] ^= changes[2]
				}
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		last, seen := -1, 0
		check := func(p []byte) {
			k, ok := known[string(p)]
			if !ok || k <= last {
				t.Fatalf("record %q (%d) after %d", p, k, last)
			}
			last = k
			seen++
		}
		rep, ierr := Inspect(dir, func(r Record) error { check(r.Payload); return nil })
		j, err := Open(dir, Options{SegmentSize: minSegmentSize, Retain: time.Hour})
		if (err == nil) != (ierr == nil) {
			t.Fatalf("Inspect: %v, Open: %v", ierr, err)
		}
		if err != nil {
			return
		}
		defer j.Close()
		if got := j.Recovered(); got.Records != rep.Records || got.OK() != rep.OK() || got.Torn != rep.Torn {
			t.Fatalf("Inspect: %s; Open: %s", rep.String(), got.String())
		}
		r := j.Reader(Position{})
		inspected := seen
		last, seen = -1, 0
		var bad *CorruptError
		for {
			rec, ok, err := r.TryNext()
			if errors.As(err, &bad) {
				if rep.OK() {
					t.Fatalf("%v was not reported", err)
				}
				if n, err := r.SkipCorrupt(); err != nil || n == 0 {
					t.Fatalf("SkipCorrupt = %d, %v", n, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			check(rec.Payload)
		}
		if seen != inspected {
			t.Fatalf("Inspect gave %d records, a reader %d", inspected, seen)
		}
		if _, err := j.Append(KindUsage, []byte("new")); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzParseFrame: no bytes make the parser panic or give more than there is.
func FuzzParseFrame(f *testing.F) {
	good := make([]byte, 64)
	putFrame(good, 0, 5, 9, KindUsage, []byte("payload"))
	f.Add(good, uint32(0), uint64(5))
	f.Add([]byte{}, uint32(0), uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, off uint32, nonce uint64) {
		fr, ok := parseFrame(b, off, nonce)
		if ok && (int(fr.size) > len(b) || len(fr.payload)+frameHeader > int(fr.size)) {
			t.Fatalf("a frame of %d bytes in %d", fr.size, len(b))
		}
		_, _ = parseHeader(b)
	})
}
