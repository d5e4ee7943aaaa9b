package process

import "syscall"

// attributes puts the child in a process group of its own, so that Ctrl-C at a
// terminal reaches the test and not its servers, and has the kernel kill it
// when the test binary dies without having run its cleanups (a panic, a test
// timeout, a SIGKILL).
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
