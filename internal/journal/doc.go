// Package journal is the durable local journal of one gateway node: a counted
// call is one record appended before the last byte of its answer leaves, and
// the package counters and the usage rows are both derived from it.
//
// # Contract
//
//   - Append returns after the record lies in a shared mapping of a file: the
//     death of the process at any later instant (kill -9 included) does not
//     lose it. A crash of the machine may lose what was appended within the
//     last Options.SyncEvery, unless Options.Strict is set.
//   - Append never waits for the disk: not for a write, not for an fsync and,
//     while the disk is less than two segments behind, not for an allocation.
//   - Admission is asked apart from appending. Call CanAdmit before a metered
//     call is taken: it answers ErrFull or ErrStopped when the journal cannot
//     promise room any more. Append for a call already running goes on into a
//     reserve segment that was allocated before and is used for nothing else,
//     so a call in flight never loses its record to a full disk.
//   - An error of the disk while writing or syncing stops taking for good
//     (ErrStopped, until the next Open): a second fsync after a failed one may
//     answer success without having written anything, so it is not tried.
//   - Reading does not remove. Consumers have named, durable cursors; a segment
//     is removed only after every registered consumer has acknowledged all of
//     it and Options.Retain has passed. Delivery is at least once: what was
//     read and not acknowledged comes again after a restart.
//   - Records come out in the order of their positions, each exactly once per
//     pass, and positions are never used twice, not even after a crash.
//   - One process at a time: a lock file keeps a second one out.
//
// # Calls under way
//
// A call that runs for long has provisional records (usage.Provisional) before
// its final one. The journal keeps them like any other record and does not know
// them apart; whoever reads does: the usage store never sees them, the tally
// counts the last one of a call only if no final one follows and the boot that
// wrote it is over, which a later boot knows by the lock it holds. That boot
// then appends the call's final record, basis "recovered", which names the boot
// it is charged to (usage.Record.Boot). Before a segment with a provisional
// record is removed the tally's state, beside the segments, holds its content.
//
// # Two levels
//
// Appenders write into a "front" file, mapped shared, which this package never
// syncs; a background goroutine copies what is complete to the segment on disk
// with pwrite and fdatasync. Syncing the mapping itself would be one file
// less, but each sync write-protects its pages, and the next store into such a
// page enters the file system and can wait for its commit behind a slow disk.
// In memory (Options.FrontDir on a tmpfs) the front never waits for a disk at
// all and still survives the death of the process; beside the segments (the
// default) it also survives the end of a container.
//
//	append ─► front NNN.front (mmap) ──copy, fdatasync──► NNN.seg ─► consumers
//
// A segment is complete on disk when its header is sealed; then its front is
// removed. Open finishes the copying that a crash interrupted, tells what was
// torn (Report), and begins a new segment.
//
// # Format
//
// All integers are little endian; offsets count from the start of the file.
// Front and segment have the same form.
//
//	header, 128 bytes                      frame, at a multiple of 8
//	  0  8  magic "TGJRNL1\n"                0  4  word: commit 1 | length 23 | kind 8
//	  8  8  segment number                   4  4  CRC32C of seq and payload
//	 16  8  boot of the node                 8  8  seq
//	 24  8  seq of the first frame          16  n  payload
//	 32  8  nonce                               -  zeros to a multiple of 8
//	 40  8  created, Unix ms
//	 48 16  journal id
//	 64  4  CRC32C of bytes 0..63
//	 72  8  durable: offset, check       all before it was synced once
//	 80  8  sealed: end offset, check    the segment ends here
//	 88  8  seq after the last frame, once sealed
//
// The word is stored last, atomically, with its commit bit (the highest) set:
// a frame that was reserved and not finished has a word of zero. The CRC's
// start value mixes nonce, offset and word, so a frame is valid only in the
// place it was written for, and bytes of a payload cannot pass for a frame.
//
// Places are reserved by one atomic addition, so a process killed in the
// middle of an append may leave a hole with finished frames behind it. Holes
// can only lie after the durable mark: Open finds the next valid frame, fills
// the hole with padding and reports the bytes as torn. An invalid frame before
// the durable mark is corruption: reading stops there with a *CorruptError.
package journal
