package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/testkit/redis"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/redisstore"
)

var (
	calls = []usage.Unit{usage.Call}
	one   = usage.Units{usage.Call: 1}
)

func grant(t testing.TB, s quota.Store, id string, n int64) lot.Grant {
	t.Helper()
	g := lot.Grant{ID: id, Subscription: "sub", Amount: n, Effective: time.Now().Add(-time.Hour).Truncate(time.Millisecond), Version: 1}
	if applied, err := s.ApplyGrant(t.Context(), g); err != nil || !applied {
		t.Fatalf("apply: %v, %v", applied, err)
	}
	return g
}

// node starts an engine with short leases, so that faults pass quickly.
func node(t testing.TB, s quota.Store, name string, ttl time.Duration) *quota.Engine {
	t.Helper()
	e, err := quota.New(quota.Config{
		Incarnation: quota.Incarnation{Node: name, Boot: 1}, TTL: ttl, Margin: ttl / 10,
		FlushEvery: 50 * time.Millisecond, SyncTimeout: 500 * time.Millisecond, MinLease: 64,
	}, s, quota.RecorderFunc(func(*usage.Record) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = e.Close(ctx)
	})
	return e
}

// drain calls on all nodes, a few at a time, until every one of them says that
// the package is used up, and returns how many passed. While the store is away
// calls may be refused as unavailable; at is called after each number of
// successes.
func drain(t *testing.T, at map[int64]func(), nodes ...*quota.Engine) int64 {
	t.Helper()
	var passed, unavailable atomic.Int64
	var mu sync.Mutex
	limit := time.Now().Add(60 * time.Second)
	var wg sync.WaitGroup
	for _, n := range nodes {
		for range 4 {
			wg.Go(func() {
				for time.Now().Before(limit) {
					h, err := n.Admit(context.Background(), "sub", calls, one, time.Now())
					switch {
					case err == nil:
						if err := h.Settle(&usage.Record{Units: one}); err != nil {
							t.Error(err)
						}
						count := passed.Add(1)
						mu.Lock()
						if fn := at[count]; fn != nil {
							fn()
						}
						mu.Unlock()
					case errors.Is(err, quota.ErrExhausted):
						return
					case errors.Is(err, quota.ErrUnavailable):
						if unavailable.Add(1)%64 == 0 {
							<-time.After(time.Millisecond) // do not fill the machine with refusals
						}
					default:
						t.Errorf("admit: %v", err)
						return
					}
				}
				t.Error("after 60s the package is not used up")
			})
		}
	}
	wg.Wait()
	return passed.Load()
}

// exact checks that the store says what the calls say.
func exact(t *testing.T, s quota.Store, want int64, nodes ...*quota.Engine) {
	t.Helper()
	for _, n := range nodes {
		if err := n.FlushSubscription(t.Context(), "sub"); err != nil {
			t.Fatal(err)
		}
	}
	b, err := s.Read(t.Context(), "sub")
	if err != nil {
		t.Fatal(err)
	}
	if l := b.Lots[0]; l.Used != want || l.Remaining != 0 || l.Leased != 0 || b.Overrun[usage.Call] != 0 {
		t.Errorf("used %d, remaining %d, leased %d, overrun %d; want %d used and nothing else", l.Used, l.Remaining, l.Leased, b.Overrun[usage.Call], want)
	}
	if diff, err := s.Audit(t.Context(), "sub"); err != nil || len(diff) > 0 {
		t.Errorf("audit: %+v, %v", diff, err)
	}
}

