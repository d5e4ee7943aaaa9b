package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// dead returns the folder of a journal that was killed with these records in
// it, none of them copied to disk yet when lazy.
func dead(t *testing.T, payloads []string, lazy bool) string {
	t.Helper()
	opt := Options{SyncEvery: time.Millisecond}
	if lazy {
		opt.SyncEvery = time.Hour
	}
	j := mustOpen(t, t.TempDir(), opt)
	for _, p := range payloads {
		mustAppend(t, j, p)
	}
	if !lazy {
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return snapshot(t, j)
}

func numbered(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%06d%s", i, strings.Repeat("-", i%50))
	}
	return list
}

// edit changes the bytes of a file.
func edit(t *testing.T, name string, f func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func firstFront(dir string) string { return frontName(filepath.Join(dir, "front"), 1) }

// frameAt returns the offset of frame k.
func frameAt(b []byte, k int) uint32 {
	off := uint32(headerSize)
	for range k {
		off += committed(b[off:])
	}
	return off
}

// TestRecoverFront: nothing had reached the disk, everything is in the front.
func TestRecoverFront(t *testing.T) {
	t.Parallel()
	want := numbered(300)
	for _, lazy := range []bool{true, false} {
		dir := dead(t, want, lazy)
		rep, err := Verify(dir)
		if err != nil || rep.Records != 300 || rep.Unsealed != 1 || rep.Torn != 0 || rep.InUse {
			t.Fatalf("Verify: %s, %v", rep.String(), err)
		}
		j := mustOpen(t, dir, Options{})
		if diff := cmp.Diff(want, readAll(t, j.Reader(Position{}))); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if _, err := os.Stat(firstFront(dir)); !os.IsNotExist(err) {
			t.Fatalf("the front was not removed: %v", err)
		}
		if p := mustAppend(t, j, "next"); p.Segment < 2 || p.Seq != 301 {
			t.Fatalf("the next record is at %s", p)
		}
	}
}

// TestRecoverHoles: frames that were reserved and never finished, with
// finished ones behind them.
func TestRecoverHoles(t *testing.T) {
	t.Parallel()
	all := numbered(100)
	dir := dead(t, all, true)
	lost := map[int]bool{0: true, 10: true, 11: true, 40: true, 99: true}
	var torn int64
	edit(t, firstFront(dir), func(b []byte) []byte {
		var offs []uint32
		for k := range all {
			offs = append(offs, frameAt(b, k))
		}
		for k := range lost {
			n := committed(b[offs[k]:])
			torn += int64(n)
			switch {
			case k == 10: // killed between reserving and its first store
				clear(b[offs[k] : offs[k]+n])
			case k == 99: // at the end, payload half there
				clear(b[offs[k] : offs[k]+4])
				clear(b[offs[k]+20 : offs[k]+n])
				torn -= int64(n) - 20 // what is zero at the end is not told
			default: // killed just before the word
				clear(b[offs[k] : offs[k]+4])
			}
		}
		return b
	})
	var want []string
	for k, p := range all {
		if !lost[k] {
			want = append(want, p)
		}
	}
	rep, err := Verify(dir)
	if err != nil || rep.Records != 95 || rep.Torn != torn || !rep.OK() || rep.TornAt.Offset != headerSize {
		t.Fatalf("Verify: %s, %v; want %d torn bytes", rep.String(), err, torn)
	}
	for range 2 { // the second start finds the holes filled
		j := mustOpen(t, dir, Options{})
		if diff := cmp.Diff(want, readAll(t, j.Reader(Position{}))); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if rep, err := Verify(dir); err != nil || rep.Torn != 0 || rep.Records != 95 {
		t.Fatalf("after recovery: %s, %v", rep.String(), err)
	}
}

// TestRecoverCorruptMiddle: a record that was safely on disk has changed.
// Reading stops there and says so; the rest is reached by SkipCorrupt (fault
// 16).
func TestRecoverCorruptMiddle(t *testing.T) {
	t.Parallel()
	all := numbered(100)
	j := mustOpen(t, t.TempDir(), Options{Consumers: []string{"quota"}})
	for _, p := range all {
		mustAppend(t, j, p)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	name := segmentName(j.dir, 1)
	var at uint32
	edit(t, name, func(b []byte) []byte {
		at = frameAt(b, 60)
		b[at+20] ^= 1
		return b
	})
	j = mustOpen(t, j.dir, Options{Consumers: []string{"quota"}})
	rep := j.Recovered()
	if rep.OK() || len(rep.Corrupt) != 1 || rep.Corrupt[0].Pos.Offset != at || rep.Corrupt[0].File != name || rep.Records != 99 {
		t.Fatalf("report %s", rep.String())
	}
	mustAppend(t, j, "new") // calls go on
	c, err := j.Consumer("quota")
	if err != nil {
		t.Fatal(err)
	}
	for k := range 60 {
		rec, ok, err := c.TryNext()
		if !ok || err != nil || string(rec.Payload) != all[k] {
			t.Fatalf("record %d: %q, %v, %v", k, rec.Payload, ok, err)
		}
	}
	for range 2 { // again and again
		_, _, err := c.TryNext()
		var bad *CorruptError
		if !errors.As(err, &bad) || bad.Pos.Offset != at || !strings.Contains(err.Error(), "restore the file") {
			t.Fatalf("error %v, want a CorruptError at %d", err, at)
		}
	}
	n, err := c.SkipCorrupt()
	if err != nil || n != int64(frameSize(len(all[60]))) {
		t.Fatalf("SkipCorrupt = %d, %v", n, err)
	}
	if diff := cmp.Diff(append(append([]string(nil), all[61:]...), "new"), readAll(t, &c.Reader)); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

// TestRecoverDamage lists how files are damaged and what is told.
func TestRecoverDamage(t *testing.T) {
	t.Parallel()
	all := numbered(100)
	clean := func(t *testing.T) string {
		j := mustOpen(t, t.TempDir(), Options{})
		for _, p := range all {
			mustAppend(t, j, p)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		return j.dir
	}
	for _, c := range []struct {
		name    string
		damage  func(t *testing.T) string
		records int64
		corrupt int
		openErr string
	}{
		{"none", clean, 100, 0, ""},
		{"a sealed file cut short", func(t *testing.T) string {
			dir := clean(t)
			edit(t, segmentName(dir, 1), func(b []byte) []byte { return b[:frameAt(b, 70)+9] })
			return dir
		}, 70, 1, ""},
		{"a sealed file cut to nothing", func(t *testing.T) string {
			dir := clean(t)
			edit(t, segmentName(dir, 1), func([]byte) []byte { return nil })
			return dir
		}, 0, 0, ""}, // like one that was never used: its records are missed by verify against the stores
		{"a damaged header", func(t *testing.T) string {
			dir := clean(t)
			edit(t, segmentName(dir, 1), func(b []byte) []byte { b[9] ^= 1; return b })
			return dir
		}, 0, 1, ""},
		{"a damaged header, the front is there", func(t *testing.T) string {
			dir := dead(t, all, false)
			edit(t, segmentName(dir, 1), func(b []byte) []byte { b[9] ^= 1; return b })
			return dir
		}, 100, 0, ""},
		{"the front is gone, all was synced", func(t *testing.T) string {
			dir := dead(t, all, false)
			if err := os.Remove(firstFront(dir)); err != nil {
				t.Fatal(err)
			}
			return dir
		}, 100, 0, ""},
		{"the front is blank, as after a crash of the machine", func(t *testing.T) string {
			dir := dead(t, all, false)
			edit(t, firstFront(dir), func(b []byte) []byte { clear(b); return b })
			return dir
		}, 100, 0, ""},
		{"the front has its header only", func(t *testing.T) string {
			dir := dead(t, all, false)
			edit(t, firstFront(dir), func(b []byte) []byte { clear(b[headerSize:]); return b })
			return dir
		}, 100, 0, ""},
		{"the file on disk is gone", func(t *testing.T) string {
			dir := dead(t, all, true)
			if err := os.Remove(segmentName(dir, 1)); err != nil {
				t.Fatal(err)
			}
			return dir
		}, 100, 0, ""},
		{"a segment of another journal", func(t *testing.T) string {
			dir, other := clean(t), clean(t)
			edit(t, segmentName(dir, 1), func([]byte) []byte {
				b, err := os.ReadFile(segmentName(other, 1))
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
			return dir
		}, 0, 0, "belongs to another journal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := c.damage(t)
			rep, err := Verify(dir)
			if c.openErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.openErr) {
					t.Fatalf("Verify: %v, want %q", err, c.openErr)
				}
				if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), c.openErr) {
					t.Fatalf("Open: %v, want %q", err, c.openErr)
				}
				return
			}
			if err != nil || rep.Records != c.records || len(rep.Corrupt) != c.corrupt {
				t.Fatalf("Verify: %s, %v", rep.String(), err)
			}
			j := mustOpen(t, dir, Options{Retain: time.Hour})
			if rep := j.Recovered(); rep.Records != c.records || len(rep.Corrupt) != c.corrupt {
				t.Fatalf("Open: %s", rep.String())
			}
			r := j.Reader(Position{})
			n := int64(0)
			var bad *CorruptError
			for {
				_, ok, err := r.TryNext()
				if errors.As(err, &bad) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if !ok {
					break
				}
				n++
			}
			if n != c.records || (bad != nil) != (c.corrupt > 0) {
				t.Fatalf("read %d records, then %v", n, bad)
			}
			if p := mustAppend(t, j, "next"); p.Segment < 1 {
				t.Fatalf("the next record is at %s", p)
			}
		})
	}
}

// TestPowerLoss: the front is gone, and of what was written after the last
// sync any sectors have arrived. What was synced is whole; what was not is
// taken as far as it is valid; nothing is told as corrupt.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 2))
	t.Logf("seed %d", seed)
	for range 40 {
		j := mustOpen(t, t.TempDir(), Options{SyncEvery: time.Hour})
		synced := numbered(1 + rnd.IntN(100))
		for k, p := range synced {
			mustAppend(t, j, p)
			if k == len(synced)/2 { // the mark trails the sync by one: have both
				if err := j.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		from := j.End().Offset
		later := map[string]bool{}
		for k := range rnd.IntN(100) {
			p := fmt.Sprintf("later %d %s", k, strings.Repeat("+", rnd.IntN(300)))
			later[p] = true
			mustAppend(t, j, p)
		}
		dir := snapshot(t, j)
		front, err := os.ReadFile(firstFront(dir))
		if err != nil {
			t.Fatal(err)
		}
		edit(t, segmentName(dir, 1), func(b []byte) []byte {
			for at := from; at < j.End().Offset; at = at&^511 + 512 {
				if rnd.IntN(2) == 0 { // this sector arrived
					copy(b[at:at&^511+512], front[at:])
				}
			}
			return b
		})
		if err := os.RemoveAll(filepath.Join(dir, "front")); err != nil {
			t.Fatal(err)
		}
		k := mustOpen(t, dir, Options{})
		rep := k.Recovered()
		if !rep.OK() || rep.FrontsMissing != 1 || !strings.Contains(rep.String(), "may be missing") {
			t.Fatalf("report %s", rep.String())
		}
		got := readAll(t, k.Reader(Position{}))
		if len(got) < len(synced) {
			t.Fatalf("%d records left of %d that were synced", len(got), len(synced))
		}
		if diff := cmp.Diff(synced, got[:len(synced)]); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		for _, p := range got[len(synced):] {
			if !later[p] {
				t.Fatalf("%q was never appended, or came twice", p)
			}
			delete(later, p)
		}
		_ = errors.Join(j.Close(), k.Close())
	}
}

// TestForgedFrame: bytes that a client can put into a payload never pass for a
// record, even when the record around them was torn.
func TestForgedFrame(t *testing.T) {
	t.Parallel()
	forged := make([]byte, 64)
	putFrame(forged, 0, 0, 7, KindUsage, []byte("a gift of 1000 units"))
	dir := dead(t, []string{"first", string(forged), "last"}, true)
	edit(t, firstFront(dir), func(b []byte) []byte {
		at := frameAt(b, 1)
		clear(b[at : at+4])
		return b
	})
	j := mustOpen(t, dir, Options{})
	if diff := cmp.Diff([]string{"first", "last"}, readAll(t, j.Reader(Position{}))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

// TestCopyLeavesTheOriginalAlone: opening a copy of a journal whose fronts lie
// elsewhere neither takes nor removes the original's.
func TestCopyLeavesTheOriginalAlone(t *testing.T) {
	t.Parallel()
	memory := t.TempDir()
	j := mustOpen(t, t.TempDir(), Options{FrontDir: memory, SyncEvery: time.Hour})
	mustAppend(t, j, "one")
	dir := t.TempDir()
	copyTree(t, j.dir, dir)
	_, err := Open(dir, Options{})
	if err == nil || !strings.Contains(err.Error(), "move them to") {
		t.Fatalf("Open of a copy without the fronts: %v, want the remedy", err)
	}
	copyTree(t, j.node.fronts(j.dir), filepath.Join(dir, "front"))
	k := mustOpen(t, dir, Options{FrontDir: memory}) // the same settings
	if diff := cmp.Diff([]string{"one"}, readAll(t, k.Reader(Position{}))); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	mustAppend(t, j, "two") // the original is alive
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if rep, err := Verify(j.dir); err != nil || rep.Records != 2 || rep.Unsealed != 0 {
		t.Fatalf("the original: %s, %v", rep.String(), err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(memory); err != nil || len(left) != 0 {
		t.Fatalf("fronts left behind: %v, %v", left, err)
	}
}

// TestInspect tells all there is to know without changing a byte.
func TestInspect(t *testing.T) {
	t.Parallel()
	dir := dead(t, numbered(2000), true)
	sum := func() map[string]int64 {
		all := map[string]int64{}
		for _, pattern := range []string{"*", "front/*"} {
			list, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range list {
				st, err := os.Stat(name)
				if err != nil {
					t.Fatal(err)
				}
				all[name] = st.Size() ^ st.ModTime().UnixNano()
			}
		}
		return all
	}
	before := sum()
	var got []string
	rep, err := Inspect(dir, func(r Record) error {
		got = append(got, string(r.Payload))
		return nil
	})
	if err != nil || rep.Records != 2000 || rep.First.Seq != 1 || rep.End.Seq != 2001 {
		t.Fatalf("%s, %v", rep.String(), err)
	}
	if diff := cmp.Diff(numbered(2000), got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, sum()); diff != "" {
		t.Fatalf("Inspect changed the folder:\n%s", diff)
	}
	stop := errors.New("enough")
	if _, err := Inspect(dir, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("error %v, want that of the callback", err)
	}
	if _, err := Inspect(t.TempDir(), nil); !errors.Is(err, ErrNotJournal) {
		t.Fatalf("error %v, want ErrNotJournal", err)
	}
}
