package quota_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/embedded"
)

// newBench returns an engine with a lot of n calls on an embedded store.
func newBench(tb testing.TB, n int64) *quota.Engine {
	tb.Helper()
	s, err := embedded.Open(tb.TempDir(), embedded.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	for _, g := range []lot.Grant{
		{ID: "L1", Subscription: "sub", Unit: usage.Call, Amount: n, Effective: time.Now().Add(-time.Hour), Version: 1},
		{ID: "L2", Subscription: "llm", Unit: usage.Token, Amount: n, Effective: time.Now().Add(-time.Hour), Version: 1},
	} {
		if _, err := s.ApplyGrant(tb.Context(), g); err != nil {
			tb.Fatal(err)
		}
	}
	e, err := quota.New(quota.Config{Incarnation: quota.Incarnation{Node: "a", Boot: 1}, MinLease: 1 << 40}, s,
		quota.RecorderFunc(func(*usage.Record) error { return nil }))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = e.Close(context.Background()) })
	return e
}

var (
	callUnits  = []usage.Unit{usage.Call}
	tokenUnits = []usage.Unit{usage.Token}
	oneCall    = usage.Units{usage.Call: 1}
	came       = time.Now()
)

// reportCPU adds the processor time of each operation, which other work on the
// machine does not change.
func reportCPU(b *testing.B) func() {
	before := cpuTime(b)
	return func() { b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op") }
}

func cpuTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// admitSettle is one call's way through the engine.
func admitSettle(tb testing.TB, e *quota.Engine, sub string, units []usage.Unit, est usage.Units, rec *usage.Record) {
	// The gateway has read the clock when the request came in.
	h, err := e.Admit(context.Background(), sub, units, est, came)
	if err != nil {
		tb.Error(err)
		return
	}
	if err := h.Settle(rec); err != nil {
		tb.Error(err)
	}
	h.Free()
}

func BenchmarkAdmitSettle(b *testing.B) {
	e := newBench(b, lot.MaxAmount)
	rec := &usage.Record{Units: oneCall, Charges: make([]usage.Charge, 0, 4)}
	b.ReportAllocs()
	defer reportCPU(b)()
	for b.Loop() {
		admitSettle(b, e, "sub", callUnits, oneCall, rec)
	}
}

func BenchmarkAdmitSettleTokens(b *testing.B) {
	e := newBench(b, lot.MaxAmount)
	rec := &usage.Record{Units: usage.Units{usage.Token: 700}, Charges: make([]usage.Charge, 0, 4)}
	b.ReportAllocs()
	defer reportCPU(b)()
	for b.Loop() {
		admitSettle(b, e, "llm", tokenUnits, usage.Units{usage.Token: 1000}, rec)
	}
}

func BenchmarkAdmitSettleParallel(b *testing.B) {
	e := newBench(b, lot.MaxAmount)
	b.ReportAllocs()
	defer reportCPU(b)()
	b.RunParallel(func(pb *testing.PB) {
		rec := &usage.Record{Units: oneCall, Charges: make([]usage.Charge, 0, 4)}
		for pb.Next() {
			admitSettle(b, e, "sub", callUnits, oneCall, rec)
		}
	})
}

// BenchmarkMutexMap is the plain alternative: one map of counters behind a
// mutex, without leases, records or expiry.
func BenchmarkMutexMap(b *testing.B) {
	var mu sync.Mutex
	left := map[string]int64{"sub": lot.MaxAmount}
	used := map[string]int64{}
	b.ReportAllocs()
	defer reportCPU(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			ok := left["sub"] > 0
			if ok {
				left["sub"]--
			}
			mu.Unlock()
			_ = time.Now()
			mu.Lock()
			used["sub"]++
			mu.Unlock()
		}
	})
}
