package redis

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/internal/testkit/wait"
)

const (
	// masters of a cluster: the least that can agree on a failure.
	masters = 3
	// slots of every Redis Cluster.
	slots = 16384
	// joinLimit is how long the nodes may take to know each other.
	joinLimit = 60 * time.Second
)

// Cluster is a Redis Cluster of three masters without replicas: a killed node
// takes its slots with it until it is restarted.
type Cluster struct {
	t testing.TB
	// Nodes are the masters, in the order of their slots.
	Nodes []*Server
}

// StartCluster runs a cluster until the test ends. Options go to every node,
// without ReplicaOf.
func StartCluster(t testing.TB, o Options) *Cluster {
	t.Helper()
	o.cluster = true
	c := &Cluster{t: t}
	for range masters {
		c.Nodes = append(c.Nodes, Start(t, o))
	}
	if err := c.join(t.Context()); err != nil {
		t.Fatalf("join the Redis Cluster: %v", err)
	}
	c.WaitReady()
	return c
}

// join hands out the slots and introduces the nodes to the first one.
func (c *Cluster) join(ctx context.Context) error {
	for i, node := range c.Nodes {
		client := node.connect()
		defer client.Close()
		if err := client.Do(ctx, "cluster", "set-config-epoch", i+1).Err(); err != nil {
			return fmt.Errorf("set the epoch of node %d: %w", i, err)
		}
		first, past := slots*i/masters, slots*(i+1)/masters
		if err := client.ClusterAddSlotsRange(ctx, first, past-1).Err(); err != nil {
			return fmt.Errorf("give node %d its slots: %w", i, err)
		}
		if i == 0 {
			continue
		}
		if err := client.Do(ctx, "cluster", "meet", "127.0.0.1", c.Nodes[0].port).Err(); err != nil {
			return fmt.Errorf("introduce node %d: %w", i, err)
		}
	}
	return nil
}

// WaitReady returns once every node says that all slots are served and knows
// all nodes. After a killed node was restarted this takes a few seconds. It
// must be called from the test's own goroutine.
func (c *Cluster) WaitReady() {
	c.t.Helper()
	wait.Until(c.t, joinLimit, "the Redis Cluster", func(ctx context.Context) error {
		for i, node := range c.Nodes {
			if err := node.inCluster(ctx); err != nil {
				return fmt.Errorf("node %d: %w", i, err)
			}
		}
		return nil
	})
}

// inCluster returns why the node cannot serve in its cluster yet.
func (s *Server) inCluster(ctx context.Context) error {
	client := s.connect()
	defer client.Close()
	info, err := client.ClusterInfo(ctx).Result()
	if err != nil {
		return err
	}
	for _, want := range []string{
		"cluster_state:ok", fmt.Sprintf("cluster_slots_ok:%d", slots), fmt.Sprintf("cluster_size:%d", masters),
	} {
		if !strings.Contains(info, want+"\r\n") {
			return fmt.Errorf("no %s in:\n%s", want, info)
		}
	}
	return nil
}

// Addrs returns host:port of every node.
func (c *Cluster) Addrs() []string {
	addrs := make([]string, 0, len(c.Nodes))
	for _, node := range c.Nodes {
		addrs = append(addrs, node.Addr())
	}
	return addrs
}

// Client returns a client of the cluster that is closed when the test ends.
func (c *Cluster) Client() *goredis.ClusterClient {
	client := goredis.NewClusterClient(&goredis.ClusterOptions{Addrs: c.Addrs(), Password: c.Nodes[0].opts.Password})
	c.t.Cleanup(func() { client.Close() })
	return client
}

// URL returns the address as TOLLGATE_QUOTA_STORE takes it: the first node as
// host, the others as addr parameters, which is go-redis's own form with the
// scheme redis+cluster.
func (c *Cluster) URL() string {
	more := url.Values{"addr": c.Addrs()[1:]}
	return strings.Replace(strings.TrimSuffix(c.Nodes[0].URL(), "/0"), "redis://", "redis+cluster://", 1) + "?" + more.Encode()
}
