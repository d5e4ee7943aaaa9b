package metering

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
)

// Shipper carries usage records from the node's journal to a usage store.
//
// A batch is acknowledged to the journal after the store has confirmed it, so
// nothing is lost; a batch may be sent again after any doubt, and the store is
// idempotent, so nothing is doubled. While the store is away the journal
// grows: that costs disk, never a call.
//
// The bounds of a batch are written down before it is sent. Until it is
// confirmed every try, of this process or the next, sends the same records
// under the same id.
type Shipper struct {
	src  Source
	sink Sink
	opt  ShipperOptions

	open    *bounds        // of the batch that is being tried; nil: the next is to be made
	loaded  bool           // the file of bounds was read
	records []usage.Record // of the last batch, to be used again

	encoded EncodedSink // the sink, when it takes records undecoded; nil: it does not
	body    []byte      // of a batch for it

	run   sync.Mutex // Run or Drain, one at a time
	batch sync.Mutex // held from a batch's first try at the store to its acknowledgement

	mu    sync.Mutex
	stats ShipperStats
}

// ShipperOptions are the settings of a shipper. The zero value is usable.
type ShipperOptions struct {
	// BatchSize is the greatest number of records of one Insert; default 1000.
	BatchSize int
	// Linger is how long a batch that is not full waits for more records;
	// default 200 ms. It bounds how late a row is when nothing is wrong.
	Linger time.Duration
	// Timeout is the time one Insert may take; default 30 s.
	Timeout time.Duration
	// MinBackoff and MaxBackoff bound the growing pause after a failed try;
	// default 100 ms and 15 s.
	MinBackoff, MaxBackoff time.Duration
	// Bounds is the file that holds the bounds of the batch being sent; it must
	// survive whatever the journal survives. Empty: they are in memory only, and
	// a restart may cut another batch.
	Bounds string
	// Fresh is the journal's end at the start: what lies behind it was never
	// sent before. Records before it are sent as doubtful. Zero: all are.
	Fresh journal.Position
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Log takes failures; default: discarded.
	Log *slog.Logger
}

// ShipperStats is the state of a shipper for metrics.
type ShipperStats struct {
	Shipped  int64     // records the store has confirmed, repeated ones included
	Batches  int64     // confirmed
	Failures int64     // tries that failed
	LastErr  error     // of the last try; nil after a success
	LastOK   time.Time // of the last confirmed batch
	Waiting  time.Time // settlement of the oldest record read and not confirmed; zero when none waits
	Changed  int64     // batches found with other records than were written down
}

// NewShipper returns a shipper from src to sink. Nothing happens before Run.
func NewShipper(src Source, sink Sink, opt ShipperOptions) *Shipper {
	if opt.BatchSize <= 0 {
		opt.BatchSize = 1000
	}
	if opt.Linger <= 0 {
		opt.Linger = 200 * time.Millisecond
	}
	if opt.Timeout <= 0 {
		opt.Timeout = 30 * time.Second
	}
	if opt.MinBackoff <= 0 {
		opt.MinBackoff = 100 * time.Millisecond
	}
	if opt.MaxBackoff < opt.MinBackoff {
		opt.MaxBackoff = max(15*time.Second, opt.MinBackoff)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Shipper{src: src, sink: sink, opt: opt}
	s.encoded, _ = sink.(EncodedSink)
	return s
}

// Stats returns the present state.
func (s *Shipper) Stats() ShipperStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Run ships until ctx ends, and returns nil then; or until the journal is
// closed, and returns journal.ErrClosed. Whatever else goes wrong is tried
// again: a store that is away, and also a damaged journal or a record of a
// newer version, because passing over it would lose a row. Both are told in
// Stats and in the log, and need a person.
func (s *Shipper) Run(ctx context.Context) error {
	s.run.Lock()
	defer s.run.Unlock()
	s.src.Rewind()
	for {
		err := s.retry(ctx, func() error { return s.shipBatch(ctx, true) })
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// Drain ships what the journal holds now and returns nil when all of it is
// confirmed, or ctx's error with the last failure. Cancel Run first: Drain
// waits for it to end.
func (s *Shipper) Drain(ctx context.Context) error {
	s.run.Lock()
	defer s.run.Unlock()
	s.src.Rewind()
	for {
		var empty bool
		err := s.retry(ctx, func() error {
			err := s.shipBatch(ctx, false)
			empty = errors.Is(err, errEmpty)
			if empty {
				return nil
			}
			return err
		})
		if err != nil || empty {
			return err
		}
	}
}

// Between runs f while no batch is on its way: what the store has is then
// exactly what the journal's cursor says, unless an earlier try was answered
// too late. Shipping waits for f.
func (s *Shipper) Between(f func() error) error {
	s.batch.Lock()
	defer s.batch.Unlock()
	return f()
}

// errEmpty says that there is nothing to ship.
var errEmpty = errors.New("nothing to ship")

// retry calls f until it succeeds, with growing pauses. It gives up when ctx
// ends or the journal is closed.
func (s *Shipper) retry(ctx context.Context, f func() error) error {
	pause := s.opt.MinBackoff
	for {
		err := f()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), s.Stats().LastErr)
		}
		if errors.Is(err, journal.ErrClosed) {
			return err
		}
		s.failed(err)
		// Half of the pause is random, so that nodes do not come in step.
		wait := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return errors.Join(ctx.Err(), err)
		}
		pause = min(2*pause, s.opt.MaxBackoff)
		s.src.Rewind()
	}
}

func (s *Shipper) failed(err error) {
	s.mu.Lock()
	s.stats.Failures++
	s.stats.LastErr = err
	s.mu.Unlock()
	s.opt.Log.Error("usage records not shipped, will try again", "error", err)
}

