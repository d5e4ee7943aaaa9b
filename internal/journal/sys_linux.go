package journal

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives f size bytes of its own on the disk. A sparse file would end
// the process with SIGBUS when a mapped page of it finds no room.
func allocate(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fillZero(f, size)
		}
		return err
	}
}

// populate makes every page of b present and writable, so that a first store
// does not fault.
func populate(b []byte) {
	if err := unix.Madvise(b, unix.MADV_POPULATE_WRITE); err != nil {
		touch(b) // before Linux 5.14
	}
}

// repopulate does the same for pages that may hold records; it does nothing
// where the kernel cannot do it without writing.
func repopulate(b []byte) { _ = unix.Madvise(b, unix.MADV_POPULATE_WRITE) }

func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
