package clickhouse

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	testserver "tollgate/internal/testkit/clickhouse"
	"tollgate/metering/metertest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := shipUntilKilled(dir, os.Getenv(storeEnv)); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

var databases atomic.Int64

// shared starts one engine for the tests that do not kill it.
func database(t *testing.T, s *testserver.Server) string {
	t.Helper()
	return s.URL(fmt.Sprintf("usage_%d", databases.Add(1)))
}

func openAt(t *testing.T, address string, opt Options) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := Open(ctx, address, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestStore runs the suite that every usage store must pass.
func TestStore(t *testing.T) {
	t.Parallel()
	server := testserver.Start(t)
	var mu sync.Mutex
	metertest.Run(t, func(t *testing.T) metertest.Backend {
		mu.Lock() // schemas are made one after the other: it is quicker
		defer mu.Unlock()
		return openAt(t, database(t, server), Options{Now: func() time.Time { return metertest.Noon }})
	})
}
