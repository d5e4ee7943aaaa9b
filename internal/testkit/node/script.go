package node

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/checkout"
	"tollgate/internal/testkit/process"
)

const (
	// clients holds the scripts and their packages, seen from the checkout. It
	// lies under a testdata folder because an npm package brings Go files that
	// `go build ./...` would otherwise take for ours.
	clients = "internal/e2e/testdata/clients"
	// oldest major version of Node.js that the pinned packages run on.
	oldest = 18
	// scriptLimit is how long one script may run.
	scriptLimit = 2 * time.Minute
)

// Run runs a script of the clients folder to its end. input reaches it as JSON
// in the environment variable INPUT; the last line it prints to its standard
// output is decoded as JSON into output, unless output is nil (the vendor's SDK
// logs to standard output, too). A script that ends with a code other than 0
// fails the test.
func Run(t testing.TB, script string, input, output any) {
	t.Helper()
	dir := filepath.Join(checkout.Root(t), filepath.FromSlash(clients))
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "openai")); err != nil {
		t.Fatalf("the npm packages are not installed in %s: run `make setup`", clients)
	}
	encoded, err := json.Marshal(input)
	if err != nil {
		t.Fatalf("input of %s: %v", script, err)
	}
	p, exit := process.Run(t, scriptLimit, process.Spec{
		Path: executable(t, dir), Args: []string{filepath.Join(dir, script)}, Dir: dir,
		// The vendor's SDK keeps a file in the home folder.
		Env: []string{"INPUT=" + string(encoded), "HOME=" + t.TempDir()},
	})
	if exit != 0 {
		t.Fatalf("%s ended with code %d:\n%s", script, exit, p.Output())
	}
	if output == nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(p.Stdout()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), output); err != nil {
		t.Fatalf("%s printed no JSON: %v\n%s", script, err, p.Output())
	}
}

// executable returns a Node.js that is new enough: the one `make setup` put
// beside the packages where the system's own is too old, or the system's.
func executable(t testing.TB, dir string) string {
	t.Helper()
	local, err := filepath.Glob(filepath.Join(dir, ".node", "node_modules", "node-linux-*", "bin", "node"))
	if err == nil && len(local) == 1 {
		return local[0]
	}
	path := process.Find(t, "node", "nodejs")
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		t.Fatalf("%s --version: %v", path, err)
	}
	major, err := majorVersion(string(out))
	if err != nil {
		t.Fatal(err)
	}
	if major < oldest {
		t.Fatalf("%s is version %s, too old for the client packages: run `make setup`", path, strings.TrimSpace(string(out)))
	}
	return path
}

// majorVersion reads the first number of "v20.20.2".
func majorVersion(version string) (int, error) {
	first, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(version), "v"), ".")
	major, err := strconv.Atoi(first)
	if err != nil {
		return 0, fmt.Errorf("node --version printed %q, which is no version", version)
	}
	return major, nil
}
