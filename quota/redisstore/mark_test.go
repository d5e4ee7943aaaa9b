package redisstore_test

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/internal/testkit/redis"
	"tollgate/quota/redisstore"
)

// TestOneEmptiedMasterOfAClusterIsNoticed: each master keeps a part of the
// mark.
func TestOneEmptiedMasterOfAClusterIsNoticed(t *testing.T) {
	t.Parallel()
	c := redis.StartCluster(t, redis.Options{})
	s := open(t, c.URL(), redisstore.Options{})
	for _, addr := range c.Addrs() {
		if done, err := s.SetMark(t.Context(), 0, 7); err != nil || !done {
			t.Fatal(done, err)
		}
		if m, err := s.Mark(t.Context()); err != nil || m.Generation != 7 || m.Server == "" {
			t.Fatalf("%+v, %v", m, err)
		}
		one := goredis.NewClient(&goredis.Options{Addr: addr})
		err := one.FlushAll(t.Context()).Err()
		if cerr := one.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		if m, err := s.Mark(t.Context()); err != nil || m.Generation != 0 {
			t.Fatalf("master %s was emptied: %+v, %v", addr, m, err)
		}
		if done, err := s.SetMark(t.Context(), 7, 8); err != nil || done {
			t.Fatalf("the mark was raised over an emptied master: %v, %v", done, err)
		}
	}
}
