package metering_test

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/metering/metertest"
)

// encodedSink takes records undecoded only. Every third try fails, half of them
// after the records were kept.
type encodedSink struct {
	t     *testing.T
	into  metering.Sink
	tries int
}

func (s *encodedSink) Insert(context.Context, []usage.Record) error {
	s.t.Error("the records were decoded")
	return nil
}

func (s *encodedSink) InsertEncoded(ctx context.Context, body []byte) error {
	s.tries++
	if s.tries%6 == 0 {
		return errors.New("store away")
	}
	var recs []usage.Record
	for len(body) > 0 {
		n, used := binary.Uvarint(body)
		if used <= 0 || n > uint64(len(body)-used) {
			s.t.Fatal("the batch is damaged")
		}
		var r usage.Record
		if err := usage.DecodeRecord(body[used:used+int(n)], &r); err != nil {
			s.t.Fatal(err)
		}
		if r.Has(usage.Provisional) {
			s.t.Error("a provisional record was shipped")
		}
		recs, body = append(recs, r), body[used+int(n):]
	}
	if len(recs) == 0 || len(recs) > quick.BatchSize {
		s.t.Errorf("a batch of %d records", len(recs))
	}
	if err := s.into.Insert(ctx, recs); err != nil {
		return err
	}
	if s.tries%6 == 3 {
		return errors.New("the reply is lost")
	}
	return nil
}

// TestShipperEncoded: a sink that takes records as they lie in the journal gets
// each, and the provisional ones are left out.
func TestShipperEncoded(t *testing.T) {
	t.Parallel()
	j, c := openJournal(t, t.TempDir())
	store := openStore(t, filepath.Join(t.TempDir(), "usage.db"))
	sink := &encodedSink{t: t, into: store}
	s := metering.NewShipper(c, sink, quick)
	for n := range 1000 {
		if n%7 == 0 {
			r := metertest.Call(n)
			r.Flags |= usage.Provisional
			if _, err := j.Append(journal.KindUsage, usage.AppendRecord(nil, &r)); err != nil {
				t.Fatal(err)
			}
		}
		appendCalls(t, j, n, n+1)
	}
	drain(t, s)
	wantCalls(t, store, 1000)
	if st := s.Stats(); st.Shipped != 1000 || st.Failures == 0 || !st.Waiting.IsZero() {
		t.Errorf("stats %+v", st)
	}
	if _, err := j.Append(journal.KindUsage, []byte("no record")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Drain(ctx) }()
	for s.Stats().LastErr == nil || !errors.Is(s.Stats().LastErr, usage.ErrCodec) {
		select {
		case err := <-done:
			t.Fatalf("a record that cannot be read was passed over: %v", err)
		default:
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, usage.ErrCodec) {
		t.Errorf("Drain = %v", err)
	}
}
