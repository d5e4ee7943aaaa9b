package journal

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// faultyDisk is the real disk with faults put before it.
type faultyDisk struct {
	osDisk
	mu      sync.Mutex
	syncErr error
	slow    chan struct{} // syncs and creations wait for it while it is not nil
	syncs   atomic.Int64
	waiting atomic.Int64
}

type faultyFile struct {
	file
	d *faultyDisk
}

func (d *faultyDisk) set(err error, slow chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncErr, d.slow = err, slow
}

func (d *faultyDisk) pass() error {
	d.mu.Lock()
	err, slow := d.syncErr, d.slow
	d.mu.Unlock()
	if slow != nil {
		d.waiting.Add(1)
		<-slow
		d.waiting.Add(-1)
	}
	return err
}

func (d *faultyDisk) create(name string, size int64) (file, error) {
	if err := d.pass(); err != nil {
		return nil, err
	}
	f, err := d.osDisk.create(name, size)
	return faultyFile{f, d}, err
}

func (f faultyFile) datasync() error {
	f.d.syncs.Add(1)
	if err := f.d.pass(); err != nil {
		return err
	}
	return f.file.datasync()
}

// TestSyncErrorStopsTaking: after a failed fsync no call is taken, no sync is
// tried again, calls in flight are still recorded, and the next start has them
// all (fault 16).
func TestSyncErrorStopsTaking(t *testing.T) {
	t.Parallel()
	for _, strict := range []bool{false, true} {
		d := &faultyDisk{}
		j := mustOpen(t, t.TempDir(), Options{SyncEvery: time.Millisecond, Strict: strict, disk: d})
		mustAppend(t, j, "good")
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.set(syscall.EIO, nil)
		_, err := j.Append(KindUsage, []byte("not synced"))
		if strict && !errors.Is(err, ErrStopped) || !strict && err != nil {
			t.Fatalf("strict %t: Append = %v", strict, err)
		}
		if err := j.Sync(t.Context()); !errors.Is(err, ErrStopped) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("Sync = %v, want ErrStopped with EIO", err)
		}
		d.set(nil, nil) // the disk claims to be well again
		tried := d.syncs.Load()
		if err := j.CanAdmit(); !errors.Is(err, ErrStopped) {
			t.Fatalf("CanAdmit = %v, want ErrStopped", err)
		}
		_, err = j.Append(KindUsage, []byte("in flight"))
		if strict && !errors.Is(err, ErrStopped) || !strict && err != nil {
			t.Fatalf("strict %t: Append after the error = %v", strict, err)
		}
		if err := j.Stats().StopReason; !errors.Is(err, syscall.EIO) {
			t.Fatalf("stats tell %v", err)
		}
		if err := j.Close(); !errors.Is(err, ErrStopped) {
			t.Fatalf("Close = %v, want ErrStopped", err)
		}
		if n := d.syncs.Load(); n != tried {
			t.Fatalf("%d syncs were tried after the failed one", n-tried)
		}
		j = mustOpen(t, j.dir, Options{})
		if diff := cmp.Diff([]string{"good", "not synced", "in flight"}, readAll(t, j.Reader(Position{}))); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if err := j.CanAdmit(); err != nil {
			t.Fatalf("after a new start CanAdmit = %v", err)
		}
	}
}

