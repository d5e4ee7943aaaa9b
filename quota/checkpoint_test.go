package quota_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/embedded"
)

// TestCheckpoints: whatever comes behind a checkpoint, what the store counts is
// what a reading of the records says: no more, no less.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	refused := errors.New("disk full")
	for _, tt := range []struct {
		name string
		fail bool // the records behind the checkpoint are not kept
		end  func(*quota.Hold, *usage.Record) error
		want int64 // charged in the end
		err  error
	}{
		{"settled", false, (*quota.Hold).Settle, 50, nil},
		{"released", false, func(h *quota.Hold, _ *usage.Record) error { h.Release(); return nil }, 0, nil},
		{"freed", false, func(h *quota.Hold, _ *usage.Record) error { h.Free(); return nil }, 0, nil},
		{"settled, and it cannot be recorded", true, (*quota.Hold).Settle, 30, refused},
		{"released, and it cannot be recorded", true, func(h *quota.Hold, _ *usage.Record) error { h.Release(); return nil }, 30, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := embedded.Open(t.TempDir(), embedded.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			if _, err := s.ApplyGrant(t.Context(), lot.Grant{ID: "L", Subscription: "S", Unit: usage.Token, Amount: 1000, Effective: time.Now().Add(-time.Hour), Version: 1}); err != nil {
				t.Fatal(err)
			}
			tally, failing := quota.NewTally(), false
			e, err := quota.New(quota.Config{Incarnation: quota.Incarnation{Node: "n", Boot: 1}}, s, quota.RecorderFunc(func(rec *usage.Record) error {
				if failing {
					return refused
				}
				tally.Add(1, rec)
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			h, err := e.Admit(t.Context(), "S", []usage.Unit{usage.Token}, usage.Units{usage.Token: 40}, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			rec := usage.Record{ID: ids.Request{1}, Subscription: "S", Flags: usage.Counted}
			for n := int64(10); n <= 30; n += 10 {
				rec.Units[usage.Token] = n
				if err := h.Checkpoint(&rec); err != nil || rec.Has(usage.Provisional) || rec.Charged(usage.Token) != n {
					t.Fatalf("checkpoint of %d: %+v, %v", n, rec, err)
				}
			}
			failing = tt.fail
			rec.Units[usage.Token] = 50
			if err := tt.end(h, &rec); !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err := e.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Fatal(err)
			}
			b, err := s.Read(t.Context(), "S")
			if err != nil || b.Lots[0].Used != tt.want || b.Lots[0].Leased != 0 {
				t.Fatalf("the store counts %+v, want %d used: %v", b.Lots, tt.want, err)
			}
			// The next start reads the journal: nothing changes.
			again, err := quota.New(quota.Config{Incarnation: quota.Incarnation{Node: "n", Boot: 2}}, s, quota.RecorderFunc(func(*usage.Record) error { return nil }))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = again.Close(context.Background()) })
			if err := again.CloseEarlier(t.Context(), tally); err != nil {
				t.Fatal(err)
			}
			open, err := tally.Open(2)
			if err != nil || (len(open) == 1) != tt.fail {
				t.Fatalf("open calls %+v, %v", open, err)
			}
			if b, err = s.Read(t.Context(), "S"); err != nil || b.Lots[0].Used != tt.want {
				t.Fatalf("after the replay the store counts %+v, want %d used: %v", b.Lots, tt.want, err)
			}
		})
	}
}

// TestCheckpointTakesNoMore: a checkpoint charges what is held and calls the
// rest overrun; it does not ask the lots for more, which could wait.
func TestCheckpointTakesNoMore(t *testing.T) {
	t.Parallel()
	e := newBench(t, 1000)
	h, err := e.Admit(t.Context(), "llm", tokenUnits, usage.Units{usage.Token: 10}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Free()
	rec := usage.Record{ID: ids.Request{1}, Units: usage.Units{usage.Token: 25}}
	if err := h.Checkpoint(&rec); err != nil || rec.Charged(usage.Token) != 10 || rec.Overrun[usage.Token] != 15 {
		t.Fatalf("%+v %v", rec, err)
	}
	if held := h.Holding(); held != (usage.Units{usage.Token: 10}) {
		t.Fatalf("it holds %v", held)
	}
}
