//go:build !linux

package compare

import (
	"errors"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// errLinux is what the comparison says elsewhere: it reads the scheduler's books
// and pins processes to cores.
var errLinux = errors.New("bench compare runs on Linux only: use a virtual machine or a container with two cores")

type cores struct {
	Target int `json:"target"`
	Load   int `json:"load"`
}

func pickCores() (cores, error)              { return cores{}, errLinux }
func startOn(*exec.Cmd, int) error           { return errLinux }
func attributes() *syscall.SysProcAttr       { return nil }
func cpuTime(int) (time.Duration, error)     { return 0, errLinux }
func residentMB(int) float64                 { return 0 }
func peakMB(int) float64                     { return 0 }
func serveUpstream(shape, io.Writer) error   { return errLinux }
func serveOrders(io.Reader, io.Writer) error { return errLinux }

// The words generator and measurement exchange, a line each.
const (
	wordWarm = "warm"
	wordGo   = "go"
)
