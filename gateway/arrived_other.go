//go:build !unix

package gateway

import "net"

// arrived cannot be told here: a request that was just sent meets the end of
// its connection.
func arrived(net.Conn) bool { return false }
