package redis

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/internal/testkit/process"
	"tollgate/internal/testkit/wait"
)

// MasterName is the name under which the Sentinels know the master.
const MasterName = "tollgate"

const (
	sentinels = 3
	quorum    = 2
	// downAfter is how long the master must be silent, in milliseconds,
	// before a Sentinel takes it for dead.
	downAfter = 1000
)

// Sentinel is a master with one replica, watched by three Sentinels that
// promote the replica when the master is silent for a second.
type Sentinel struct {
	t         testing.TB
	Master    *Server // the master at the start
	Replica   *Server // its replica at the start
	Sentinels []*SentinelServer
}

// SentinelServer is one Sentinel.
type SentinelServer struct {
	port int
	proc *process.Process
}

// Addr returns the Sentinel's host:port.
func (s *SentinelServer) Addr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
}

// Kill ends the Sentinel with SIGKILL.
func (s *SentinelServer) Kill() { s.proc.Kill() }

// StartSentinel runs master, replica and Sentinels until the test ends.
// Options go to master and replica, without ReplicaOf.
func StartSentinel(t testing.TB, o Options) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t}
	s.Master = Start(t, o)
	o.ReplicaOf = s.Master
	s.Replica = Start(t, o)
	s.waitReplica()
	for range sentinels {
		s.Sentinels = append(s.Sentinels, s.startSentinel())
	}
	for _, one := range s.Sentinels {
		s.waitWatching(one)
	}
	return s
}

// waitReplica returns once the replica is in step with the master.
func (s *Sentinel) waitReplica() {
	s.t.Helper()
	client := s.Replica.connect()
	defer client.Close()
	wait.Until(s.t, startLimit, "the replica", func(ctx context.Context) error {
		info, err := client.Info(ctx, "replication").Result()
		if err != nil {
			return err
		}
		if !strings.Contains(info, "master_link_status:up") {
			return fmt.Errorf("the link to the master is not up:\n%s", info)
		}
		return nil
	})
}

// startSentinel runs one Sentinel. Its configuration must be a file of its
// own, which it rewrites.
func (s *Sentinel) startSentinel() *SentinelServer {
	s.t.Helper()
	var err error
	for range startTries {
		one := &SentinelServer{port: process.FreePort(s.t)}
		dir := s.t.TempDir()
		config := filepath.Join(dir, "sentinel.conf")
		if err := os.WriteFile(config, []byte(s.config(one.port, dir)), 0o600); err != nil {
			s.t.Fatal(err)
		}
		one.proc = process.Start(s.t, process.Spec{Path: s.Master.path, Args: []string{config, "--sentinel"}, Dir: dir})
		client := goredis.NewSentinelClient(&goredis.Options{Addr: one.Addr(), MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
		err = one.proc.Ready(s.t.Context(), startLimit, func(ctx context.Context) error {
			return client.Ping(ctx).Err()
		})
		client.Close()
		if err == nil {
			return one
		}
		if !strings.Contains(err.Error(), "already in use") {
			break
		}
	}
	s.t.Fatal(err)
	return nil
}

// config returns a Sentinel's configuration.
func (s *Sentinel) config(port int, dir string) string {
	lines := []string{
		"bind 127.0.0.1",
		"protected-mode no",
		fmt.Sprintf("port %d", port),
		fmt.Sprintf("dir %s", dir),
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d %d", MasterName, s.Master.port, quorum),
		fmt.Sprintf("sentinel down-after-milliseconds %s %d", MasterName, downAfter),
		fmt.Sprintf("sentinel failover-timeout %s 5000", MasterName),
	}
	if s.Master.opts.Password != "" {
		lines = append(lines, fmt.Sprintf("sentinel auth-pass %s %s", MasterName, s.Master.opts.Password))
	}
	return strings.Join(lines, "\n") + "\n"
}

// waitWatching returns once the Sentinel knows the replica and its peers:
// before that it cannot fail over.
func (s *Sentinel) waitWatching(one *SentinelServer) {
	s.t.Helper()
	client := goredis.NewSentinelClient(&goredis.Options{Addr: one.Addr(), MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
	defer client.Close()
	wait.Until(s.t, joinLimit, "Sentinel "+one.Addr(), func(ctx context.Context) error {
		master, err := client.Master(ctx, MasterName).Result()
		if err != nil {
			return err
		}
		if master["num-slaves"] != "1" || master["num-other-sentinels"] != strconv.Itoa(sentinels-1) {
			return fmt.Errorf("knows %s replicas and %s other Sentinels", master["num-slaves"], master["num-other-sentinels"])
		}
		replicas, err := client.Replicas(ctx, MasterName).Result()
		if err != nil {
			return err
		}
		if len(replicas) != 1 || replicas[0]["master-link-status"] != "ok" {
			return fmt.Errorf("the replica is not ready to be promoted: %v", replicas)
		}
		return nil
	})
}

// Addrs returns host:port of every Sentinel.
func (s *Sentinel) Addrs() []string {
	addrs := make([]string, 0, len(s.Sentinels))
	for _, one := range s.Sentinels {
		addrs = append(addrs, one.Addr())
	}
	return addrs
}

// Client returns a client that follows the master and is closed when the test
// ends.
func (s *Sentinel) Client() *goredis.Client {
	client := goredis.NewFailoverClient(&goredis.FailoverOptions{
		MasterName: MasterName, SentinelAddrs: s.Addrs(), Password: s.Master.opts.Password,
	})
	s.t.Cleanup(func() { client.Close() })
	return client
}

// WaitFailover returns once the Sentinels name another master than the first
// one. It must be called from the test's own goroutine.
func (s *Sentinel) WaitFailover() {
	s.t.Helper()
	for _, one := range s.Sentinels {
		client := goredis.NewSentinelClient(&goredis.Options{Addr: one.Addr(), MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
		defer client.Close()
		wait.Until(s.t, joinLimit, "a new master at Sentinel "+one.Addr(), func(ctx context.Context) error {
			addr, err := client.GetMasterAddrByName(ctx, MasterName).Result()
			if err != nil {
				return err
			}
			if len(addr) == 2 && net.JoinHostPort(addr[0], addr[1]) == s.Replica.Addr() {
				return nil
			}
			return fmt.Errorf("the master is still %v", addr)
		})
	}
	replica := s.Replica.connect()
	defer replica.Close()
	wait.Until(s.t, joinLimit, "the promotion of the replica", func(ctx context.Context) error {
		info, err := replica.Info(ctx, "replication").Result()
		if err != nil {
			return err
		}
		if !strings.Contains(info, "role:master") {
			return fmt.Errorf("it is no master yet:\n%s", info)
		}
		return nil
	})
}

// URL returns the address as TOLLGATE_QUOTA_STORE takes it: the first Sentinel
// as host, the others as addr parameters and the master's name as master_name,
// which is go-redis's own form with the scheme redis+sentinel.
func (s *Sentinel) URL() string {
	query := url.Values{"addr": s.Addrs()[1:], "master_name": {MasterName}}
	u := url.URL{Scheme: "redis+sentinel", Host: s.Addrs()[0], Path: "/0", RawQuery: query.Encode()}
	if s.Master.opts.Password != "" {
		u.User = url.UserPassword("", s.Master.opts.Password)
	}
	return u.String()
}
