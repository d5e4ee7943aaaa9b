package accuracy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// startLimit is how long a server or node may take to be ready on a loaded
// machine.
const startLimit = 60 * time.Second

// redisServer is a real redis-server with an append-only file.
type redisServer struct {
	dir, addr string
	args      []string
	of        *redisServer // whose replica it is
	proc      *process
}

// redisPath finds redis-server, which must be installed.
func redisPath() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errors.New("redis-server is not installed: run `make setup`, or apt-get install redis-server")
	}
	return path, nil
}

// startRedis runs a server that keeps its data in dir, synced once a second,
// the usual setting. With of it is that server's replica.
func startRedis(ctx context.Context, dir string, of *redisServer) (*redisServer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	s := &redisServer{dir: dir, addr: addr, of: of, args: []string{
		"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--daemonize", "no", "--protected-mode", "no",
		"--appendonly", "yes", "--appendfsync", "everysec",
		"--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-diskless-load", "swapdb",
	}}
	return s, s.start(ctx)
}

// start runs the server, on the data it has, until it answers.
func (s *redisServer) start(ctx context.Context) error {
	path, err := redisPath()
	if err != nil {
		return err
	}
	args := s.args
	if s.of != nil {
		_, master, _ := net.SplitHostPort(s.of.addr)
		args = append(slices.Clip(args), "--replicaof", "127.0.0.1", master)
	}
	if s.proc, err = startProcess(path, args, nil); err != nil {
		return err
	}
	c := s.client()
	defer c.Close()
	return s.proc.ready(ctx, startLimit, func(ctx context.Context) error {
		info, err := c.Info(ctx, "server").Result()
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("process_id:%d\r\n", s.proc.cmd.Process.Pid); !strings.Contains(info, want) {
			return fmt.Errorf("another server has taken %s", s.addr)
		}
		return c.Ping(ctx).Err() // refused while data is loaded
	})
}

// client returns a connection that asks once. The caller closes it.
func (s *redisServer) client() *goredis.Client {
	return goredis.NewClient(&goredis.Options{
		Addr: s.addr, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: time.Second, ReadTimeout: 5 * time.Second,
	})
}

func (s *redisServer) url() string { return "redis://" + s.addr + "/0" }

// appendFiles is the folder of the append-only file.
func (s *redisServer) appendFiles() string { return filepath.Join(s.dir, "appendonlydir") }

// copyTo copies the append-only file as it stands: what a disk would hold that
// lost everything written after this instant. Redis mends the torn end.
func (s *redisServer) copyTo(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.CopyFS(dir, os.DirFS(s.appendFiles()))
}

// rollBack replaces the append-only file of a dead server by an earlier copy.
func (s *redisServer) rollBack(dir string) error {
	if err := os.RemoveAll(s.appendFiles()); err != nil {
		return err
	}
	return os.CopyFS(s.appendFiles(), os.DirFS(dir))
}

// masterName is the name by which the Sentinels know the master.
const masterName = "tollgate"

// startSentinel runs a Sentinel that watches the master and promotes its
// replica when it was silent for half a second.
func startSentinel(ctx context.Context, dir string, master *redisServer, quorum int) (*redisServer, error) {
	path, err := redisPath()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	_, masterPort, _ := net.SplitHostPort(master.addr)
	config := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nprotected-mode no\nport %s\ndir %s\nsentinel monitor %s 127.0.0.1 %s %d\n"+
		"sentinel down-after-milliseconds %s 500\nsentinel failover-timeout %s 5000\n", port, dir, masterName, masterPort, quorum, masterName, masterName)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	s := &redisServer{dir: dir, addr: addr, args: []string{config, "--sentinel"}}
	if s.proc, err = startProcess(path, s.args, nil); err != nil {
		return nil, err
	}
	c := s.client()
	defer c.Close()
	return s, s.proc.ready(ctx, startLimit, func(ctx context.Context) error { return c.Ping(ctx).Err() })
}
