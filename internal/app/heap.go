package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// heapFloor keeps the heap from being collected before it has grown to a floor.
//
// Go collects when the heap has doubled. A gateway lives on some ten MB, so that
// it would collect at every further ten, and each collection costs the same
// whether it frees ten MB or sixty. After each collection the percentage that
// leads to the floor is set anew; once the live heap is half of the floor it is
// the usual 100, so that a large directory does not take memory beyond that.
type heapFloor struct {
	floor   uint64
	stopped atomic.Bool
	sample  []metrics.Sample
}

// sentinel is collected in each cycle, which calls its finalizer. It must not be
// tiny: such objects share a block that may live on.
type sentinel struct {
	floor *heapFloor
	_     [4]uintptr
}

// usualPercent is Go's default.
const usualPercent = 100

// holdFloor puts the floor into force until the returned function is called. It
// leaves alone whom the environment's GOGC has given an order.
func holdFloor(bytes int64) (stop func()) {
	if bytes <= 0 || os.Getenv("GOGC") != "" {
		return func() {}
	}
	h := &heapFloor{floor: uint64(bytes), sample: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	h.set()
	h.watch()
	return func() {
		h.stopped.Store(true)
		debug.SetGCPercent(usualPercent)
	}
}

func (h *heapFloor) watch() {
	runtime.SetFinalizer(&sentinel{floor: h}, func(s *sentinel) {
		if !s.floor.stopped.Load() {
			s.floor.set()
			s.floor.watch()
		}
	})
}

// set makes the next collection come at the floor, or at twice the live heap
// where that is more.
func (h *heapFloor) set() {
	metrics.Read(h.sample)
	debug.SetGCPercent(percent(h.sample[0].Value.Uint64(), h.floor))
}

// percent is the growth, in per cent of the live heap, that leads to the floor.
func percent(live, floor uint64) int {
	live = max(live, 1<<20) // before the first collection it is 0
	if floor <= live {
		return usualPercent
	}
	return int(max(usualPercent, (floor-live)*100/live))
}
