package accuracy

import "syscall"

// attributes puts a program in a process group of its own, so that Ctrl-C ends
// the trial in order, and has the kernel kill it when this process dies without
// having cleaned up.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
