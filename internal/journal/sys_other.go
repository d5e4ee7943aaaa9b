//go:build unix && !linux

package journal

import "os"

func allocate(f *os.File, size int64) error { return fillZero(f, size) }

func populate(b []byte) { touch(b) }

func repopulate([]byte) {}

func datasync(f *os.File) error { return f.Sync() }
