//go:build !race

package app

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/gateway"
	"tollgate/internal/ids"
	"tollgate/internal/journal"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/embedded"
)

// TestAdmitAndSettleDoNotAllocate: a call through the adapters, engine, record
// and journal costs no memory.
func TestAdmitAndSettleDoNotAllocate(t *testing.T) {
	a := newAdmitter(t)
	rec := &usage.Record{ID: ids.NewRequest(time.Now()), Subscription: "S", Flags: usage.Counted, Charges: make([]usage.Charge, 0, 4)}
	units := []usage.Unit{usage.Token}
	f := func(name string, call func()) {
		t.Helper()
		if n := testing.AllocsPerRun(2000, call); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
	admit := func() gateway.Hold {
		h, err := a.Admit("S", units, usage.Units{usage.Token: 10}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	f("admit and settle", func() {
		h := admit()
		rec.Units[usage.Token] = 7
		if err := h.Settle(rec); err != nil || rec.Charged(usage.Token) != 7 {
			t.Fatal(err, rec.Charges)
		}
		h.Free()
	})
	f("admit and release", func() {
		h := admit()
		h.Release()
		h.Free()
	})
	f("a stream", func() {
		h := admit()
		rec.Units[usage.Token] = 7
		if err := h.Checkpoint(rec); err != nil {
			t.Fatal(err)
		}
		if held, err := h.Extend(usage.Units{usage.Token: 20}); err != nil || held[usage.Token] != 30 {
			t.Fatal(held, err)
		}
		rec.Units[usage.Token] = 25
		if err := h.Settle(rec); err != nil || rec.Charged(usage.Token) != 25 {
			t.Fatal(err, rec.Charges)
		}
		h.Free()
	})
}

// newAdmitter is the adapter over an engine, embedded store and journal.
func newAdmitter(t testing.TB) admitter {
	t.Helper()
	dir := t.TempDir()
	j, err := journal.Open(dir+"/journal", journal.Options{SegmentSize: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	s, err := embedded.Open(dir+"/quota", embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.ApplyGrant(t.Context(), lot.Grant{ID: "L", Subscription: "S", Unit: usage.Token, Amount: 1 << 50, Effective: time.Now().Add(-time.Hour), Version: 1}); err != nil {
		t.Fatal(err)
	}
	e, err := quota.New(quota.Config{Incarnation: quota.Incarnation{Node: j.Node(), Boot: j.Boot()}, MinLease: 1 << 40}, s, newRecorder(j, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(context.Background()) })
	return admitter{e, j, new(atomic.Bool)}
}
