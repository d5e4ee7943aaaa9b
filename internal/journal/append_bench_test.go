package journal

import (
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkAppend appends records of 160 bytes, beside the write(2) that a
// plain log file would cost. Run it with -cpu 1,2.
func BenchmarkAppend(b *testing.B) {
	payload := make([]byte, 160)
	open := func(b *testing.B, opt Options) *Journal {
		j, err := Open(b.TempDir(), opt)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = j.Close() })
		return j
	}
	one := func(b *testing.B, opt Options) {
		j := open(b, opt)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := j.Append(KindUsage, payload); err != nil {
				b.Fatal(err)
			}
		}
	}
	many := func(b *testing.B, opt Options) {
		j := open(b, opt)
		b.ReportAllocs()
		b.SetParallelism(32)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := j.Append(KindUsage, payload); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	memory := Options{FrontDir: "/dev/shm", SegmentSize: 64 << 20}
	beside := Options{SegmentSize: 64 << 20}
	b.Run("one goroutine/front in memory", func(b *testing.B) { one(b, memory) })
	b.Run("one goroutine/front beside", func(b *testing.B) { one(b, beside) })
	b.Run("64 goroutines/front in memory", func(b *testing.B) { many(b, memory) })
	b.Run("64 goroutines/front beside", func(b *testing.B) { many(b, beside) })
	b.Run("one goroutine/write(2)", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := f.Write(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkAppendStrict is the price of waiting for the disk, alone and in
// groups.
func BenchmarkAppendStrict(b *testing.B) {
	payload := make([]byte, 160)
	j, err := Open(b.TempDir(), Options{Strict: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = j.Close() })
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			if _, err := j.Append(KindUsage, payload); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("groups of 64", func(b *testing.B) {
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := j.Append(KindUsage, payload); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
}

func BenchmarkRead(b *testing.B) {
	j, err := Open(b.TempDir(), Options{SegmentSize: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = j.Close() })
	payload := make([]byte, 160)
	for range 100_000 {
		if _, err := j.Append(KindUsage, payload); err != nil {
			b.Fatal(err)
		}
	}
	r := j.Reader(Position{})
	b.SetBytes(160)
	b.ReportAllocs()
	for b.Loop() {
		_, ok, err := r.TryNext()
		if err != nil {
			b.Fatal(err)
		}
		if !ok {
			r = j.Reader(Position{})
		}
	}
}
