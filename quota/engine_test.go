package quota_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/embedded"
)

func TestSmoke(t *testing.T) {
	s, err := embedded.Open(t.TempDir(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e, err := quota.New(quota.Config{Incarnation: quota.Incarnation{Node: "a", Boot: 1}}, s, quota.RecorderFunc(func(*usage.Record) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Admit(t.Context(), "sub", []usage.Unit{usage.Call}, usage.Units{usage.Call: 1}, time.Now())
	if !errors.Is(err, quota.ErrNoPackage) {
		t.Fatal(err)
	}
	if _, err := s.ApplyGrant(t.Context(), lot.Grant{ID: "L1", Subscription: "sub", Amount: 5000, Effective: time.Now().Add(-time.Hour), Version: 1}); err != nil {
		t.Fatal(err)
	}
	e.Notify("sub")
	var ok, no atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 10000 / 64 {
				h, err := e.Admit(context.Background(), "sub", []usage.Unit{usage.Call}, usage.Units{usage.Call: 1}, time.Now())
				if err != nil {
					no.Add(1)
					continue
				}
				rec := usage.Record{Units: usage.Units{usage.Call: 1}}
				if err := h.Settle(&rec); err != nil {
					t.Error(err)
				}
				h.Free()
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	t.Log(ok.Load(), no.Load(), e.Stats())
	if err := e.FlushSubscription(t.Context(), "sub"); err != nil {
		t.Fatal(err)
	}
	b, _ := e.Read(t.Context(), "sub")
	t.Logf("%+v", b)
	if ok.Load() != 5000 || b.Lots[0].Used != 5000 {
		t.Fatal("not exact")
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
