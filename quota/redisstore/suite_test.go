package redisstore_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/internal/testkit/redis"
	"tollgate/quota"
	"tollgate/quota/quotatest"
	"tollgate/quota/redisstore"
)

var prefixes atomic.Int64

// backend opens stores with a prefix of their own on the Redis at address.
func backend(address string) quotatest.Backend {
	return quotatest.Backend{Open: func(t *testing.T, now func() time.Time) quota.Store {
		t.Helper()
		return open(t, address, redisstore.Options{Now: now})
	}}
}

func open(t testing.TB, address string, opt redisstore.Options) *redisstore.Store {
	t.Helper()
	sep := "?"
	if strings.Contains(address, "?") {
		sep = "&"
	}
	s, err := redisstore.Open(t.Context(), fmt.Sprintf("%s%sprefix=t%d:", address, sep, prefixes.Add(1)), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStandalone(t *testing.T) {
	t.Parallel()
	quotatest.Run(t, backend(redis.Start(t, redis.Options{}).URL()))
}

func TestCluster(t *testing.T) {
	t.Parallel()
	quotatest.Run(t, backend(redis.StartCluster(t, redis.Options{}).URL()))
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	quotatest.Run(t, backend(redis.StartSentinel(t, redis.Options{}).URL()+"&wait=1&wait_timeout=2s"))
}
