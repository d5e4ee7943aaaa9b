package journal

import (
	"errors"
	"fmt"
)

// What callers branch on.
var (
	// ErrFull says that no further segment can be allocated: refuse new metered
	// calls with 503 until it goes away by itself, when room was made.
	ErrFull = errors.New("journal: the disk is full or too slow: free space in the journal's folder, or let its consumers catch up")
	// ErrStopped says that the disk failed a write or a sync. It stays until the
	// next Open.
	ErrStopped = errors.New("journal: stopped after a disk error: check the disk, then restart")
	// ErrClosed says that the journal was closed.
	ErrClosed = errors.New("journal: closed")
	// ErrTooLarge says that a payload is longer than MaxPayload.
	ErrTooLarge = fmt.Errorf("journal: a record holds at most %d bytes", MaxPayload)
	// ErrKind says that a kind is 0 or beyond those callers may use.
	ErrKind = fmt.Errorf("journal: a kind is 1 to %d", maxKind)
	// ErrLocked says that another process has the journal open.
	ErrLocked = errors.New("journal: in use by another process")
	// ErrConsumer says that a name is not one of Options.Consumers.
	ErrConsumer = errors.New("journal: no such consumer: name it in the options")
	// ErrNotJournal says that a folder holds no journal.
	ErrNotJournal = errors.New("journal: no journal here: give the folder that holds its node file")
)

// CorruptError says that the record at Pos is not what was written: its bytes
// changed after they were on disk. Reading stops there; SkipCorrupt goes on
// behind it.
type CorruptError struct {
	File string
	Pos  Position
}

// Error names the place and the remedy.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal: %s is corrupt at offset %d: what follows is not read; restore the file from a copy, or skip the record and settle the difference by hand", e.File, e.Pos.Offset)
}
