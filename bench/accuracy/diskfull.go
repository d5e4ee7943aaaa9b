package accuracy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"tollgate/bench"
)

// diskSize is the size of the disk that is filled, in bytes.
const diskSize = 8 << 20

// diskFull fills a gateway's disk to the last byte, again and again as soon as
// anything is freed. New metered calls get 503, streams that run are charged,
// and with room made the gateway goes on by itself.
func diskFull(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{
		units: plenty, gateways: 1, redis: true,
		// Small segments: what is allocated ahead lasts for seconds only.
		env: []string{"TOLLGATE_JOURNAL_SEGMENT=128KiB"},
		prepare: func(w *world, n *node) error {
			if err := os.MkdirAll(n.dir, 0o700); err != nil {
				return err
			}
			unmount, err := smallDisk(n, diskSize)
			if err != nil {
				return err
			}
			w.onClose(func() { n.end(); unmount() })
			return nil
		},
	})
	if err != nil {
		return err
	}
	defer w.close()
	w.cut = true
	stopReading := w.reading(ctx, 50*time.Millisecond)
	r.Rounds = b.rounds(5, 1)
	for range r.Rounds {
		if err := w.fill(ctx); err != nil {
			return err
		}
	}
	if err := stopReading(); err != nil {
		return err
	}
	return w.settle(ctx, r)
}

// fill fills the disk of the only gateway once, under load.
func (w *world) fill(ctx context.Context) error {
	n := w.gateways[0]
	plain := w.begin(ctx, bench.LoadInput{Scenarios: []bench.Scenario{w.chat()}, Connections: 16, Rate: 1000})
	pause(ctx, 300*time.Millisecond)
	ballast := filepath.Join(n.data(), "ballast")
	fillCtx, stop := context.WithCancel(ctx)
	filled := make(chan error, 1)
	go func() { filled <- keepFull(fillCtx, ballast) }()
	// Streams that began before it was full and end while it is.
	streams := w.begin(ctx, bench.LoadInput{
		Scenarios: []bench.Scenario{w.stream("X-Mock-Chunks: 40", "X-Mock-Chunk-Delay: 100ms")}, Connections: 8, Requests: 8,
	})
	full := until(ctx, 20*time.Second, func(ctx context.Context) error {
		if v, err := n.metric(ctx, "tollgate_journal_full"); err != nil || v == 1 {
			return err
		}
		return fmt.Errorf("the journal does not say that its disk is full")
	})
	if full != nil {
		w.fault("%v", full)
	}
	before := w.oracle.totals()
	pause(ctx, 500*time.Millisecond)
	after := w.oracle.totals()
	if full == nil && after.away == before.away {
		w.fault("with a full disk no call got 503")
	}
	got, err := streams.end()
	if err == nil && full == nil && got.StreamsComplete != got.OK2xx {
		w.fault("%d of %d streams under way did not come to their end on a full disk: %v", got.OK2xx-got.StreamsComplete, got.OK2xx, got.Classes)
	}
	stop()
	if ferr := <-filled; err == nil {
		err = ferr
	}
	if err == nil {
		err = os.Remove(ballast)
	}
	made := time.Now()
	if rerr := until(ctx, 15*time.Second, func(ctx context.Context) error {
		if v, err := n.metric(ctx, "tollgate_journal_full"); err != nil || v == 0 {
			return err
		}
		return fmt.Errorf("calls are still refused %s after room was made", time.Since(made).Round(time.Second))
	}); rerr != nil {
		w.fault("%v", rerr)
	}
	if serr := w.served(ctx, 5*time.Second); serr != nil {
		w.fault("with room made, %v", serr)
	}
	if lerr := ended(plain); err == nil {
		err = lerr
	}
	return err
}

// keepFull writes a file until the disk is full, and again whenever something
// was freed, until ctx ends.
func keepFull(ctx context.Context, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	chunk := make([]byte, 4<<10)
	for ctx.Err() == nil {
		if _, err := f.Write(chunk); err != nil {
			pause(ctx, 5*time.Millisecond)
		}
	}
	return f.Close()
}
