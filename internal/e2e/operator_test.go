package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/testkit/process"
	"tollgate/internal/testkit/tollgate"
)

// refusalLimit is how long the program may take to say that it cannot start.
const refusalLimit = 30 * time.Second

// TestOperatorErrors: whoever starts the program wrongly reads one line that
// names what is wrong and what to do.
func TestOperatorErrors(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	nobody := "127.0.0.1:" + strconv.Itoa(process.FreePort(t)) // nothing listens there
	dir := t.TempDir()
	config := func(text string) string {
		t.Helper()
		f, err := os.CreateTemp(dir, "*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const free = "127.0.0.1:0"
	for _, tc := range []struct {
		name  string
		args  []string
		env   []string
		names string // what the line must name
	}{
		{name: "taken gateway port", args: []string{"serve", "--demo", "--gateway-listen", taken.Addr().String(), "--admin-listen", free}, names: taken.Addr().String()},
		{name: "taken admin port", args: []string{"serve", "--demo", "--gateway-listen", free, "--admin-listen", taken.Addr().String()}, names: taken.Addr().String()},
		{name: "no such listen address", args: []string{"serve", "--demo", "--gateway-listen", "nonsense", "--admin-listen", free}, names: "nonsense"},
		{name: "quota store not there", args: []string{"serve", "--demo", "--gateway-listen", free, "--admin-listen", free}, env: []string{"TOLLGATE_QUOTA_STORE=redis://" + nobody}, names: nobody},
		{name: "quota store of no known kind", args: []string{"serve", "--demo", "--gateway-listen", free, "--admin-listen", free}, env: []string{"TOLLGATE_QUOTA_STORE=memcached://" + nobody}, names: "quota.store"},
		{name: "SQL store not there", args: []string{"serve", "--demo", "--gateway-listen", free, "--admin-listen", free}, env: []string{"TOLLGATE_SQL_STORE=postgres://nobody@" + nobody + "/none"}, names: nobody},
		{name: "unknown configuration key", args: []string{"serve", "--config", config("gateway:\n  lissten: 127.0.0.1:0\n")}, names: "lissten"},
		{name: "unknown environment variable", args: []string{"serve", "--demo", "--gateway-listen", free, "--admin-listen", free}, env: []string{"TOLLGATE_QOUTA_STORE=embedded"}, names: "TOLLGATE_QOUTA_STORE"},
		{name: "broken configuration file", args: []string{"serve", "--config", config("gateway: [\n")}, names: ".yaml"},
		{name: "missing configuration file", args: []string{"serve", "--config", filepath.Join(dir, "absent.yaml")}, names: "absent.yaml"},
		{name: "unknown role", args: []string{"serve", "--role", "barrier"}, names: "barrier"},
		{name: "unknown command", args: []string{"sevre"}, names: "sevre"},
		{name: "data folder under a file", args: []string{"serve", "--demo", "--gateway-listen", free, "--admin-listen", free, "--data", filepath.Join(file, "data")}, names: filepath.Join(file, "data")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p, exit := process.Run(t, refusalLimit, process.Spec{Path: tollgate.Binary(t), Args: tc.args, Env: tc.env, Dir: t.TempDir()})
			checkRefusal(t, p, exit, tc.names)
		})
	}
}

// checkRefusal fails the test unless the program ended with one line of error
// that names what is wrong.
func checkRefusal(t *testing.T, p *process.Process, exit int, names string) {
	t.Helper()
	if exit <= 0 {
		t.Errorf("exit code %d, want one above 0", exit)
	}
	text := strings.TrimSpace(p.Stderr())
	if lines := strings.Count(text, "\n") + 1; text == "" || lines != 1 {
		t.Errorf("want one line of error, got:\n%s", p.Output())
	}
	if !strings.Contains(text, names) {
		t.Errorf("the error does not name %s: %s", names, text)
	}
	for _, noise := range []string{"panic", "goroutine", "0x"} {
		if strings.Contains(text, noise) {
			t.Errorf("the error is not for people: %s", text)
		}
	}
}

// TestReadOnlyDataFolder starts the program as a user who may not write its
// data folder. Root may write everywhere, so root becomes somebody else.
func TestReadOnlyDataFolder(t *testing.T) {
	t.Parallel()
	// A folder every user can reach, with a copy of the program in it.
	dir, err := os.MkdirTemp("", "tollgate-readonly-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(tollgate.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tollgate")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := process.Spec{Path: path, Dir: dir, Args: []string{
		"serve", "--demo", "--gateway-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", data,
	}}
	if os.Getuid() == 0 {
		const nobody = 65534
		spec.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	p, exit := process.Run(t, refusalLimit, spec)
	checkRefusal(t, p, exit, data)
}
