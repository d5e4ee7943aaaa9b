package sqldb

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"tollgate/internal/testkit/postgres"
)

// TestOpenNamesTheRemedy opens what cannot be opened. Every error must name
// what to change, and none may show the password.
func TestOpenNamesTheRemedy(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	good, err := url.Parse(postgres.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(u *url.URL)) string {
		u := *good
		change(&u)
		return u.String()
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	foreign := t.TempDir()
	write(t, filepath.Join(foreign, "tollgate.db"), strings.Repeat("this is no database ", 100))
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "tollgate.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"unknown store":      {Options{URL: "mysql://u:hunter2@h/d"}, "set TOLLGATE_SQL_STORE to embedded or to postgres://"},
		"unreadable address": {Options{URL: "postgres://u:hunter2@h:port/d"}, "write TOLLGATE_SQL_STORE as postgres://"},
		"nothing listens":    {Options{URL: "postgres://u:hunter2@" + closed + "/d"}, "start the server or correct TOLLGATE_SQL_STORE"},
		"no such socket":     {Options{URL: "postgres://u:hunter2@/d?host=/nonexistent"}, "start the server or correct TOLLGATE_SQL_STORE"},
		"no such database":   {Options{URL: with(func(u *url.URL) { u.Path = "/nowhere" })}, `no database "nowhere": create it`},
		"no such user":       {Options{URL: with(func(u *url.URL) { u.User = url.UserPassword("nobody", "hunter2") })}, "correct the user and password"},
		"read-only server": {Options{URL: with(func(u *url.URL) {
			q := u.Query()
			q.Set("default_transaction_read_only", "on")
			u.RawQuery = q.Encode()
		})}, "point TOLLGATE_SQL_STORE at the primary"},
		"data folder is a file":   {Options{Dir: file}, "give --data a folder"},
		"database is a folder":    {Options{Dir: folder}, "is a folder: move it away"},
		"file is no database":     {Options{Dir: foreign}, "is not a SQLite database: move it away"},
		"database cannot be made": {Options{Dir: t.TempDir(), File: "no/such/folder.db"}, "cannot be written"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := Open(t.Context(), c.o)
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error does not say %q: %v", c.want, err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is more than a line: %v", err)
			}
		})
	}
}

// TestReadOnlyFolder opens a database whose file, and then whose folder, this
// user may not write.
func TestReadOnlyFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "tollgate.db")
	migrate(t, open(t, Options{Dir: dir}))
	for name, mode := range map[string]struct{ parent, dir, file os.FileMode }{
		"file":   {0o755, 0o777, 0o444},
		"folder": {0o755, 0o555, 0o666},
	} {
		for path, m := range map[string]os.FileMode{filepath.Dir(dir): mode.parent, dir: mode.dir, file: mode.file} {
			if err := os.Chmod(path, m); err != nil {
				t.Fatal(err)
			}
		}
		err := openUnprivileged(t, dir)
		if err == nil || !strings.Contains(err.Error(), "permission denied") || !strings.Contains(err.Error(), "write permission") || !strings.Contains(err.Error(), "--data") {
			t.Errorf("read-only %s: %v", name, err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil { // so that it can be removed
		t.Fatal(err)
	}
}

// openUnprivileged opens the database in dir. Under root, whom no permission
// stops, it does so on a thread that is another user as far as files are
// concerned. The thread is made root again and lives on: it may be the one that
// started the tests' PostgreSQL, which the kernel ends with its parent thread.
func openUnprivileged(t *testing.T, dir string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if os.Geteuid() == 0 {
			if err := syscall.Setfsuid(65534); err != nil {
				t.Error(err)
			}
			defer func() { _ = syscall.Setfsuid(0) }()
		}
		db, err := Open(t.Context(), Options{Dir: dir})
		if err == nil {
			db.Close()
		}
		result <- err
	}()
	return <-result
}

func TestOpenMakesTheFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b", "c?d#e%f")
	db := open(t, Options{URL: Embedded, Dir: dir})
	migrate(t, db)
	if _, err := os.Stat(filepath.Join(dir, "tollgate.db")); err != nil {
		t.Fatal(err)
	}
	if db.Engine() != SQLite || db.Where() != filepath.Join(dir, "tollgate.db") {
		t.Fatalf("%s at %s", db.Engine(), db.Where())
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
