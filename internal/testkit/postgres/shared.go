package postgres

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// databases numbers the databases of this test binary.
var databases atomic.Int64

// shared is the server of the whole test binary, started by its first user.
var shared struct {
	sync.Once
	server *Server
	err    error
}

// URL returns the address of an empty database on the shared server. It is
// dropped when the test ends.
//
// The server ends with the test binary; a TestMain that calls Main also leaves
// no files behind.
func URL(t testing.TB) string {
	t.Helper()
	shared.Do(func() { shared.server, shared.err = start() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server.Database(t)
}

// Start runs a server for one test alone, which may kill and restart it.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PostgreSQL's log:\n%s", s.log())
		}
		if err := s.stop(); err != nil {
			t.Errorf("stop PostgreSQL: %v", err)
		}
	})
	return s
}

// Main runs the tests of a package, ends the shared server and exits. It is for
// TestMain:
//
//	func TestMain(m *testing.M) { postgres.Main(m) }
func Main(m *testing.M) {
	code := m.Run()
	Stop()
	os.Exit(code)
}

// Stop ends the shared server, if there is one. No test may use it afterwards.
func Stop() {
	shared.Do(func() { shared.err = fmt.Errorf("the shared PostgreSQL was stopped") })
	if shared.server != nil {
		if err := shared.server.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the shared PostgreSQL:", err)
		}
	}
}

// dirPrefix begins the name of each server's folder; our process id follows.
const dirPrefix = "tgpg-"

// sweep removes the folders of test binaries that ended without stopping their
// servers: by a panic, a timeout or a signal.
func sweep() {
	dirs, _ := filepath.Glob("/tmp/" + dirPrefix + "*")
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			os.RemoveAll(dir)
		}
	}
}

// gone reports whether a child process has ended. It takes the child's exit
// status, so it is only for one that is not waited for any more.
func gone(pid int) bool {
	var status syscall.WaitStatus
	n, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
	return n == pid || err != nil
}

// serverUser returns the user to run a server as: none unless we are root,
// whom PostgreSQL refuses.
func serverUser() (uid, gid int, ok bool, err error) {
	if os.Geteuid() != 0 {
		return 0, 0, false, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, false, fmt.Errorf("PostgreSQL does not run as root and there is no user postgres: run `make setup`, or the tests as another user: %w", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, false, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err == nil, err
}