// shipBatch gathers one batch, stores it and acknowledges it. With wait it
// waits for a first record and lingers for more.
func (s *Shipper) shipBatch(ctx context.Context, wait bool) error {
	if !s.loaded {
		b, err := readBounds(s.opt.Bounds)
		if err != nil {
			return err
		}
		s.open, s.loaded = b, true
	}
	b, n, end, fault := s.gather(ctx, wait)
	if fault != nil && end.IsZero() {
		return fault
	}
	// What was read before a fault is shipped; the fault comes again.
	s.batch.Lock()
	defer s.batch.Unlock()
	if n > 0 {
		if err := s.store(ctx, b, n, end); err != nil {
			return err
		}
	}
	if err := s.src.Ack(end); err != nil {
		return fmt.Errorf("metering: acknowledge: %w", err)
	}
	s.open = nil
	s.mu.Lock()
	s.stats.Waiting = time.Time{}
	s.mu.Unlock()
	return fault
}

// store writes the bounds of a batch of n records down, if they are not yet, and
// sends it.
func (s *Shipper) store(ctx context.Context, b Batch, n int, end journal.Position) error {
	if s.open == nil || s.open.ID != b.ID {
		if s.open != nil {
			// The journal is not the one that the bounds were made for: it was
			// restored, or lost its end. The store looks for each record.
			s.opt.Log.Error("a batch has other records than were written down before it was sent", "records", n, "written_down", s.open.Records)
			s.mu.Lock()
			s.stats.Changed++
			s.mu.Unlock()
			b.Doubtful = true
		}
		fresh := &bounds{End: end, ID: b.ID, Records: n, Made: s.opt.Now().UTC()}
		if err := fresh.write(s.opt.Bounds); err != nil {
			return err
		}
		s.open = fresh
	} else {
		b.Doubtful = true
	}
	b.Made = s.open.Made
	ictx, cancel := context.WithTimeout(ctx, s.opt.Timeout)
	defer cancel()
	var err error
	if s.encoded != nil {
		err = s.encoded.InsertEncoded(ictx, s.body)
	} else if sink, ok := s.sink.(BatchSink); ok {
		err = sink.InsertBatch(ictx, b)
	} else {
		err = s.sink.Insert(ictx, b.Records)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Shipped += int64(n)
	s.stats.Batches++
	s.stats.LastErr = nil
	s.stats.LastOK = s.opt.Now()
	return nil
}

// gather reads a batch: the one whose bounds are written down, or up to
// BatchSize usage records; other kinds are passed over. n is how many they are;
// they are in the batch or, where the sink takes them so, encoded in s.body. end
// is the place behind the last record read, zero when there was none.
func (s *Shipper) gather(ctx context.Context, wait bool) (b Batch, n int, end journal.Position, err error) {
	recs := s.records[:0]
	s.body = s.body[:0]
	sum := sha256.New()
	defer func() {
		s.records, b.Records, b.ID = recs, recs, batchID(sum)
	}()
	lingered := !wait
	for s.open != nil || n < s.opt.BatchSize {
		if s.open != nil && !end.Before(s.open.End) {
			return b, n, end, nil
		}
		rec, ok, err := s.src.TryNext()
		switch {
		case err != nil:
			return b, n, end, fmt.Errorf("metering: read journal: %w", err)
		case ok:
		case end.IsZero() && wait:
			if rec, err = s.src.Next(ctx); err != nil {
				return b, n, end, fmt.Errorf("metering: read journal: %w", err)
			}
		case end.IsZero():
			return b, n, end, errEmpty
		case lingered:
			return b, n, end, nil
		default:
			lingered = true
			if err := s.linger(ctx); err != nil {
				return b, n, journal.Position{}, err
			}
			continue
		}
		if s.open != nil && end.IsZero() && !rec.Pos.Before(s.open.End) {
			s.open = nil // confirmed and acknowledged before the last stop
		}
		if rec.Kind == journal.KindUsage {
			if n == 0 {
				b.Doubtful = s.opt.Fresh.IsZero() || rec.Pos.Before(s.opt.Fresh)
			}
			flags, err := usage.PeekFlags(rec.Payload)
			if err != nil {
				return b, n, end, fmt.Errorf("metering: journal record %s: %w", rec.Pos, err)
			}
			if flags&usage.Provisional != 0 {
				// A final one of the same call follows, at the latest when the
				// node starts again after a crash.
				end = rec.End
				continue
			}
			var r *usage.Record
			if s.encoded == nil || n == 0 {
				recs = append(recs, s.spare(len(recs)))
				r = &recs[len(recs)-1]
				if err := usage.DecodeRecord(rec.Payload, r); err != nil {
					recs = recs[:len(recs)-1]
					return b, n, end, fmt.Errorf("metering: journal record %s: %w", rec.Pos, err)
				}
			}
			if s.encoded != nil {
				s.body = append(binary.AppendUvarint(s.body, uint64(len(rec.Payload))), rec.Payload...)
			}
			hashRecord(sum, rec.Payload)
			if n++; n == 1 {
				s.mu.Lock()
				s.stats.Waiting = r.Finished
				s.mu.Unlock()
			}
		}
		end = rec.End
	}
	return b, n, end, nil
}

// spare returns the record that lay at i in the batch before, whose texts
// decoding uses again. Its charges are its own.
func (s *Shipper) spare(i int) usage.Record {
	if i < len(s.records) {
		return s.records[i]
	}
	return usage.Record{}
}

func (s *Shipper) linger(ctx context.Context) error {
	t := time.NewTimer(s.opt.Linger)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
