//go:build !linux

package postgres

import "syscall"

// attributes puts a server in a process group of its own. Only Linux can tie
// its life to the test binary's.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
