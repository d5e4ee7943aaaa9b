package quota_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/journal"
	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/embedded"
)

// kept is a journal as the engine's recorder and history.
type kept struct{ *journal.Journal }

func (k kept) Record(rec *usage.Record) error {
	_, err := k.Append(journal.KindUsage, usage.AppendRecord(nil, rec))
	return err
}

func (k kept) Records(_ context.Context, fn func(uint64, *usage.Record) error) error {
	r := k.Reader(journal.Position{})
	defer r.Close()
	for {
		entry, ok, err := r.TryNext()
		if !ok || err != nil {
			return err
		}
		var rec usage.Record
		if err := usage.DecodeRecord(entry.Payload, &rec); err != nil {
			return err
		}
		if err := fn(entry.Boot, &rec); err != nil {
			return err
		}
	}
}

// openKept opens journal, store and engine in dir, and replays.
func openKept(ctx context.Context, dir string) (*quota.Engine, *embedded.Store, *journal.Journal, error) {
	j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{Node: "n", SegmentSize: 1 << 20, Retain: time.Hour})
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := embedded.Open(filepath.Join(dir, "quota"), embedded.Options{})
	if err != nil {
		return nil, nil, nil, err
	}
	e, err := quota.New(quota.Config{Incarnation: quota.Incarnation{Node: j.Node(), Boot: j.Boot()}, FlushEvery: 20 * time.Millisecond}, s, kept{j})
	if err != nil {
		return nil, nil, nil, err
	}
	return e, s, j, e.Replay(ctx, kept{j})
}

// TestMain runs this binary as the process that is killed, when asked to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TOLLGATE_TEST_CRASH_DIR"); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashChild makes calls until it is killed, and says after each that it
// counted.
func crashChild(dir string) error {
	ctx := context.Background()
	e, _, _, err := openKept(ctx, dir)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				h, err := e.Admit(ctx, "sub", callUnits, oneCall, time.Now())
				if errors.Is(err, quota.ErrExhausted) {
					return
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				now := time.Now()
				rec := usage.Record{ID: ids.NewRequest(now), Time: now.UTC().Truncate(time.Millisecond), Subscription: "sub", Units: oneCall, Flags: usage.Counted}
				if err := h.Settle(&rec); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				mu.Lock()
				fmt.Println(rec.ID)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	fmt.Println("exhausted")
	select {} // the parent decides when it ends
}

// TestKillNineLosesAndDoublesNothing kills the process at random, again and
// again, until the package is used up: every call that was answered is
// counted, none twice, and at most the calls in flight are counted without an
// answer.
func TestKillNineLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const units = 20_000
	s, err := embedded.Open(filepath.Join(dir, "quota"), embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := lot.Grant{ID: "L1", Subscription: "sub", Amount: units, Effective: time.Now().Add(-time.Hour), Version: 1}
	if _, err := s.ApplyGrant(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	answered := map[string]bool{}
	rounds, done := 0, false
	for ; !done && rounds < 60; rounds++ {
		done = killOnce(t, dir, rounds, answered)
	}
	if !done {
		t.Fatalf("after %d rounds the package is not used up", rounds)
	}
	e, s, j, err := openKept(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	defer s.Close()
	journalled := map[string]int{}
	err = kept{j}.Records(t.Context(), func(_ uint64, rec *usage.Record) error {
		journalled[rec.ID.String()]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id := range answered {
		if journalled[id] != 1 {
			t.Errorf("call %s was answered and is in the journal %d times", id, journalled[id])
		}
	}
	b, err := s.Read(t.Context(), "sub")
	if err != nil {
		t.Fatal(err)
	}
	if b.Lots[0].Used != units || len(journalled) != units || b.Overrun[usage.Call] != 0 || b.Lots[0].Leased != 0 {
		t.Errorf("used %d, leased %d, overrun %d, %d records; want %d used and as many records", b.Lots[0].Used, b.Lots[0].Leased, b.Overrun[usage.Call], len(journalled), units)
	}
	if extra := units - len(answered); extra > 4*rounds {
		t.Errorf("%d calls are counted and were not answered; at most %d were in flight", extra, 4*rounds)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("%d kills, %d calls answered, %d counted", rounds, len(answered), len(journalled))
}

// killOnce runs the child, kills it after some calls, and reports whether the
// package was used up.
func killOnce(t *testing.T, dir string, round int, answered map[string]bool) (done bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TOLLGATE_TEST_CRASH_DIR="+dir)
	var faults strings.Builder
	cmd.Stderr = &faults
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	n, limit := 0, 1+(round*7919)%1500 // another place each time
	for lines.Scan() {
		if lines.Text() == "exhausted" {
			done = true
			_ = cmd.Process.Kill()
			continue
		}
		if len(lines.Text()) == 32 {
			answered[lines.Text()] = true
		}
		if n++; n == limit {
			_ = cmd.Process.Kill() // what it wrote before is still read
		}
	}
	_ = cmd.Wait()
	if faults.Len() > 0 {
		t.Fatalf("round %s: %s", strconv.Itoa(round), faults.String())
	}
	return done
}
