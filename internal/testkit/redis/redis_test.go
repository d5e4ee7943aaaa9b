package redis

import (
	"context"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/internal/testkit/wait"
)

func TestServerKeepsItsAppendOnlyFileOverKill(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		opts Options
		want string
	}{
		{name: "always", opts: Options{AppendOnly: "always"}, want: "v"},
		{name: "with a password", opts: Options{AppendOnly: "always", Password: "s3cret"}, want: "v"},
		{name: "nothing on disk", opts: Options{}, want: ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			server := Start(t, tc.opts)
			addr := server.Addr()
			options, err := goredis.ParseURL(server.URL())
			if err != nil {
				t.Fatal(err)
			}
			client := goredis.NewClient(options)
			defer client.Close()
			if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
			server.Kill()
			if err := client.Ping(t.Context()).Err(); err == nil {
				t.Fatal("a killed server answers")
			}
			server.Restart()
			if server.Addr() != addr {
				t.Fatalf("restarted at %s, was at %s", server.Addr(), addr)
			}
			if got, err := client.Get(t.Context(), "k").Result(); got != tc.want || (tc.want != "" && err != nil) {
				t.Fatalf("after the restart k = %q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestPausedServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	server := Start(t, Options{})
	client := server.connect()
	defer client.Close()
	server.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := client.Ping(ctx).Err(); err == nil {
		t.Fatal("a paused server answers")
	}
	server.Resume()
	wait.Until(t, 10*time.Second, "the resumed server", func(ctx context.Context) error {
		return client.Ping(ctx).Err()
	})
}

func TestClusterServesAllSlotsAndTakesANodeBack(t *testing.T) {
	t.Parallel()
	cluster := StartCluster(t, Options{AppendOnly: "always"})
	options, err := goredis.ParseClusterURL(strings.Replace(cluster.URL(), "redis+cluster://", "redis://", 1))
	if err != nil {
		t.Fatal(err)
	}
	if len(options.Addrs) != len(cluster.Nodes) {
		t.Fatalf("URL %s names %v, want the %d nodes", cluster.URL(), options.Addrs, len(cluster.Nodes))
	}
	client := cluster.Client()
	keys := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for _, key := range keys {
		if err := client.Set(t.Context(), key, key, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range cluster.Nodes {
		n, err := node.Client().DBSize(t.Context()).Result()
		if err != nil || n == 0 {
			t.Fatalf("node %s holds %d keys (%v), want some on every node", node.Addr(), n, err)
		}
	}
	cluster.Nodes[1].Kill()
	cluster.Nodes[1].Restart()
	cluster.WaitReady()
	for _, key := range keys {
		if got, err := client.Get(t.Context(), key).Result(); err != nil || got != key {
			t.Fatalf("after the restart %s = %q, %v", key, got, err)
		}
	}
}

func TestSentinelsPromoteTheReplica(t *testing.T) {
	t.Parallel()
	s := StartSentinel(t, Options{AppendOnly: "everysec"})
	options, err := goredis.ParseFailoverURL(strings.Replace(s.URL(), "redis+sentinel://", "redis://", 1))
	if err != nil {
		t.Fatal(err)
	}
	if len(options.SentinelAddrs) != len(s.Sentinels) || options.MasterName != MasterName {
		t.Fatalf("URL %s names %v and %q", s.URL(), options.SentinelAddrs, options.MasterName)
	}
	client := s.Client()
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Wait(t.Context(), 1, 5*time.Second).Result(); err != nil || n != 1 {
		t.Fatalf("the write reached %d replicas, %v", n, err)
	}
	s.Master.Kill()
	s.WaitFailover()
	wait.Until(t, 30*time.Second, "the client to follow", func(ctx context.Context) error {
		return client.Set(ctx, "after", "1", 0).Err()
	})
	if got, err := client.Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Fatalf("after the failover k = %q, %v", got, err)
	}
}
