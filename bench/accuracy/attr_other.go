//go:build !linux

package accuracy

import "syscall"

// attributes puts a program in a process group of its own. Only Linux can tie
// its life to this process's.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
