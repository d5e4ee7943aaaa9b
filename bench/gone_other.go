//go:build !unix

package bench

import "net"

// gone cannot look at an idle connection here: a closed one shows when the next
// call fails on it.
func gone(net.Conn) bool { return false }
