package process

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Ports are drawn from below the range from which Linux gives local ports to
// outgoing connections (32768 and up), so that a server that is killed and
// restarted finds its port as it left it. The upper end leaves room for the
// bus of a Redis Cluster node, at its port plus 10 000.
const (
	firstPort = 10_000
	lastPort  = 22_000
)

var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// FreePort returns a TCP port of 127.0.0.1 that nothing listens on, and that
// was not given before in this test process. Each port at the given distances
// above it is free as well. Another process may still take it first: whoever
// starts a server on it tries again with another.
//
// It is for servers that cannot pick a port themselves. Everything of ours is
// given port 0.
func FreePort(t testing.TB, distances ...int) int {
	t.Helper()
	given.Lock()
	defer given.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if given.ports[port] || !free(port) {
			continue
		}
		all := true
		for _, d := range distances {
			all = all && free(port+d)
		}
		if !all {
			continue
		}
		given.ports[port] = true
		return port
	}
	t.Fatalf("no free port between %d and %d in 1000 tries", firstPort, lastPort)
	return 0
}

// free says whether port can be listened on.
func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