func TestAGrantIsNotUsedBeforeAReplicaHasIt(t *testing.T) {
	t.Parallel()
	master := redis.Start(t, redis.Options{})
	replica := redis.Start(t, redis.Options{ReplicaOf: master})
	s := open(t, master.URL()+"?wait=1&wait_timeout=50ms", redisstore.Options{})
	eventually(t, func() string {
		_, err := s.ApplyGrant(t.Context(), lot.Grant{ID: "L0", Subscription: "other", Amount: 1, Effective: time.Now(), Version: time.Now().UnixNano()})
		if err != nil {
			return err.Error() // the replica is not in step yet
		}
		return ""
	})
	grant(t, s, "L1", 100)
	req := &quota.SyncRequest{
		Subscription: "sub", Incarnation: quota.Incarnation{Node: "a", Boot: 1}, TTL: time.Minute, Quarantine: time.Minute,
		Demands: []quota.Demand{{Unit: usage.Call, Floor: 10, Target: 10}},
	}
	replica.Pause()
	for range 2 { // the second answer merely reveals the older grant: no better
		r, err := s.Sync(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if r.Buckets[0].Granted != 0 {
			t.Fatalf("%d units may be used that no replica has", r.Buckets[0].Granted)
		}
	}
	final := &quota.CloseRequest{Subscription: "sub", Incarnation: quota.Incarnation{Node: "z", Boot: 1}, Final: true}
	if err := s.CloseIncarnation(t.Context(), final); err == nil {
		t.Fatal("a final closing that no replica has was answered as done")
	}
	replica.Resume()
	eventually(t, func() string {
		r, err := s.Sync(t.Context(), req)
		if err != nil {
			return err.Error()
		}
		if r.Buckets[0].Granted != 10 {
			return fmt.Sprintf("granted %d, want 10", r.Buckets[0].Granted)
		}
		return ""
	})
}

func TestFailoverInTheMiddleOfAPackage(t *testing.T) {
	t.Parallel()
	sentinel := redis.StartSentinel(t, redis.Options{})
	s := open(t, sentinel.URL()+"&wait=1", redisstore.Options{})
	grant(t, s, "L1", 20_000)
	a, b := node(t, s, "a", 2*time.Second), node(t, s, "b", 2*time.Second)
	kill := func() {
		sentinel.Master.Kill()
		// With wait=1 a promoted server without a replica grants nothing. The
		// old master may only come back once it is no longer one.
		replica := sentinel.Replica.Client()
		eventually(t, func() string {
			if info := replica.Info(context.Background(), "replication").Val(); !strings.Contains(info, "role:master") {
				return "the replica was not promoted"
			}
			return ""
		})
		sentinel.Master.Restart()
	}
	passed := drain(t, map[int64]func(){5000: kill}, a, b)
	if passed != 20_000 {
		t.Errorf("%d calls passed, want 20000", passed)
	}
	exact(t, s, 20_000, a, b)
}

func TestARestartThatForgetsItsLastSecond(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{AppendOnly: "everysec"})
	s := open(t, server.URL(), redisstore.Options{})
	grant(t, s, "L1", 20_000)
	// The grant itself must be on disk: the control plane would apply it again.
	eventually(t, func() string {
		if info := s.Client().Info(t.Context(), "persistence").Val(); !strings.Contains(info, "aof_pending_bio_fsync:0") || strings.Contains(info, "aof_buffer_length:0") == false {
			return "the append-only file is not written yet"
		}
		return ""
	})
	<-time.After(1200 * time.Millisecond) // the policy syncs once a second
	a, b := node(t, s, "a", 2*time.Second), node(t, s, "b", 2*time.Second)
	kill := func() {
		server.Kill()
		server.Restart()
	}
	passed := drain(t, map[int64]func(){7000: kill}, a, b)
	if passed != 20_000 {
		t.Errorf("%d calls passed, want 20000", passed)
	}
	exact(t, s, 20_000, a, b)
}

func TestFlushAllIsSurvived(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	s := open(t, server.URL(), redisstore.Options{})
	g := grant(t, s, "L1", 20_000)
	a, b := node(t, s, "a", 2*time.Second), node(t, s, "b", 2*time.Second)
	flush := func() {
		if err := s.Client().FlushAll(context.Background()).Err(); err != nil {
			t.Error(err)
		}
		// The control plane notices and applies what it knows.
		if err := s.Restore(context.Background(), g, nil, 2*time.Second); err != nil {
			t.Error(err)
		}
	}
	passed := drain(t, map[int64]func(){7000: flush}, a, b)
	if passed != 20_000 {
		t.Errorf("%d calls passed, want 20000", passed)
	}
	exact(t, s, 20_000, a, b)
}

