package accuracy

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are drawn from below the range Linux gives to outgoing connections, so
// that what is killed finds its port free when it starts again.
const (
	firstPort = 10_000
	lastPort  = 32_000
)

var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// freeAddr returns an address of 127.0.0.1 that nothing listens on and that was
// not given before. Another process may still take it first.
func freeAddr() (string, error) {
	given.Lock()
	defer given.Unlock()
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if given.ports[port] {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return "", err
		}
		given.ports[port] = true
		return addr, nil
	}
	return "", errors.New("no free port on 127.0.0.1 in 1000 tries")
}
