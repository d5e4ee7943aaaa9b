package redisanswers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"tollgate/gateway/idempotency"
	"tollgate/gateway/idempotency/redisanswers"
	"tollgate/internal/testkit/redis"
	"tollgate/internal/testkit/wait"
)

// TestLease: a node's keys stay its own while it lives, however long the call
// runs, and are free a lease after it died; what the dead node does when it
// wakes up does not touch the call that took its place.
func TestLease(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	client, ctx, now := server.Client(), t.Context(), time.Now()
	const lease = 600 * time.Millisecond
	a := redisanswers.New(client, "test:", time.Minute, lease)
	b := redisanswers.New(client, "test:", time.Minute, lease)
	key, print := idempotency.KeyOf("c", nil, nil, []byte("k")), idempotency.PrintOf([]byte("body"))
	begin := func(s *redisanswers.Store) idempotency.Outcome {
		t.Helper()
		o, _, err := s.Begin(ctx, key, print, now)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	alive, die := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() { defer close(gone); a.Run(alive) }()
	if o := begin(a); o != idempotency.Fresh {
		t.Fatal(o)
	}
	for until := time.Now().Add(3 * lease); time.Now().Before(until); {
		if o := begin(b); o != idempotency.Running {
			t.Fatalf("%v: the key of a call that runs was let go", o)
		}
	}
	die()
	<-gone
	died := time.Now()
	wait.Until(t, 20*time.Second, "the dead node's key to be free", func(context.Context) error {
		if o := begin(b); o != idempotency.Fresh {
			return fmt.Errorf("%v", o)
		}
		return nil
	})
	t.Logf("free %s after the node died", time.Since(died))

	// The dead node wakes up: neither its failure nor its answer is b's.
	if err := a.Forget(ctx, key); err != nil {
		t.Fatal(err)
	}
	if o := begin(a); o != idempotency.Running {
		t.Errorf("%v: a node that was thought dead ended another's call", o)
	}
	if err := b.Keep(ctx, key, print, &idempotency.Answer{Status: 200, RequestID: "b"}, now); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.Keep(ctx, key, print, &idempotency.Answer{Status: 200, RequestID: "a"}, now), a.Forget(ctx, key)); err != nil {
		t.Fatal(err)
	}
	if o, got, err := a.Begin(ctx, key, print, now); err != nil || o != idempotency.Replay || got.RequestID != "b" {
		t.Errorf("%v %+v %v, want b's answer", o, got, err)
	}

	// An answer that comes after the lease ran out is kept, if nobody took over.
	late := idempotency.KeyOf("c", nil, nil, []byte("late"))
	if _, _, err := a.Begin(ctx, late, print, now); err != nil {
		t.Fatal(err)
	}
	if err := client.FlushDB(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if err := a.Keep(ctx, late, print, &idempotency.Answer{Status: 200, RequestID: "late"}, now); err != nil {
		t.Fatal(err)
	}
	if o, _, err := b.Begin(ctx, late, print, now); err != nil || o != idempotency.Replay {
		t.Errorf("%v %v: the answer was lost with the lease", o, err)
	}
}
