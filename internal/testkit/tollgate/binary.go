package tollgate

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/testkit/checkout"
	"tollgate/internal/testkit/process"
)

// raceVariable says whether the binary under test is built with the race detector:
// set it in the environment to have every test of the real binary look for
// data races as well. It makes the build and the binary several times slower.
const raceVariable = "TOLLGATE_TEST_RACE"

// binaryVariable names a program to test in place of one built from the
// checkout, such as one out of a release.
const binaryVariable = "TOLLGATE_TEST_BINARY"

// binary builds the program once per test process.
var binary = sync.OnceValues(build)

// Binary returns the path of the program, built from the checkout the test
// belongs to.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func build() (string, error) {
	if path := os.Getenv(binaryVariable); path != "" {
		return filepath.Abs(path)
	}
	root, err := checkout.Find()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "tollgate-test")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("folder for the binary under test: %w", err)
	}
	forget(dir)
	path := filepath.Join(dir, "tollgate-"+strconv.Itoa(os.Getpid()))
	args := []string{"build", "-o", path}
	if os.Getenv(raceVariable) != "" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// forget removes the binaries of test processes that are gone. A test process
// cannot remove its own: nothing runs after its last test.
func forget(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(strings.TrimPrefix(entry.Name(), "tollgate-"))
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.Remove(filepath.Join(dir, entry.Name())) // another process may do the same
		}
	}
}

// Run runs a command of the program to its end and returns it with its exit
// code. The test fails when it still runs after limit.
func Run(t testing.TB, limit time.Duration, args ...string) (p *process.Process, exit int) {
	t.Helper()
	return process.Run(t, limit, process.Spec{Path: Binary(t), Args: args, Dir: t.TempDir()})
}
