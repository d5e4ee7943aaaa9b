package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Limits of starting and stopping, generous for a machine that is busy with
// other tests.
const (
	startLimit = 60 * time.Second
	stopLimit  = 20 * time.Second
)

// minVersion is the oldest PostgreSQL that Tollgate supports.
const minVersion = 13

// superuser is the role that initdb makes; connections need no password.
const superuser = "postgres"

// Server is a running PostgreSQL server.
type Server struct {
	dir string // holds the socket, the data and the log
	bin string // folder of the programs
	cmd *exec.Cmd
}

// start makes a database cluster in a temporary folder and runs it.
func start() (*Server, error) {
	bin, err := findPrograms()
	if err != nil {
		return nil, err
	}
	sweep()
	// The folder's name holds our process id, for sweep. A socket's path may
	// have 107 bytes at most, so the system's short /tmp is used where there is
	// one, whatever TMPDIR says.
	base := "/tmp"
	if _, err := os.Stat(base); err != nil {
		base = os.TempDir()
	}
	dir, err := os.MkdirTemp(base, fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bin}
	if err := s.init(); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	if err := s.run(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) init() error {
	if uid, gid, ok, err := serverUser(); err != nil {
		return err
	} else if ok {
		if err := os.Chown(s.dir, uid, gid); err != nil {
			return err
		}
	}
	cmd, err := s.command("initdb", "-D", s.data(), "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// run starts the server on the data that is there and waits until it answers.
func (s *Server) run() error {
	cmd, err := s.command("postgres", "-D", s.data(), "-k", s.dir,
		"-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "full_page_writes=off", // but not synchronous_commit=off, which a kill would show
		"-c", "max_connections=200", "-c", "shared_buffers=32MB", "-c", "autovacuum=off",
		"-c", "log_line_prefix=%m [%p] %d ")
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the server keeps its own descriptor
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	return s.awaitReady()
}

func (s *Server) awaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.url("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("postgres did not answer within %s: %w\n%s", startLimit, err, s.log())
		}
		if gone(s.cmd.Process.Pid) {
			return fmt.Errorf("postgres ended at once:\n%s", s.log())
		}
	}
}

// stop ends the server at once, without a checkpoint, and removes its folder.
func (s *Server) stop() error {
	return errors.Join(s.end(syscall.SIGQUIT), os.RemoveAll(s.dir))
}

// end sends sig and waits for the server to be gone.
func (s *Server) end(sig os.Signal) error {
	if s.cmd == nil {
		return nil
	}
	s.cmd.Process.Signal(sig)
	timer := time.AfterFunc(stopLimit, func() { s.cmd.Process.Kill() })
	defer timer.Stop()
	err := s.cmd.Wait()
	s.cmd = nil
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil // ended by our signal
	}
	return err
}

// command prepares one of the server's programs, run as the right user.
func (s *Server) command(name string, args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	// PG* variables of the caller must not lead the programs elsewhere.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = attributes()
	uid, gid, ok, err := serverUser()
	if err != nil {
		return nil, err
	}
	if ok {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return cmd, nil
}

func (s *Server) data() string    { return filepath.Join(s.dir, "data") }
func (s *Server) logFile() string { return filepath.Join(s.dir, "server.log") }

// log returns the end of the server's log.
func (s *Server) log() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b[max(0, len(b)-4000):]))
}

// url returns the address of a database, for the superuser.
func (s *Server) url(database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.User(superuser), Host: "", Path: "/" + database,
		RawQuery: url.Values{"host": {s.dir}}.Encode(),
	}).String()
}

// Restart kills the server with all its connections, as a crash would, and
// starts it again on the same data.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Kill(t)
	if err := s.run(); err != nil {
		t.Fatalf("restart PostgreSQL: %v", err)
	}
}

// Kill ends the server with all its connections, as a crash would. The data
// stays for Restart.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	// SIGQUIT has the server end its children and itself without a checkpoint;
	// SIGKILL would leave the children holding shared memory.
	if err := s.end(syscall.SIGQUIT); err != nil {
		t.Fatalf("kill PostgreSQL: %v", err)
	}
}

// Database makes an empty database and returns its address. It is dropped when
// the test ends.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("t%d", databases.Add(1))
	s.Exec(t, "CREATE DATABASE "+name+" TEMPLATE template0")
	t.Cleanup(func() {
		if s.cmd != nil { // a test may have killed it for good
			s.Exec(t, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		}
	})
	return s.url(name)
}

// Exec runs statements as the superuser, outside the test's database.
func (s *Server) Exec(t testing.TB, sql string) {
	t.Helper()
	// Cleanups run after t.Context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		t.Fatalf("connect to the test's PostgreSQL: %v\n%s", err, s.log())
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// findPrograms returns the folder of the newest PostgreSQL installed.
func findPrograms() (string, error) {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(debian, func(a, b string) int { return majorOf(b) - majorOf(a) })
	for _, dir := range append(dirs, debian...) {
		out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
		if err != nil {
			continue
		}
		// "postgres (PostgreSQL) 15.20 (Debian …)"
		fields := strings.Fields(string(out))
		if len(fields) < 3 {
			continue
		}
		major, _, _ := strings.Cut(fields[2], ".")
		if v, err := strconv.Atoi(major); err == nil && v >= minVersion {
			if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("PostgreSQL %d or newer is not installed: run `make setup`, or `apt-get install postgresql`", minVersion)
}

// majorOf returns the version in /usr/lib/postgresql/15/bin.
func majorOf(dir string) int {
	v, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return v
}
