package redis

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/internal/testkit/process"
)

const (
	// startLimit is how long a server may take to answer; loading a small
	// append-only file is part of it.
	startLimit = 30 * time.Second
	// stopLimit is how long a server may take to write its files and end.
	stopLimit = 30 * time.Second
	// busDistance is how far above its port a cluster node's bus listens.
	busDistance = 10_000
	// startTries bounds the search for a port that nobody took meanwhile.
	startTries = 5
)

// Options say how a server runs. The zero value keeps nothing on disk.
type Options struct {
	// AppendOnly is the append-only file's fsync policy, "always" or
	// "everysec". Empty: no append-only file, so a killed server comes back
	// empty.
	AppendOnly string
	// Password that clients must give; empty: none.
	Password string
	// ReplicaOf makes the server a replica of another.
	ReplicaOf *Server
	// Args are further arguments of redis-server, such as "--maxmemory", "1mb".
	Args []string

	cluster bool // a node of a cluster, its bus at port+busDistance
}

// Server is a running redis-server. Its methods may be called from any
// goroutine, but not Restart at the same time as another of them.
type Server struct {
	t    testing.TB
	path string
	args []string
	opts Options
	dir  string
	port int
	proc *process.Process
}

// Start runs a server until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{t: t, path: process.Find(t, "redis-server", "redis-server"), opts: o, dir: t.TempDir()}
	var distances []int
	if o.cluster {
		distances = []int{busDistance}
	}
	var err error
	for range startTries {
		s.port = process.FreePort(t, distances...)
		s.args = arguments(o, s.dir, s.port)
		if err = s.run(); err == nil {
			return s
		}
		if !strings.Contains(err.Error(), "already in use") {
			break
		}
	}
	t.Fatal(err)
	return nil
}

// arguments returns redis-server's command line.
func arguments(o Options, dir string, port int) []string {
	args := []string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir,
		"--save", "", "--daemonize", "no", "--protected-mode", "no",
		"--appendonly", "no",
		"--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
	}
	if o.AppendOnly != "" {
		args = append(args, "--appendonly", "yes", "--appendfsync", o.AppendOnly)
	}
	if o.Password != "" {
		args = append(args, "--requirepass", o.Password, "--masterauth", o.Password)
	}
	if o.ReplicaOf != nil {
		args = append(args, "--replicaof", "127.0.0.1", strconv.Itoa(o.ReplicaOf.port))
	}
	if o.cluster {
		args = append(args, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf",
			"--cluster-node-timeout", "2000", "--cluster-announce-ip", "127.0.0.1")
	}
	return append(args, o.Args...)
}

// run starts the process and returns once it answers PING.
func (s *Server) run() error {
	s.proc = process.Start(s.t, process.Spec{Path: s.path, Args: s.args, Dir: s.dir})
	client := s.connect()
	defer client.Close()
	return s.proc.Ready(s.t.Context(), startLimit, func(ctx context.Context) error {
		// The process id tells our server from another that took the port.
		info, err := client.Info(ctx, "server").Result()
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("process_id:%d\r\n", s.proc.PID()); !strings.Contains(info, want) {
			return fmt.Errorf("the server on port %d is not ours: port already in use", s.port)
		}
		return client.Ping(ctx).Err() // refused while the data is loaded
	})
}

// connect returns a client that asks once and does not retry.
func (s *Server) connect() *goredis.Client {
	return goredis.NewClient(&goredis.Options{
		Addr: s.Addr(), Password: s.opts.Password, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: time.Second, ReadTimeout: 5 * time.Second,
	})
}

// Client returns a client of the server that is closed when the test ends.
func (s *Server) Client() *goredis.Client {
	client := goredis.NewClient(&goredis.Options{Addr: s.Addr(), Password: s.opts.Password})
	s.t.Cleanup(func() { client.Close() })
	return client
}

// Addr returns the server's host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL returns the server's redis:// address.
func (s *Server) URL() string {
	if s.opts.Password != "" {
		return "redis://:" + s.opts.Password + "@" + s.Addr() + "/0"
	}
	return "redis://" + s.Addr() + "/0"
}

// Dir returns the folder of the server's data.
func (s *Server) Dir() string { return s.dir }

// Process returns the running process, for its output and its end.
func (s *Server) Process() *process.Process { return s.proc }

// Kill ends the server with SIGKILL and returns when it is gone. What was not
// yet in the append-only file is lost, as the fsync policy says.
func (s *Server) Kill() { s.proc.Kill() }

// Stop ends the server as an operator would (SIGTERM), so that it writes what
// it keeps on disk first.
func (s *Server) Stop() {
	s.t.Helper()
	if _, err := s.proc.Stop(syscall.SIGTERM, stopLimit); err != nil {
		s.t.Errorf("stop redis-server: %v", err)
	}
}

// Restart starts a server that was killed or stopped again, on the same port
// and the same data, and returns when it answers. It must be called from the
// test's own goroutine.
func (s *Server) Restart() {
	s.t.Helper()
	s.proc.Kill()
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops the server where it stands: connections stay open, nothing
// answers.
func (s *Server) Pause() {
	s.t.Helper()
	if err := s.proc.Pause(); err != nil {
		s.t.Error(err)
	}
}

// Resume lets a paused server go on.
func (s *Server) Resume() {
	s.t.Helper()
	if err := s.proc.Resume(); err != nil {
		s.t.Error(err)
	}
}
