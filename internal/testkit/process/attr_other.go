//go:build !linux

package process

import "syscall"

// attributes puts the child in a process group of its own. Only Linux can tie
// its life to the test binary's.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
