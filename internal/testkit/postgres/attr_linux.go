package postgres

import "syscall"

// attributes puts a server in a process group of its own, so that Ctrl-C at a
// terminal reaches the test and not its servers, and has the kernel end it when
// the test binary dies without having stopped it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGQUIT}
}
