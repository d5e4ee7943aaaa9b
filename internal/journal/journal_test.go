package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestAppendAndRead(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, t.TempDir(), Options{Consumers: []string{"quota"}})
	var want []string
	for i := range 5000 { // some segments
		want = append(want, fmt.Sprintf("record %d %s", i, strings.Repeat("x", i%200)))
		mustAppend(t, j, want[i])
	}
	big := strings.Repeat("b", MaxPayload)
	want = append(want, "", big)
	mustAppend(t, j, "")
	mustAppend(t, j, big)
	if diff := cmp.Diff(want, readAll(t, j.Reader(Position{}))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	// From any record on.
	r := j.Reader(Position{})
	for i := 0; ; i++ {
		rec, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if rec.Kind != KindUsage || rec.Boot != 1 {
			t.Fatalf("record %d is %s of boot %d", i, rec.Kind, rec.Boot)
		}
		if i%997 == 0 {
			from := j.Reader(rec.Pos)
			if got := readAll(t, from); len(got) != len(want)-i || got[0] != want[i] {
				t.Fatalf("from record %d: %d records", i, len(got))
			}
			from.Close()
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	// A second boot reads the same and goes on behind it.
	j = mustOpen(t, j.dir, Options{Consumers: []string{"quota"}})
	mustAppend(t, j, "more")
	if diff := cmp.Diff(append(want, "more"), readAll(t, j.Reader(Position{}))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if rep := j.Recovered(); rep.Records != int64(len(want)) || rep.Unsealed != 0 || rep.Torn != 0 || !rep.OK() {
		t.Fatalf("report %s", rep.String())
	}
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, t.TempDir(), Options{})
	if _, err := j.Append(KindUsage, make([]byte, MaxPayload+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error %v, want ErrTooLarge", err)
	}
	for _, k := range []Kind{kindNone, kindPad, maxKind + 1} {
		if _, err := j.Append(k, nil); !errors.Is(err, ErrKind) {
			t.Errorf("kind %d: error %v, want ErrKind", k, err)
		}
	}
	if _, err := j.Consumer("nobody"); !errors.Is(err, ErrConsumer) {
		t.Errorf("error %v, want ErrConsumer", err)
	}
	if err := j.CanAdmit(); err != nil {
		t.Errorf("CanAdmit = %v", err)
	}
	if err := errors.Join(j.Close(), j.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(KindUsage, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
	if err := j.CanAdmit(); !errors.Is(err, ErrClosed) {
		t.Errorf("CanAdmit = %v, want ErrClosed", err)
	}
}

func TestConcurrentAppend(t *testing.T) {
	t.Parallel()
	for _, opt := range []Options{{}, {Strict: true}, {FrontDir: t.TempDir(), SyncEvery: time.Millisecond}} {
		opt.Consumers = []string{"quota"}
		j := mustOpen(t, t.TempDir(), opt)
		const writers, each = 8, 500
		got := map[string]bool{}
		var wg sync.WaitGroup
		wg.Add(1)
		go func() { // a consumer that waits for each record
			defer wg.Done()
			c, err := j.Consumer("quota")
			if err != nil {
				t.Error(err)
				return
			}
			for len(got) < writers*each {
				rec, err := c.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if got[string(rec.Payload)] {
					t.Errorf("%q came twice", rec.Payload)
				}
				got[string(rec.Payload)] = true
				if err := c.Ack(rec.End); err != nil {
					t.Error(err)
				}
			}
		}()
		for w := range writers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := range each {
					if _, err := j.Append(KindUsage, fmt.Appendf(nil, "%d/%d %s", w, i, strings.Repeat("y", 100))); err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		wg.Wait()
		if n, err := j.Lag("quota"); n != 0 || err != nil {
			t.Errorf("lag = %d, %v", n, err)
		}
		if st := j.Stats(); st.Appended != writers*each {
			t.Errorf("stats = %+v", st)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConsumers(t *testing.T) {
	t.Parallel()
	opt := Options{Consumers: []string{"quota", "usage"}}
	j := mustOpen(t, t.TempDir(), opt)
	for i := range 3000 {
		mustAppend(t, j, fmt.Sprintf("%04d%s", i, strings.Repeat(".", 100)))
	}
	get := func(name string) *Consumer {
		c, err := j.Consumer(name)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	read := func(c *Consumer, n int) (last Record) {
		t.Helper()
		for range n {
			rec, ok, err := c.TryNext()
			if !ok || err != nil {
				t.Fatalf("TryNext = %v, %v", ok, err)
			}
			last = rec
		}
		return last
	}
	lags := func(quota, usage int64) {
		t.Helper()
		if q, u := get("quota").Lag(), get("usage").Lag(); q != quota || u != usage {
			t.Fatalf("lag of quota %d, of usage %d; want %d, %d", q, u, quota, usage)
		}
	}
	segments := func() int {
		m, err := listNumbered(j.dir, ".seg")
		if err != nil {
			t.Fatal(err)
		}
		return len(m)
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := get("quota")
	if get("quota") != q || q.Name() != "quota" {
		t.Fatal("two consumers of one name")
	}
	full := segments()
	lags(3000, 3000)

	// Reading does not remove, and what was not acknowledged comes again.
	rec := read(q, 1000)
	lags(3000, 3000)
	q.Rewind()
	if again := read(q, 1000); again.Pos != rec.Pos {
		t.Fatalf("after Rewind record %s, want %s", again.Pos, rec.Pos)
	}
	if err := q.Ack(rec.End); err != nil {
		t.Fatal(err)
	}
	lags(2000, 3000)
	if err := q.Ack(Position{}); err != nil || q.Acked() != rec.End {
		t.Fatalf("an earlier Ack moved the cursor to %s (%v)", q.Acked(), err)
	}
	if err := q.Ack(Position{Segment: rec.End.Segment + 5}); err == nil {
		t.Fatal("what was not read was acknowledged")
	}
	// One consumer alone frees nothing.
	if err := q.Ack(read(q, 2000).End); err != nil {
		t.Fatal(err)
	}
	lags(0, 3000)
	if n := segments(); n < full {
		t.Fatalf("%d segments, %d before: one was removed though usage has read none", n, full)
	}
	if err := get("usage").Ack(read(get("usage"), 2999).End); err != nil {
		t.Fatal(err)
	}
	lags(0, 1)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	// Cursors are kept, and by now what both have acknowledged is removed.
	j = mustOpen(t, j.dir, opt)
	lags(0, 1)
	if got := readAll(t, &get("usage").Reader); len(got) != 1 || got[0][:4] != "2999" {
		t.Fatalf("usage reads %d records", len(got))
	}
	if got := readAll(t, &get("quota").Reader); len(got) != 0 {
		t.Fatalf("quota reads %d records, want none", len(got))
	}
	poke(j.kickAlloc)
	waitFor(t, j, func() bool { return segments() <= 2+spareTarget })
	// A consumer that is new sees all that is left.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, j.dir, Options{Consumers: []string{"quota", "usage", "late"}})
	got := readAll(t, &get("late").Reader)
	if len(got) == 0 || int64(len(got)) != get("late").Lag() || got[len(got)-1][:4] != "2999" {
		t.Fatalf("late reads %d records, its lag is %d", len(got), get("late").Lag())
	}
}

// waitFor waits until ok, looking whenever the journal reports a change.
func waitFor(t *testing.T, j *Journal, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 20 s")
		}
		<-tick.C
	}
}

func TestRetain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	j := mustOpen(t, t.TempDir(), Options{Retain: time.Hour, Now: clock})
	for range 3000 {
		mustAppend(t, j, strings.Repeat("r", 100))
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(readAll(t, j.Reader(Position{}))); n != 3000 {
		t.Fatalf("%d records are kept, want 3000", n)
	}
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	poke(j.kickAlloc)
	waitFor(t, j, func() bool { return j.Stats().Segments <= 2 })
}

func TestNextWaits(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, t.TempDir(), Options{SyncEvery: time.Millisecond})
	r := j.Reader(Position{})
	got := make(chan string)
	fault := make(chan error, 1)
	go func() {
		for {
			rec, err := r.Next(context.Background())
			if err != nil {
				fault <- err
				return
			}
			got <- string(rec.Payload)
		}
	}()
	for i := range 100 {
		want := fmt.Sprint(i)
		mustAppend(t, j, want)
		if g := <-got; g != want {
			t.Fatalf("got %q, want %q", g, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := j.Reader(j.End()).Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want context.Canceled", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-fault; !errors.Is(err, ErrClosed) {
		t.Fatalf("a waiting reader got %v, want ErrClosed", err)
	}
}

func TestNodeIdentity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{Node: "gw-7"})
	if j.Node() != "gw-7" || j.Boot() != 1 || j.Incarnation() != "gw-7#1" {
		t.Fatalf("%s boot %d is %s", j.Node(), j.Boot(), j.Incarnation())
	}
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) || !strings.Contains(err.Error(), "another data folder") {
		t.Fatalf("second Open: %v, want ErrLocked with the process and the remedy", err)
	}
	if rep, err := Verify(dir); err != nil || !rep.InUse {
		t.Fatalf("Verify = %+v, %v; want in use", rep, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, dir, Options{}) // the name is kept
	if j.Incarnation() != "gw-7#2" {
		t.Fatalf("incarnation %s, want gw-7#2", j.Incarnation())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Node: "other"}); err == nil || !strings.Contains(err.Error(), "--node gw-7") {
		t.Fatalf("another name: %v, want the remedy", err)
	}
	if a, b := mustOpen(t, t.TempDir(), Options{}).Node(), mustOpen(t, t.TempDir(), Options{}).Node(); a == b || !validName(a, 64) {
		t.Fatalf("made names %q, %q", a, b)
	}
}

// TestNodeFileSurvivesATornWrite: the boot counter never goes back.
func TestNodeFileSurvivesATornWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 {
		if err := mustOpen(t, dir, Options{Node: "n"}).Close(); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, "node")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// Boot 4 would go to slot 0: half of it arrives.
	copy(b[:slotSize/8], strings.Repeat("\xaa", slotSize/8))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if j := mustOpen(t, dir, Options{}); j.Boot() != 4 || j.Node() != "n" {
		t.Fatalf("%s boot %d, want n boot 4", j.Node(), j.Boot())
	}
}

func TestOptionsValidate(t *testing.T) {
	t.Parallel()
	bad := Options{
		Node: "a b", Consumers: []string{"x", "x", "../y"}, SegmentSize: 1, SyncEvery: -1, Retain: -1, StallLimit: -1,
	}
	_, err := Open(t.TempDir(), bad)
	for _, hint := range []string{`node name "a b"`, `consumer "x" is named twice`, `"../y"`, "segment size 1 ", "sync interval", "retention", "stall limit"} {
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("faults %v do not name %q", err, hint)
		}
	}
	if _, err := Open("/proc/nowhere", Options{}); err == nil || !strings.Contains(err.Error(), "can be written to") {
		t.Errorf("a folder that cannot be made: %v", err)
	}
}

func TestPosition(t *testing.T) {
	t.Parallel()
	in := []Position{{}, {1, 128, 1}, {1, 136, 2}, {2, 128, 3}, {10, 128, 4}}
	for i, p := range in {
		if q, err := ParsePosition(p.String()); err != nil || q != p {
			t.Errorf("%s parses to %v, %v", p, q, err)
		}
		for k, q := range in {
			if got := p.Compare(q); got != slices.Compare([]int{i}, []int{k}) {
				t.Errorf("%s against %s is %d", p, q, got)
			}
		}
	}
	for _, s := range []string{"", "1", "1:2", "a:1@1", "1:99999999999@1", "-1:1@1"} {
		if _, err := ParsePosition(s); !errors.Is(err, ErrPosition) {
			t.Errorf("%q: error %v, want ErrPosition", s, err)
		}
	}
}
