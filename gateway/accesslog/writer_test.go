package accesslog

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tollgate/internal/testkit/wait"
)

func TestReopenAfterARename(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	w, err := Open(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	line := func(s string) { w.Write(append(w.Buffer(), s+"\n"...)) }
	line("one")
	lines := func(name string, n int) { // they are written by and by
		t.Helper()
		wait.Until(t, 10*time.Second, "lines", func(context.Context) error {
			if b, err := os.ReadFile(name); err != nil || bytes.Count(b, []byte("\n")) != n {
				return fmt.Errorf("%q %v", b, err)
			}
			return nil
		})
	}
	lines(path, 1)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	line("two")
	lines(path+".1", 2)
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	line("three")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path + ".1": "one\ntwo\n", path: "three\n"} {
		if b, err := os.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("%s: %q %v, want %q", name, b, err, want)
		}
	}
}

// stuck is a disk that does not answer until it is freed.
type stuck struct {
	free chan struct{}
	bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.free
	return s.Buffer.Write(p)
}

func (s *stuck) Close() error { return nil }

func TestAStuckDiskMakesNobodyWait(t *testing.T) {
	t.Parallel()
	disk := &stuck{free: make(chan struct{})}
	w := newWriter(disk, 8)
	began := time.Now()
	const lines = 2000
	for i := range lines {
		w.Write(fmt.Appendf(nil, "%d\n", i))
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("writing took %s", d)
	}
	close(disk.free)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if kept := int64(bytes.Count(disk.Bytes(), []byte("\n"))); kept+w.Dropped() != lines || w.Dropped() == 0 || kept < 8 {
		t.Errorf("%d lines kept, %d dropped, of %d", kept, w.Dropped(), lines)
	}
}
