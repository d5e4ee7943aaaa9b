package quota_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/embedded"
)

func TestCloseLeavesNothingRunning(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s, err := embedded.Open(t.TempDir(), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ApplyGrant(t.Context(), lot.Grant{ID: "L1", Subscription: "sub", Amount: 100, Effective: time.Now(), Version: 1}); err != nil {
		t.Fatal(err)
	}
	e, err := quota.New(quota.Config{Incarnation: quota.Incarnation{Node: "a", Boot: 1}}, s, quota.RecorderFunc(func(*usage.Record) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	h, err := e.Admit(t.Context(), "sub", callUnits, oneCall, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
	if err := e.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}
