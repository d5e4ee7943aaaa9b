package accuracy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// sentinels watch one master and its replica.
type sentinels struct {
	servers []*redisServer // master and replica, whichever is which now
	list    []*redisServer // the Sentinels
}

const quorum = 2

func startSentinels(ctx context.Context, dir string, onClose func(func())) (*sentinels, error) {
	s := &sentinels{}
	var of *redisServer
	for _, name := range []string{"redis-a", "redis-b"} {
		server, err := startRedis(ctx, filepath.Join(dir, name), of)
		if err != nil {
			return nil, err
		}
		onClose(func() { server.proc.kill() })
		s.servers = append(s.servers, server)
		of = server
	}
	if err := s.inStep(ctx); err != nil { // a Sentinel looks again only ten seconds later
		return nil, err
	}
	for _, name := range []string{"sentinel-a", "sentinel-b", "sentinel-c"} {
		one, err := startSentinel(ctx, filepath.Join(dir, name), s.servers[0], quorum)
		if err != nil {
			return nil, err
		}
		onClose(func() { one.proc.kill() })
		s.list = append(s.list, one)
	}
	return s, s.watching(ctx)
}

// inStep waits until the replica follows its master.
func (s *sentinels) inStep(ctx context.Context) error {
	c := s.servers[1].client()
	defer c.Close()
	return until(ctx, startLimit, func(ctx context.Context) error {
		info, err := c.Info(ctx, "replication").Result()
		if err == nil && !strings.Contains(info, "master_link_status:up") {
			err = errors.New("the replica does not follow its master yet")
		}
		return err
	})
}

func (s *sentinels) url() string {
	var addrs []string
	for _, one := range s.list {
		addrs = append(addrs, one.addr)
	}
	return "redis+sentinel://" + strings.Join(addrs, ",") + "/0?master_name=" + masterName + "&wait=1&wait_timeout=100ms"
}

// ask calls f with a connection to each Sentinel until all answer as wanted.
func (s *sentinels) ask(ctx context.Context, f func(ctx context.Context, c *goredis.SentinelClient) error) error {
	for _, one := range s.list {
		c := goredis.NewSentinelClient(&goredis.Options{Addr: one.addr, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true})
		err := until(ctx, startLimit, func(ctx context.Context) error { return f(ctx, c) })
		_ = c.Close() // it was only asked
		if err != nil {
			return fmt.Errorf("sentinel %s: %w", one.addr, err)
		}
	}
	return nil
}

// watching waits until every Sentinel could promote the replica.
func (s *sentinels) watching(ctx context.Context) error {
	return s.ask(ctx, func(ctx context.Context, c *goredis.SentinelClient) error {
		m, err := c.Master(ctx, masterName).Result()
		if err != nil {
			return err
		}
		if m["num-other-sentinels"] != fmt.Sprint(len(s.list)-1) {
			return fmt.Errorf("it knows %s other Sentinels", m["num-other-sentinels"])
		}
		replicas, err := c.Replicas(ctx, masterName).Result()
		if err != nil {
			return err
		}
		ready := slices.ContainsFunc(replicas, func(r map[string]string) bool {
			return r["master-link-status"] == "ok" && r["flags"] == "slave"
		})
		if !ready {
			return fmt.Errorf("no replica can be promoted: %v", replicas)
		}
		return nil
	})
}

// master returns which of the two is the master now, by the Sentinels' word.
func (s *sentinels) master(ctx context.Context) (master, replica *redisServer, err error) {
	c := goredis.NewSentinelClient(&goredis.Options{Addr: s.list[0].addr, MaxRetries: -1})
	defer c.Close()
	addr, err := c.GetMasterAddrByName(ctx, masterName).Result()
	if err != nil {
		return nil, nil, err
	}
	if net.JoinHostPort(addr[0], addr[1]) == s.servers[0].addr {
		return s.servers[0], s.servers[1], nil
	}
	return s.servers[1], s.servers[0], nil
}

// failover kills the master while its replica is behind: what the master did
// last is forgotten when the Sentinels promote the replica.
func failover(ctx context.Context, b *bed, r *Result) error {
	dir, err := os.MkdirTemp(b.dir, "sentinels-")
	if err != nil {
		return err
	}
	var closers []func()
	defer func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
	}()
	s, err := startSentinels(ctx, dir, func(f func()) { closers = append(closers, f) })
	if err != nil {
		return err
	}
	// A lease outlasts the promotion and the time a node takes to find the new
	// master: what a silent node holds is good still.
	w, err := newWorld(ctx, b, plan{units: smallPackage, gateways: 2, store: s.url(), lease: 5 * time.Second})
	if err != nil {
		return err
	}
	defer w.close()
	r.Rounds = b.rounds(5, 1)
	rnd := b.rand(r.Name)
	for i := range r.Rounds {
		if err := w.newPackage(ctx, i); err != nil {
			return err
		}
		// In every other round all leases of the package are made while the
		// replica is away: it knows none of them.
		if i%2 == 1 {
			if err := w.sell(ctx, 50+rnd.Int64N(smallPackage/2)); err != nil {
				return err
			}
		}
		master, replica, err := s.master(ctx)
		if err != nil {
			return err
		}
		if err := cutReplica(ctx, master, replica); err != nil {
			return err
		}
		if err := w.sell(ctx, smallPackage/3); err != nil {
			return err
		}
		if err := w.amnesia(ctx, 1500*time.Millisecond, func() error { return s.fail(ctx, master, replica) }); err != nil {
			return err
		}
		// The dead one comes back as a replica of its successor, as the Sentinels
		// would make it ten seconds later. Without it no grant can be confirmed,
		// and so none is used.
		if err := master.start(ctx); err != nil {
			return err
		}
		if err := w.exhaust(ctx); err != nil {
			return err
		}
		if i < r.Rounds-1 {
			if err := s.watching(ctx); err != nil {
				return err
			}
		}
	}
	return w.soldOut(ctx, r)
}

// cutReplica stops the replica and has the master drop its connection. To stop
// it alone would not do: what the master writes would wait in the replica's
// socket, and be read when it goes on.
func cutReplica(ctx context.Context, master, replica *redisServer) error {
	if err := freeze(replica.proc); err != nil {
		return err
	}
	c := master.client()
	defer c.Close()
	n, err := c.ClientKillByFilter(ctx, "TYPE", "replica").Result()
	if err == nil && n != 1 {
		err = fmt.Errorf("the master had %d replicas, not 1", n)
	}
	return err
}

// fail kills the master, lets its stopped replica go on, and waits until that
// was promoted.
func (s *sentinels) fail(ctx context.Context, master, replica *redisServer) error {
	master.proc.kill()
	master.of, replica.of = replica, nil
	if err := thaw(replica.proc); err != nil {
		return err
	}
	return s.ask(ctx, func(ctx context.Context, c *goredis.SentinelClient) error {
		addr, err := c.GetMasterAddrByName(ctx, masterName).Result()
		if err == nil && net.JoinHostPort(addr[0], addr[1]) != replica.addr {
			err = errors.New("the replica is not promoted yet")
		}
		return err
	})
}
