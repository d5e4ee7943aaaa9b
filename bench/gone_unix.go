//go:build unix

package bench

import (
	"crypto/tls"
	"net"
	"syscall"
)

// gone reports whether the other end of an idle connection has closed it, or
// sent what nobody asked for. It does not wait.
func gone(conn net.Conn) bool {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn() // the notice of closing is data there
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// Nothing to read is EAGAIN; the connection's end reads as 0 bytes.
		closed = err != syscall.EAGAIN && err != syscall.EINTR
		return true
	})
	return closed || err != nil
}
