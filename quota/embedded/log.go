package embedded

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"tollgate/quota/ledger"
)

const (
	magic     = "TGQUOTA1\n"
	logName   = "quota.log"
	tempName  = "quota.log.new"
	lockName  = "quota.lock"
	frameHead = 8
	maxFrame  = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errBroken says that an earlier write failed: the log's end is not known any
// more, so nothing may be appended until the store is opened again.
var errBroken = errors.New("quota: the embedded store's log could not be written before: free the disk and start again")

// logFile is the log of account states.
type logFile struct {
	dir  string
	opt  Options
	lock *os.File

	mu     sync.Mutex
	f      *os.File
	size   int64
	live   map[string]int64 // length of the last record of each subscription
	sum    int64            // of live
	dirty  bool
	broken bool
	buf    []byte
	tail   *bytes.Buffer // what is appended while the log is rewritten
}

// openLog opens the log in dir and calls load with the last state of each
// subscription.
func openLog(dir string, opt Options, load func(*ledger.Account)) (*logFile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("quota: make the folder of the embedded store: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("quota: open the embedded store's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("quota: the embedded store in %s is in use by another process: stop it or use another data folder: %w", dir, err)
	}
	l := &logFile{dir: dir, opt: opt, lock: lock, live: map[string]int64{}}
	if err := l.load(load); err != nil {
		lock.Close()
		return nil, err
	}
	return l, nil
}

// load reads the log and cuts off what is torn.
func (l *logFile) load(load func(*ledger.Account)) error {
	// A rewrite that did not come to its rename never happened.
	if err := os.Remove(filepath.Join(l.dir, tempName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("quota: remove an unfinished rewrite: %w", err)
	}
	path := filepath.Join(l.dir, logName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("quota: open the embedded store's log: %w", err)
	}
	size, err := l.scan(f, load)
	if err != nil {
		f.Close()
		return err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil && end > size {
		l.opt.Log.Warn("quota: the end of the embedded store's log was torn and is cut off", "file", path, "bytes", end-size)
		err = f.Truncate(size)
	}
	if err == nil && size == 0 {
		_, err = f.WriteAt([]byte(magic), 0)
		size = int64(len(magic))
	}
	if err == nil {
		err = errors.Join(f.Sync(), syncDir(l.dir))
	}
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("quota: prepare the embedded store's log: %w", err)
	}
	l.f, l.size = f, size
	return nil
}

// scan reads every whole record and returns where the last one ends.
func (l *logFile) scan(f *os.File, load func(*ledger.Account)) (int64, error) {
	r := bufio.NewReaderSize(f, 1<<20)
	head := make([]byte, len(magic))
	switch n, err := io.ReadFull(r, head); {
	case n == 0 && err == io.EOF:
		return 0, nil
	case err != nil && string(head[:n]) == magic[:n]:
		return 0, nil // torn while it was made
	case string(head) != magic:
		return 0, fmt.Errorf("quota: %s is not a log of the embedded store, or of another version", f.Name())
	}
	size := int64(len(magic))
	last := map[string]*ledger.Account{}
	var frame [frameHead]byte
	for {
		if _, err := io.ReadFull(r, frame[:]); err != nil {
			break
		}
		n := binary.LittleEndian.Uint32(frame[:4])
		if n == 0 || n > maxFrame {
			break
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(r, payload); err != nil {
			break
		}
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(frame[4:]) {
			break
		}
		a := ledger.New("")
		if err := json.Unmarshal(payload, a); err != nil {
			return 0, fmt.Errorf("quota: a record of %s at %d has a good checksum and cannot be read: %w", f.Name(), size, err)
		}
		last[a.Subscription] = a
		size += frameHead + int64(n)
		l.account(a.Subscription, frameHead+int64(n))
	}
	for _, a := range last {
		load(a)
	}
	return size, nil
}

// account keeps the books on what of the log still counts.
func (l *logFile) account(id string, n int64) {
	l.sum += n - l.live[id]
	l.live[id] = n
}

// encode appends the frame of a to dst.
func encode(dst []byte, a *ledger.Account) ([]byte, error) {
	payload, err := json.Marshal(a)
	if err != nil {
		return dst, err
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(payload, castagnoli))
	return append(dst, payload...), nil
}

// append writes the state of a.
func (l *logFile) append(a *ledger.Account) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return errBroken
	}
	var err error
	if l.buf, err = encode(l.buf[:0], a); err != nil {
		return err
	}
	if _, err := l.f.Write(l.buf); err != nil {
		// Part of the record may be there. Cutting it off keeps the log
		// readable; should that fail as well, nothing more may follow it.
		if terr := l.f.Truncate(l.size); terr != nil {
			l.broken = true
		} else if _, serr := l.f.Seek(l.size, io.SeekStart); serr != nil {
			l.broken = true
		}
		return fmt.Errorf("quota: write the embedded store's log: %w", err)
	}
	l.size += int64(len(l.buf))
	l.account(a.Subscription, int64(len(l.buf)))
	l.dirty = true
	if l.tail != nil {
		l.tail.Write(l.buf)
	}
	return nil
}

// sync brings the log to the disk. After a failure the log is broken: a second
// fsync may answer success without having written anything.
func (l *logFile) sync() error {
	l.mu.Lock()
	f, dirty, broken := l.f, l.dirty, l.broken
	l.dirty = false
	l.mu.Unlock()
	if broken {
		return errBroken
	}
	if !dirty {
		return nil
	}
	if err := f.Sync(); err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.f == f {
			l.broken = true
			return fmt.Errorf("quota: sync the embedded store's log: %w", err)
		}
	}
	return nil
}

// bloated reports whether the log should be rewritten.
func (l *logFile) bloated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size > l.opt.CompactAbove && l.size > 4*l.sum
}

// rewrite makes a new log of the states that all writes, and puts it in the
// place of the old one. What is appended meanwhile goes to both: a state that
// all wrote can only be followed by newer ones of the same subscription.
func (l *logFile) rewrite(all func(write func(*ledger.Account) error) error) (err error) {
	l.mu.Lock()
	if l.broken || l.tail != nil {
		l.mu.Unlock()
		return nil
	}
	l.tail = new(bytes.Buffer)
	l.mu.Unlock()

	path := filepath.Join(l.dir, tempName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err == nil {
		err = l.fill(f, all)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	tail := l.tail
	l.tail = nil
	if err == nil {
		err = l.replace(f, path, tail)
	}
	if err != nil && f != nil && l.f != f {
		f.Close()
		os.Remove(path)
	}
	return err
}

// fill writes the snapshot and brings it to the disk.
func (l *logFile) fill(f *os.File, all func(write func(*ledger.Account) error) error) error {
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := w.WriteString(magic); err != nil {
		return err
	}
	var buf []byte
	err := all(func(a *ledger.Account) (err error) {
		if buf, err = encode(buf[:0], a); err == nil {
			_, err = w.Write(buf)
		}
		return err
	})
	return errors.Join(err, w.Flush(), f.Sync())
}

// replace puts f in the place of the log. The caller holds l.mu.
func (l *logFile) replace(f *os.File, path string, tail *bytes.Buffer) error {
	if _, err := f.Write(tail.Bytes()); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(l.dir, logName)); err != nil {
		return err
	}
	// From here on the new file is the log, whatever syncing the folder says:
	// both files hold the same state.
	old := l.f
	l.f, l.size, l.dirty = f, size, false
	return errors.Join(syncDir(l.dir), old.Close())
}

// close syncs and closes the log and lets go of the lock.
func (l *logFile) close() error {
	err := l.sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
	return errors.Join(err, l.f.Close(), l.lock.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
