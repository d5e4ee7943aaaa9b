package app

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestPercent(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	for _, tt := range []struct {
		live, floor uint64
		want        int
	}{
		{0, 64 * mb, 6300},
		{1 * mb, 64 * mb, 6300},
		{16 * mb, 64 * mb, 300},
		{32 * mb, 64 * mb, 100},
		{50 * mb, 64 * mb, 100},
		{64 * mb, 64 * mb, 100},
		{1000 * mb, 64 * mb, 100},
	} {
		if got := percent(tt.live, tt.floor); got != tt.want {
			t.Errorf("live %d MB, floor %d MB: %d, want %d", tt.live/mb, tt.floor/mb, got, tt.want)
		}
	}
}

// kept is what TestHeapFloor holds on to.
var kept []byte

// TestHeapFloor: the percentage follows the live heap, and the end of it brings
// back the usual one. It changes the whole process, so it is not parallel.
func TestHeapFloor(t *testing.T) {
	t.Setenv("GOGC", "")
	now := func() int {
		p := debug.SetGCPercent(usualPercent)
		debug.SetGCPercent(p)
		return p
	}
	before := now()
	stop := holdFloor(256 << 20)
	defer debug.SetGCPercent(before)
	// The finalizer runs some time after the collection.
	reach := func(what string, ok func(p int) bool) {
		for range 1000 {
			runtime.GC()
			if ok(now()) {
				return
			}
		}
		t.Errorf("%s: the percentage is %d", what, now())
	}
	reach("a small heap", func(p int) bool { return p > 200 })
	kept = make([]byte, 300<<20)
	reach("a heap above the floor", func(p int) bool { return p == usualPercent })
	kept = nil
	reach("a small heap again", func(p int) bool { return p > 200 })
	stop()
	if p := now(); p != usualPercent {
		t.Errorf("after the end it is %d", p)
	}
	for range 10 {
		runtime.GC()
	}
	if p := now(); p != usualPercent {
		t.Errorf("after the end, and further collections, it is %d", p)
	}
}