func TestAClusterNodeDiesAndComesBack(t *testing.T) {
	t.Parallel()
	cluster := redis.StartCluster(t, redis.Options{AppendOnly: "always"})
	s := open(t, cluster.URL(), redisstore.Options{})
	grant(t, s, "L1", 10_000)
	a, b := node(t, s, "a", 2*time.Second), node(t, s, "b", 2*time.Second)
	owner := cluster.Nodes[0]
	for _, n := range cluster.Nodes {
		if keys, _ := n.Client().Keys(t.Context(), "*{sub}*").Result(); len(keys) > 0 {
			owner = n
		}
	}
	kill := func() {
		owner.Kill()
		owner.Restart()
	}
	passed := drain(t, map[int64]func(){3000: kill}, a, b)
	if passed != 10_000 {
		t.Errorf("%d calls passed, want 10000", passed)
	}
	exact(t, s, 10_000, a, b)
}

func TestScriptsAreLoadedAgain(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	s := open(t, server.URL(), redisstore.Options{})
	for i := range int64(3) {
		grant(t, s, fmt.Sprintf("L%d", i), 10)
		if err := s.Client().ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Read(t.Context(), "sub"); err != nil || len(b.Lots) != int(i)+1 {
			t.Fatalf("balance %+v, %v", b, err)
		}
	}
}

func TestCommandsForEachCall(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	s := open(t, server.URL(), redisstore.Options{})
	grant(t, s, "L1", 1_000_000)
	e, err := quota.New(quota.Config{Incarnation: quota.Incarnation{Node: "a", Boot: 1}}, s, quota.RecorderFunc(func(*usage.Record) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(context.Background())
	before := commands(t, s)
	const n = 100_000
	for range n {
		h, err := e.Admit(t.Context(), "sub", calls, one, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Settle(&usage.Record{Units: one}); err != nil {
			t.Fatal(err)
		}
		h.Free()
	}
	if per := float64(commands(t, s)-before) / n; per > 0.01 {
		t.Errorf("%.4f commands for each call away from the tail, want at most 0.01", per)
	} else {
		t.Logf("%.5f commands for each call", per)
	}
}

// commands returns how many commands clients have sent so far.
func commands(t *testing.T, s *redisstore.Store) (n int64) {
	t.Helper()
	info := s.Client().Info(t.Context(), "commandstats").Val()
	for _, line := range strings.Split(info, "\r\n") {
		for _, name := range []string{"cmdstat_eval:", "cmdstat_evalsha:", "cmdstat_zadd:", "cmdstat_sadd:"} {
			if rest, ok := strings.CutPrefix(line, name+"calls="); ok {
				var c int64
				fmt.Sscanf(rest, "%d", &c)
				n += c
			}
		}
	}
	return n
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{Password: "s3cret"})
	for _, c := range []struct{ address, want string }{
		{"localhost:6379", "use redis://"},
		{"memcached://localhost", "use redis://"},
		{"redis+ring://localhost", "use redis://"},
		{"redis+sentinel://127.0.0.1:1", "master_name"},
		{"redis://127.0.0.1:1?wait=many", "wait="},
		{"redis://127.0.0.1:1?wait_timeout=1ns", "wait_timeout="},
		{"redis://127.0.0.1:1?prefix={x}", "hash tag"},
		{"redis://127.0.0.1:1?colour=red", "colour"},
		{"redis://127.0.0.1:1?dial_timeout=1&max_retries=-1", "does not answer"},
		{"redis://:wr0ng@" + server.Addr(), "password"},
	} {
		s, err := redisstore.Open(t.Context(), c.address, redisstore.Options{})
		if err == nil {
			s.Close()
			t.Errorf("%s was opened", c.address)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %q does not tell %q", c.address, err, c.want)
		}
		if strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("the error shows the password: %q", err)
		}
	}
	s, err := redisstore.Open(t.Context(), server.URL(), redisstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func eventually(t *testing.T, ok func() string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		what := ok()
		if what == "" {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("after 20s: %s", what)
		}
	}
}
