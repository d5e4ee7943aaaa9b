package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tollgate/internal/testkit/checkout"
	"tollgate/internal/testkit/process"
)

// Version is the npm version of the engine; scripts/setup.sh installs it.
const Version = "26.7.3-stable.1"

// startLimit is how long the engine may take to answer; it is a library of half
// a gigabyte.
const startLimit = time.Minute

// Server is a running engine. Its methods may be called from any goroutine, but
// not Restart at the same time as another of them.
type Server struct {
	t    testing.TB
	lib  string
	dir  string
	port int
	proc *process.Process
}

// library returns the path of the engine, which must be installed.
func library(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("TOLLGATE_TEST_CACHE")
	if cache == "" {
		home, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(home, "tollgate-test")
	}
	path := filepath.Join(cache, "chdb-"+Version, "node_modules", "@chdb", "lib-linux-x64-gnu", "libchdb.so")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the ClickHouse engine is not installed: run `make setup`, which takes it from npm (%v)", err)
	}
	return path
}

// front builds the program once per test process.
var front = sync.OnceValues(func() (string, error) {
	root, err := checkout.Find()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "tollgate-chdbfront-*")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "chdbfront")
	cmd := exec.Command("go", "build", "-o", path, "./internal/testkit/clickhouse/chdbfront")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build chdbfront: %w\n%s", err, out)
	}
	return path, nil
})

// Start runs an engine on a folder of its own until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, lib: library(t), dir: t.TempDir()}
	var err error
	for range 5 { // another process may take the port first
		s.port = process.FreePort(t)
		if err = s.run(); err == nil {
			return s
		}
		if !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	t.Fatal(err)
	return nil
}

func (s *Server) run() error {
	path, err := front()
	if err != nil {
		return err
	}
	s.proc = process.Start(s.t, process.Spec{
		Path: path, Args: []string{"--lib", s.lib, "--data", s.dir, "--listen", s.Addr()}, Dir: s.dir,
	})
	return s.proc.Ready(s.t.Context(), startLimit, func(ctx context.Context) error {
		_, err := s.Query(ctx, "SELECT 1")
		return err
	})
}

// Addr returns host:port.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// URL returns the address of a database for a usage store, and makes the
// database.
func (s *Server) URL(database string) string {
	s.t.Helper()
	if _, err := s.Query(s.t.Context(), "CREATE DATABASE IF NOT EXISTS "+database); err != nil {
		s.t.Fatal(err)
	}
	return "clickhouse+http://" + s.Addr() + "/" + database
}

// Query runs a statement and returns the answer as tab-separated text.
func (s *Server) Query(ctx context.Context, text string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.Addr()+"/?default_format=TabSeparated", strings.NewReader(text))
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			return "", u.Err
		}
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%.500s", body)
	}
	return strings.TrimSuffix(string(body), "\n"), err
}

// Kill ends the engine at once, in the middle of whatever it does.
func (s *Server) Kill() { s.proc.Kill() }

// Restart starts a killed engine again, on the same port and data.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}