// TestStuckDisk: syncs and allocations hang. Appends go on without waiting as
// long as there is room, and admission ends before the room does.
func TestStuckDisk(t *testing.T) {
	t.Parallel()
	d := &faultyDisk{}
	j := mustOpen(t, t.TempDir(), Options{SyncEvery: time.Millisecond, StallLimit: 50 * time.Millisecond, disk: d})
	slow := make(chan struct{})
	d.set(nil, slow)
	payload := strings.Repeat("s", 984) // frames of 1000 bytes
	want := 0
	add := func() {
		t.Helper()
		if _, err := j.Append(KindUsage, []byte(payload)); err != nil {
			t.Fatalf("append %d: %v", want, err)
		}
		want++
	}
	const perSegment = (minSegmentSize - headerSize) / 1000
	for range perSegment + 1 { // into the next segment: an allocation begins and hangs
		add()
	}
	waitFor(t, j, func() bool { return d.waiting.Load() == 2 }) // the flusher and the allocator
	waitFor(t, j, func() bool { add(); return errors.Is(j.CanAdmit(), ErrFull) || want == 2*perSegment })
	if err := j.CanAdmit(); !errors.Is(err, ErrFull) {
		t.Fatalf("CanAdmit = %v with only the reserve left and the disk stuck, want ErrFull", err)
	}
	for want < 3*perSegment { // what is in flight has the rest of this segment and the reserve
		add()
	}
	began := time.Now()
	if _, err := j.Append(KindUsage, []byte(payload)); !errors.Is(err, ErrFull) {
		t.Fatalf("append beyond the reserve: %v, want ErrFull", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Fatalf("it took %s to say so", took)
	}
	r := j.Reader(Position{})
	if n := len(readAll(t, r)); n != want { // consumers do not wait for the disk
		t.Fatalf("%d records are read, want %d", n, want)
	}
	if n := len(readAll(t, j.Reader(Position{}).DurableOnly())); n != 0 {
		t.Fatalf("%d records are told to be on disk", n)
	}
	d.set(nil, nil)
	close(slow)
	waitFor(t, j, func() bool { return j.CanAdmit() == nil })
	add()
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(readAll(t, j.Reader(Position{}).DurableOnly())); n != want {
		t.Fatalf("%d records are on disk, want %d", n, want)
	}
}

// inNamespace runs this test again in a process with a mount namespace of its
// own, in which it may mount a file system that ends with it. It reports
// whether this is that process.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const env = "TOLLGATE_JOURNAL_NAMESPACE"
	if os.Getenv(env) == t.Name() {
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), env+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in its own mount namespace: %v\n%s", err, out)
	}
	return false
}

func mountTmpfs(t *testing.T, dir, size string) {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatalf("make mounts private: %v", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestDiskFull fills a real file system of 1 MiB: admission ends while there
// is room for what is in flight, nothing accepted is lost, and it goes on by
// itself when a consumer has made room (fault 16).
func TestDiskFull(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	dir := t.TempDir()
	mountTmpfs(t, dir, "1m")
	opt := Options{SegmentSize: minSegmentSize, SyncEvery: time.Millisecond, StallLimit: 20 * time.Millisecond, Consumers: []string{"quota"}}
	j, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	add := func() error {
		p := fmt.Sprintf("%06d %s", len(want), strings.Repeat("f", 977))
		if _, err := j.Append(KindUsage, []byte(p)); err != nil {
			return err
		}
		want = append(want, p)
		return nil
	}
	for j.CanAdmit() == nil {
		if len(want) > 2000 {
			t.Fatal("2 MB went onto a disk of 1 MiB")
		}
		if err := add(); err != nil {
			t.Fatalf("an admitted call was not recorded: %v", err)
		}
		// As fast as the disk allows, so that the end is found by allocating.
		if err := j.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.CanAdmit(); !errors.Is(err, ErrFull) {
		t.Fatalf("CanAdmit = %v, want ErrFull", err)
	}
	admitted := len(want)
	for err = add(); err == nil; err = add() {
	}
	if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append beyond the reserve: %v, want ErrFull with ENOSPC", err)
	}
	if reserve := len(want) - admitted; reserve < (minSegmentSize-headerSize)/1000 {
		t.Fatalf("only %d calls in flight could be recorded", reserve)
	}
	if err := j.Close(); err != nil { // what was appended still reaches the disk
		t.Fatal(err)
	}
	if j, err = Open(dir, opt); err != nil { // a start needs no room
		t.Fatal(err)
	}
	c, err := j.Consumer("quota")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		rec, ok, err := c.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got = append(got, string(rec.Payload))
		if err := c.Ack(rec.End); err != nil { // cursors need no room either
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	waitFor(t, j, func() bool { return j.CanAdmit() == nil })
	if err := add(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFullFromTheStart: a start on a disk without any room can be read and
// says why it takes nothing.
func TestFullFromTheStart(t *testing.T) {
	t.Parallel()
	d := &faultyDisk{}
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	mustAppend(t, j, "kept")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	d.set(syscall.ENOSPC, nil)
	j = mustOpen(t, dir, Options{disk: d, StallLimit: 5 * time.Millisecond})
	if err := j.CanAdmit(); !errors.Is(err, ErrFull) {
		t.Fatalf("CanAdmit = %v, want ErrFull", err)
	}
	if _, err := j.Append(KindUsage, nil); !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Append = %v, want ErrFull with ENOSPC", err)
	}
	if got := readAll(t, j.Reader(Position{})); len(got) != 1 || got[0] != "kept" {
		t.Fatalf("read %q", got)
	}
	d.set(nil, nil)
	waitFor(t, j, func() bool { return j.CanAdmit() == nil })
	mustAppend(t, j, "more")
	if got := readAll(t, j.Reader(Position{})); len(got) != 2 {
		t.Fatalf("read %q", got)
	}
}
