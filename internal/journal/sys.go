package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// disk is what the journal asks of the place its segments lie on, so that
// tests can make it fail or slow.
type disk interface {
	// create makes the file name of size allocated bytes. Its name and its
	// allocation are durable when it returns.
	create(name string, size int64) (file, error)
	// open opens an existing file for reading and writing.
	open(name string) (file, error)
}

// file is a segment on disk.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	datasync() error
	size() (int64, error)
}

type osDisk struct{}

type osFile struct{ *os.File }

func (f osFile) datasync() error { return datasync(f.File) }

func (f osFile) size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (osDisk) create(name string, size int64) (file, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(allocate(f, size), f.Sync(), syncDir(filepath.Dir(name))); err != nil {
		_ = f.Close()
		_ = os.Remove(name)
		return nil, fmt.Errorf("allocate %s: %w", name, err)
	}
	return osFile{f}, nil
}

func (osDisk) open(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// createFront makes a mapped front of size bytes, the first ones present.
func createFront(name string, size int) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping stays
	if err := allocate(f, int64(size)); err != nil {
		_ = os.Remove(name)
		return nil, fmt.Errorf("allocate %s: %w", name, err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = os.Remove(name)
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	populate(b[:min(size, aheadBytes)])
	return b, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// fillZero allocates by writing.
func fillZero(f *os.File, size int64) error {
	zero := make([]byte, 256<<10)
	for off := int64(0); off < size; off += int64(len(zero)) {
		n := min(int64(len(zero)), size-off)
		if _, err := f.WriteAt(zero[:n], off); err != nil {
			return err
		}
	}
	return nil
}

// touch stores a zero into every page of b, which holds nothing yet.
func touch(b []byte) {
	for i := 0; i < len(b); i += 4096 {
		b[i] = 0
	}
}

// lockFile takes the lock of the journal in dir, or says who has it.
func lockFile(dir string) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for range 20 { // Verify holds it for a moment to see whether it is free
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(5 * time.Millisecond)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("journal: lock %s: %w", name, err)
		}
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0)
		who := strings.TrimSpace(string(holder[:n]))
		if who == "" {
			who = "unknown"
		}
		return nil, fmt.Errorf("%w (process %s) at %s: stop that one, or give this one another data folder", ErrLocked, who, dir)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
		if err != nil && !errors.Is(err, unix.ENOSPC) { // the lock holds without the number
			_ = f.Close()
			return nil, fmt.Errorf("journal: write %s: %w", name, err)
		}
	}
	return f, nil
}
