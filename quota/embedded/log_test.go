package embedded_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/embedded"
)

func open(t testing.TB, dir string, opt embedded.Options) *embedded.Store {
	t.Helper()
	s, err := embedded.Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func grant(t testing.TB, s quota.Store, sub, id string, n int64) {
	t.Helper()
	_, err := s.ApplyGrant(t.Context(), lot.Grant{ID: id, Subscription: sub, Amount: n, Effective: time.Unix(1_790_000_000, 0).UTC(), Version: 1})
	if err != nil {
		t.Fatal(err)
	}
}

// report is one report of node a: everything it holds is used, and it wants n
// more.
func report(t testing.TB, s quota.Store, sub string, used, n int64) int64 {
	t.Helper()
	r, err := s.Sync(t.Context(), &quota.SyncRequest{
		Subscription: sub, Incarnation: quota.Incarnation{Node: "a", Boot: 1}, TTL: time.Minute, Quarantine: time.Minute,
		Counters: []quota.Counter{{Lot: "L1", From: 1_790_000_000_000, Granted: used, Used: used}},
		Demands:  []quota.Demand{{Unit: usage.Call, Floor: n, Target: n}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.Buckets[0].Granted
}

func used(t testing.TB, s quota.Store, sub string) int64 {
	t.Helper()
	b, err := s.Read(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Lots) == 0 {
		return -1
	}
	return b.Lots[0].Used
}

func TestReopenKeepsEverything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, embedded.Options{})
	for i := range 20 {
		sub := fmt.Sprintf("sub%02d", i)
		grant(t, s, sub, "L1", 100)
		if _, err := s.SetThresholds(t.Context(), quota.Thresholds{Subscription: sub, Version: 1, Levels: []quota.Threshold{{Kind: quota.Percent, Value: 50}}}); err != nil {
			t.Fatal(err)
		}
		report(t, s, sub, 0, 60)
		report(t, s, sub, 60, 0)
	}
	before, err := s.Crossings(t.Context(), 100)
	if err != nil || len(before) != 20 {
		t.Fatalf("crossings %d, %v", len(before), err)
	}
	if err := s.Ack(t.Context(), before[:5]...); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, embedded.Options{})
	defer s.Close()
	for i := range 20 {
		if got := used(t, s, fmt.Sprintf("sub%02d", i)); got != 60 {
			t.Fatalf("subscription %d: used %d after reopening, want 60", i, got)
		}
	}
	if after, err := s.Crossings(t.Context(), 100); err != nil || len(after) != 15 {
		t.Fatalf("crossings after reopening: %d, %v; want 15", len(after), err)
	}
}

func TestASecondProcessIsKeptOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, embedded.Options{})
	defer s.Close()
	if _, err := embedded.Open(dir, embedded.Options{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("error %v", err)
	}
}

func TestATornEndIsCutOffAndTheRestIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, embedded.Options{})
	grant(t, s, "sub", "L1", 100)
	report(t, s, "sub", 0, 10)
	whole := int64(fileSize(t, dir))
	report(t, s, "sub", 10, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "quota.log"))
	if err != nil {
		t.Fatal(err)
	}
	last := int64(len(log)) - whole
	for _, c := range []struct {
		name string
		text []byte
		used int64
	}{
		{"whole", log, 10},
		{"one byte short", log[:len(log)-1], 0},
		{"head of a record", log[:whole+5], 0},
		{"nothing of the last record", log[:whole], 0},
		{"a flipped bit", flip(log, whole+last/2), 0},
		{"garbage behind", append(bytes.Clone(log), "garbage, and more of it"...), 10},
		{"a length beyond reason", append(bytes.Clone(log), binary.LittleEndian.AppendUint32(nil, 1<<31)...), 10},
		{"zeros behind", append(bytes.Clone(log), make([]byte, 4096)...), 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "quota.log"), c.text, 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // what was cut off stays off
				s := open(t, dir, embedded.Options{})
				if got := used(t, s, "sub"); got != c.used {
					t.Fatalf("used %d, want %d", got, c.used)
				}
				if report(t, s, "other", 0, 0); s.Close() != nil {
					t.Fatal("close")
				}
			}
		})
	}
	t.Run("another file", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "quota.log"), []byte("SQLite format 3\x00 and so on"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := embedded.Open(dir, embedded.Options{}); err == nil || !strings.Contains(err.Error(), "not a log") {
			t.Fatalf("error %v", err)
		}
	})
}

func flip(b []byte, at int64) []byte {
	c := bytes.Clone(b)
	c[at] ^= 4
	return c
}

func fileSize(t testing.TB, dir string) int64 {
	t.Helper()
	fi, err := os.Stat(filepath.Join(dir, "quota.log"))
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

func TestCompactingWhileReportsComeIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, embedded.Options{SyncEvery: time.Hour})
	const subs, rounds = 8, 300
	for i := range subs {
		grant(t, s, fmt.Sprintf("sub%d", i), "L1", 1_000_000)
	}
	var wg sync.WaitGroup
	for i := range subs {
		wg.Go(func() {
			sub := fmt.Sprintf("sub%d", i)
			for n := range int64(rounds) {
				report(t, s, sub, n, 0)
			}
		})
	}
	for range 10 {
		if err := s.Compact(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	grown := fileSize(t, dir)
	if err := s.Compact(); err != nil {
		t.Fatal(err)
	}
	if size := fileSize(t, dir); size > grown || size > 64<<10 {
		t.Errorf("%d bytes after compacting, %d before", size, grown)
	}
	want := map[string]int64{}
	for i := range subs {
		want[fmt.Sprintf("sub%d", i)] = rounds - 1
	}
	check := func() {
		t.Helper()
		got := map[string]int64{}
		for sub := range want {
			got[sub] = used(t, s, sub)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// An unfinished rewrite never happened.
	if err := os.WriteFile(filepath.Join(dir, "quota.log.new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, embedded.Options{})
	defer s.Close()
	check()
}
