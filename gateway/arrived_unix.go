//go:build unix

package gateway

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"
)

// arrived reports whether there is something to be read. It does not wait.
func arrived(conn net.Conn) bool {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	// A deadline that has passed would forbid the look.
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	some := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		some = err == nil && n > 0
		return true
	})
	return err == nil && some
}
