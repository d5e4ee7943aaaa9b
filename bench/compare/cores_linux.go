package compare

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cores are the two processors of a comparison.
type cores struct {
	Target int `json:"target"` // of what is measured
	Load   int `json:"load"`   // of generator, upstream and stores
}

// pickCores returns the first and the last core this process may use.
func pickCores() (cores, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return cores{}, fmt.Errorf("which cores this process may use: %w", err)
	}
	var may []int
	for i := range 1024 {
		if set.IsSet(i) {
			may = append(may, i)
		}
	}
	if len(may) < 2 {
		return cores{}, errors.New("the comparison needs two cores, one for the target and one for generator and upstream: run it where this process may use two (see taskset, or the cpuset of the container)")
	}
	return cores{Target: may[0], Load: may[len(may)-1]}, nil
}

// startOn starts cmd on one core. The child inherits the core of the thread
// that forks it, so that it never runs anywhere else and a Go program counts
// one processor.
func startOn(cmd *exec.Cmd, core int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, pinned unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("affinity: %w", err)
	}
	pinned.Set(core)
	if err := unix.SchedSetaffinity(0, &pinned); err != nil {
		return fmt.Errorf("pin to core %d: %w", core, err)
	}
	err := cmd.Start()
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

// attributes make a child die with the program.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// cpuTime is the processor time a process has used, user and system, with that
// of its threads, to the nanosecond: /proc/PID/task/*/schedstat. It counts what
// the scheduler charged and does not depend on the clock tick. A thread that
// has ended takes its time along; the targets keep theirs. Where the kernel
// keeps no such statistics it is /proc/PID/stat, in steps of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var sum int64
	read := 0
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		sum += n
		read++
	}
	if read > 0 {
		return time.Duration(sum), nil
	}
	return coarseTime(pid)
}

// coarseTime reads utime and stime of /proc/PID/stat.
func coarseTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name may hold blanks
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("processor time of process %d: %q is no stat line", pid, text)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs on Linux
	return time.Duration(ticks) * tick, nil
}

// residentMB is the memory a process holds, in MB.
func residentMB(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(fields[1], 64) // the kernel's own text
	return pages * float64(os.Getpagesize()) / 1e6
}

// peakMB is the most memory a process had resident at once, 0 where that is not
// to be had.
func peakMB(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64) // the kernel's own text
			return round3(kb * 1024 / 1e6)
		}
	}
	return 0
}
