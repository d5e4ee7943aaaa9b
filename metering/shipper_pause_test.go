package metering_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/metering/metertest"
)

// fakeSource is a source that holds a few records, for tests of time.
type fakeSource struct {
	mu          sync.Mutex
	recs        []journal.Record
	next, acked int
	more        chan struct{}
}

func (f *fakeSource) add(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		r := metertest.Call(len(f.recs))
		k := uint32(len(f.recs))
		f.recs = append(f.recs, journal.Record{
			Kind: journal.KindUsage, Payload: usage.AppendRecord(nil, &r),
			End: journal.Position{Segment: 1, Offset: k + 1},
		})
	}
	close(f.more)
	f.more = make(chan struct{})
}

func (f *fakeSource) TryNext() (journal.Record, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == len(f.recs) {
		return journal.Record{}, false, nil
	}
	f.next++
	return f.recs[f.next-1], true, nil
}

func (f *fakeSource) Next(ctx context.Context) (journal.Record, error) {
	for {
		f.mu.Lock()
		more := f.more
		f.mu.Unlock()
		if r, ok, err := f.TryNext(); ok {
			return r, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return journal.Record{}, ctx.Err()
		}
	}
}

func (f *fakeSource) Ack(end journal.Position) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked = int(end.Offset)
	return nil
}

func (f *fakeSource) Rewind() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = f.acked
}

// TestShipperPauses: a batch that is not full lingers, a full one does not,
// and pauses after failures grow to their bound.
func TestShipperPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		src := &fakeSource{more: make(chan struct{})}
		var mu sync.Mutex
		fail := true
		var at []time.Time
		var sizes []int
		s := metering.NewShipper(src, sinkFunc(func(_ context.Context, recs []usage.Record) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			sizes = append(sizes, len(recs))
			if fail && len(at) <= 12 {
				return errors.New("store away")
			}
			return nil
		}), metering.ShipperOptions{BatchSize: 10, Linger: time.Second, MinBackoff: 100 * time.Millisecond, MaxBackoff: 5 * time.Second})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		src.add(10)
		sleep := func(d time.Duration) int { // by the bubble's clock
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return len(at)
		}
		for tries := 0; sleep(time.Second) < 13; tries++ {
			if tries > 100 {
				t.Fatal("the batch is not tried again")
			}
		}
		mu.Lock()
		bound := 100 * time.Millisecond
		for i := 1; i < 13; i++ {
			if gap := at[i].Sub(at[i-1]); gap < bound/2 || gap > bound {
				t.Errorf("pause %d is %s, want %s to %s", i, gap, bound/2, bound)
			}
			bound = min(2*bound, 5*time.Second)
		}
		fail = false
		at, sizes = nil, nil
		mu.Unlock()
		began := time.Now()
		src.add(3)
		if sleep(500*time.Millisecond) != 0 {
			t.Error("a batch of 3 did not linger")
		}
		src.add(2)
		sleep(600 * time.Millisecond)
		mu.Lock()
		if len(at) != 1 || at[0].Sub(began) != time.Second || sizes[0] != 5 {
			t.Errorf("inserted %v at %v, want 5 after one second", sizes, at)
		}
		at, sizes = nil, nil
		mu.Unlock()
		began = time.Now()
		src.add(10)
		sleep(0)
		mu.Lock()
		if len(at) != 1 || at[0].Sub(began) != 0 || sizes[0] != 10 {
			t.Errorf("a full batch: %v at %v, want 10 at once", sizes, at)
		}
		mu.Unlock()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
