package metering_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
	"tollgate/metering"
	"tollgate/metering/embedded"
	"tollgate/metering/metertest"
)

// childEnv makes the test binary the process that gets killed.
const childEnv = "TOLLGATE_METERING_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := shipUntilKilled(dir); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func openJournal(t *testing.T, dir string) (*journal.Journal, *journal.Consumer) {
	t.Helper()
	j, err := journal.Open(dir, journal.Options{
		Node: "gw-1", Consumers: []string{"usage"}, SegmentSize: 64 << 10, SyncEvery: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	c, err := j.Consumer("usage")
	if err != nil {
		t.Fatal(err)
	}
	return j, c
}

func appendCalls(t *testing.T, j *journal.Journal, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		r := metertest.Call(n)
		if _, err := j.Append(journal.KindUsage, usage.AppendRecord(nil, &r)); err != nil {
			t.Fatal(err)
		}
		if n%10 == 0 {
			if _, err := j.Append(journal.KindLease, []byte("not a call")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// quick are settings under which nothing in a test waits for long.
var quick = metering.ShipperOptions{
	BatchSize: 50, Linger: time.Millisecond, MinBackoff: time.Microsecond, MaxBackoff: time.Millisecond,
}

// sinkFunc is a sink made of a function.
type sinkFunc func(ctx context.Context, recs []usage.Record) error

func (f sinkFunc) Insert(ctx context.Context, recs []usage.Record) error { return f(ctx, recs) }

func openStore(t *testing.T, path string) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(t.Context(), path, embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func drain(t *testing.T, s *metering.Shipper) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

func wantCalls(t *testing.T, b metertest.Backend, want int64) {
	t.Helper()
	got := metertest.MustQuery(t, b, metering.QueryInput{}).Total
	if got.Calls != want || got.Charged[usage.Token] != 10*want {
		t.Fatalf("%d calls with %d tokens charged, want %d with %d", got.Calls, got.Charged[usage.Token], want, 10*want)
	}
}

func TestShipperShips(t *testing.T) {
	t.Parallel()
	j, c := openJournal(t, t.TempDir())
	store := openStore(t, filepath.Join(t.TempDir(), "usage.db"))
	s := metering.NewShipper(c, store, quick)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	appendCalls(t, j, 0, 500)
	eventually(t, func() bool { return c.Lag() == 0 })
	wantCalls(t, store, 500)
	appendCalls(t, j, 500, 700) // after it had been idle
	eventually(t, func() bool { return c.Lag() == 0 })
	wantCalls(t, store, 700)
	if st := s.Stats(); st.Shipped != 700 || st.Batches < 14 || st.LastErr != nil || st.LastOK.IsZero() || !st.Waiting.IsZero() {
		t.Fatalf("stats = %+v", st)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatalf("Run ended with %v", err)
	}
	appendCalls(t, j, 700, 800) // the last calls of a shutdown
	drain(t, s)
	wantCalls(t, store, 800)
	if n := c.Lag(); n != 0 {
		t.Fatalf("lag after Drain is %d", n)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 30 s")
		}
	}
}

// TestShipperOverABadStore: inserts fail before and after they took effect,
// or hang; every call still becomes exactly one row (fault 17).
func TestShipperOverABadStore(t *testing.T) {
	t.Parallel()
	j, c := openJournal(t, t.TempDir())
	store := openStore(t, filepath.Join(t.TempDir(), "usage.db"))
	rnd := rand.New(rand.NewPCG(3, 4))
	away := errors.New("store away")
	tries := 0
	opt := quick
	opt.Timeout = 50 * time.Millisecond
	s := metering.NewShipper(c, sinkFunc(func(ctx context.Context, recs []usage.Record) error {
		tries++
		switch rnd.IntN(6) {
		case 0:
			return away
		case 1: // the reply is lost
			if err := store.Insert(t.Context(), recs); err != nil {
				t.Error(err)
			}
			return away
		case 2: // half of it, then a crash of the store
			if err := store.Insert(t.Context(), recs[:len(recs)/2]); err != nil {
				t.Error(err)
			}
			return away
		case 3:
			if tries%4 == 0 {
				<-ctx.Done()
				return ctx.Err()
			}
			return away
		}
		return store.Insert(t.Context(), recs)
	}), opt)
	appendCalls(t, j, 0, 1000)
	drain(t, s)
	wantCalls(t, store, 1000)
	if st := s.Stats(); st.Failures == 0 || st.Shipped != 1000 {
		t.Fatalf("stats = %+v", st)
	}
}

// TestShipperStopsAndGoesOn: a shutdown in the middle of a batch, with the
// journal and the store opened anew.
func TestShipperStopsAndGoesOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := openStore(t, filepath.Join(t.TempDir(), "usage.db"))
	total := 0
	for round := range 10 {
		j, c := openJournal(t, dir)
		appendCalls(t, j, total, total+100)
		total += 100
		ctx, cancel := context.WithCancel(t.Context())
		inserts := 0
		s := metering.NewShipper(c, sinkFunc(func(ctx context.Context, recs []usage.Record) error {
			err := store.Insert(t.Context(), recs)
			if inserts++; inserts > round%4 {
				cancel()
				return ctx.Err() // done, and the answer not heard
			}
			return err
		}), quick)
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, c := openJournal(t, dir)
	drain(t, metering.NewShipper(c, store, quick))
	wantCalls(t, store, int64(total))
}

// shipUntilKilled ships from the journal in dir, and appends as well, until
// the process is killed. It tells on standard output that it has begun.
func shipUntilKilled(dir string) error {
	j, err := journal.Open(dir, journal.Options{
		Node: "gw-1", SegmentSize: 64 << 10, SyncEvery: time.Millisecond,
		Consumers: []string{"usage", "keep"}, // keep reads nothing, so nothing is removed before it was counted
	})
	if err != nil {
		return err
	}
	c, err := j.Consumer("usage")
	if err != nil {
		return err
	}
	store, err := embedded.Open(context.Background(), filepath.Join(dir, "usage.db"), embedded.Options{})
	if err != nil {
		return err
	}
	opt := quick
	opt.BatchSize = 7
	opt.Bounds, opt.Fresh = filepath.Join(dir, "usage.batch"), j.End()
	s := metering.NewShipper(c, store, opt)
	go func() {
		for n := int(j.Boot()) * 1_000; ; n++ {
			r := metertest.Call(n)
			if _, err := j.Append(journal.KindUsage, usage.AppendRecord(nil, &r)); err != nil {
				panic(err)
			}
			if n%50 == 0 {
				fmt.Println(s.Stats().Batches)
			}
			if n%5 == 0 {
				_ = j.Sync(context.Background()) // not faster than the disk
			}
		}
	}()
	return s.Run(context.Background())
}

// TestShipperKill9 kills a process that appends and ships, at random, again
// and again. In the end the store holds what the journal holds: no row is
// missing, none is twice.
func TestShipperKill9(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 5))
	appended := map[string]bool{}
	for range 8 {
		child := exec.CommandContext(t.Context(), exe)
		child.Env = append(os.Environ(), childEnv+"="+dir)
		var stderr bytes.Buffer
		child.Stderr = &stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 1)
		for n := 1 + rnd.IntN(40); n > 0; { // the kill falls anywhere
			if _, err := out.Read(line); err != nil {
				t.Fatalf("the child ended by itself: %v\n%s", err, stderr.String())
			}
			if line[0] == '\n' {
				n--
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = child.Wait()
	}
	collect(t, dir, appended)
	_, c := openJournal(t, dir)
	store, err := embedded.Open(t.Context(), filepath.Join(dir, "usage.db"), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if n := metertest.MustQuery(t, store, metering.QueryInput{}).Total.Calls; n == 0 || c.Lag() == 0 {
		t.Fatalf("the kills fell beside the work: %d calls stored, %d left", n, c.Lag())
	}
	drain(t, metering.NewShipper(c, store, metering.ShipperOptions{}))
	stored := map[string]bool{}
	in := metering.ListInput{From: metertest.Noon.AddDate(-1, 0, 0), To: metertest.Noon.AddDate(1, 0, 0), Limit: metering.MaxPage}
	for {
		page, err := store.List(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Records {
			if stored[r.ID.String()] {
				t.Fatalf("request %s is stored twice", r.ID)
			}
			stored[r.ID.String()] = true
		}
		if in.After = page.Next; page.Next == "" {
			break
		}
	}
	if diff := cmp.Diff(appended, stored); diff != "" {
		t.Fatalf("%d calls in the journal, %d stored (-journal +store):\n%s", len(appended), len(stored), diff)
	}
	if total := metertest.MustQuery(t, store, metering.QueryInput{}).Total; total.Calls != int64(len(stored)) || total.Charged[usage.Token] != 10*total.Calls {
		t.Fatalf("the sums tell %d calls, the list %d", total.Calls, len(stored))
	}
	if len(appended) < 8*50 {
		t.Fatalf("only %d calls were appended", len(appended))
	}
}

// collect adds the ids of the calls that the journal in dir holds now.
func collect(t *testing.T, dir string, ids map[string]bool) {
	t.Helper()
	_, err := journal.Inspect(dir, func(rec journal.Record) error {
		var r usage.Record
		if err := usage.DecodeRecord(rec.Payload, &r); err != nil {
			return err
		}
		ids[r.ID.String()] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestShipperHoldsAtABadRecord: a record that cannot be read is not passed
// over. What was before it is shipped, and the error names the place.
func TestShipperHoldsAtABadRecord(t *testing.T) {
	t.Parallel()
	j, c := openJournal(t, t.TempDir())
	store := openStore(t, filepath.Join(t.TempDir(), "usage.db"))
	appendCalls(t, j, 0, 30)
	if _, err := j.Append(journal.KindUsage, []byte{99}); err != nil {
		t.Fatal(err)
	}
	appendCalls(t, j, 30, 60)
	s := metering.NewShipper(c, store, quick)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	eventually(t, func() bool { return s.Stats().Failures > 3 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if !errors.Is(st.LastErr, usage.ErrCodec) || !strings.Contains(st.LastErr.Error(), "version 99") {
		t.Fatalf("stats tell %v", st.LastErr)
	}
	wantCalls(t, store, 30)
	if n := c.Lag(); n != 34 { // the bad one, 30 calls and 3 notes
		t.Fatalf("lag is %d, want 34", n)
	}
}

func TestShipperEnds(t *testing.T) {
	t.Parallel()
	j, c := openJournal(t, t.TempDir())
	away := errors.New("store away")
	s := metering.NewShipper(c, sinkFunc(func(context.Context, []usage.Record) error { return away }), quick)
	drain(t, s) // nothing to do
	appendCalls(t, j, 0, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, away) {
		t.Fatalf("Drain of a store that is away: %v, want the deadline and the reason", err)
	}
	if n := c.Lag(); n != 11 {
		t.Fatalf("lag is %d, want 11: nothing was confirmed", n)
	}
	ended := make(chan error, 1)
	ok := metering.NewShipper(c, sinkFunc(func(context.Context, []usage.Record) error { return nil }), quick)
	go func() { ended <- ok.Run(t.Context()) }()
	eventually(t, func() bool { return c.Lag() == 0 })
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, journal.ErrClosed) {
		t.Fatalf("Run after the journal was closed: %v, want ErrClosed", err)
	}
}
