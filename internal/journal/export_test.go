package journal

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// snapshot copies the files of an open journal as a kill at this instant would
// leave them, and returns the folder of the copy.
func snapshot(t testing.TB, j *Journal) string {
	t.Helper()
	j.flushMu.Lock()
	defer j.flushMu.Unlock()
	dir := memoryDir(t)
	copyTree(t, j.dir, dir)
	return dir
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // the journal removed it meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// memoryDir returns a folder whose syncs cost nothing, for tests that make
// very many of them and look at what is written, not at the disk.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tollgate-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func mustOpen(t testing.TB, dir string, opt Options) *Journal {
	t.Helper()
	if opt.SegmentSize == 0 {
		opt.SegmentSize = minSegmentSize
	}
	if len(opt.Consumers) == 0 && opt.Retain == 0 {
		opt.Retain = time.Hour // or everything sealed is removed at once
	}
	j, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func mustAppend(t testing.TB, j *Journal, payload string) Position {
	t.Helper()
	p, err := j.Append(KindUsage, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readAll returns the payloads from r on, without waiting.
func readAll(t testing.TB, r *Reader) []string {
	t.Helper()
	var all []string
	var last Position
	for {
		rec, ok, err := r.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return all
		}
		if !last.Before(rec.Pos) || rec.Pos.Seq <= last.Seq {
			t.Fatalf("record %s after %s", rec.Pos, last)
		}
		last = rec.Pos
		all = append(all, string(rec.Payload))
	}
}
