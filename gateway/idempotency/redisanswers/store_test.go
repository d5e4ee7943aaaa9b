package redisanswers_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/gateway/idempotency"
	"tollgate/gateway/idempotency/redisanswers"
	"tollgate/internal/testkit/redis"
)

// TestAcrossNodes: what one node runs and keeps, another knows.
func TestAcrossNodes(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	client, ctx, now := server.Client(), t.Context(), time.Now()
	a := redisanswers.New(client, "test:", time.Minute, time.Minute)
	b := redisanswers.New(client, "test:", time.Minute, time.Minute)
	key, print, other := idempotency.KeyOf("c", []byte("POST"), []byte("/x"), []byte("k")), idempotency.PrintOf([]byte("body")), idempotency.PrintOf([]byte("other"))
	begin := func(s *redisanswers.Store, p idempotency.Print) (idempotency.Outcome, *idempotency.Answer) {
		t.Helper()
		o, answer, err := s.Begin(ctx, key, p, now)
		if err != nil {
			t.Fatal(err)
		}
		return o, answer
	}
	if o, _ := begin(a, print); o != idempotency.Fresh {
		t.Fatal(o)
	}
	if o, _ := begin(b, print); o != idempotency.Running {
		t.Error(o)
	}
	if o, _ := begin(b, other); o != idempotency.Mismatch {
		t.Error(o)
	}
	if err := a.Forget(ctx, key); err != nil {
		t.Fatal(err)
	}
	if o, _ := begin(b, print); o != idempotency.Fresh {
		t.Error("a call that failed cannot be tried again")
	}
	want := idempotency.Answer{Status: 201, Header: []idempotency.Header{{Name: "Content-Type", Value: "text/plain"}}, Body: []byte("\x00\xffbytes"), RequestID: "r"}
	if err := b.Keep(ctx, key, print, &want, now); err != nil {
		t.Fatal(err)
	}
	o, got := begin(a, print)
	if o != idempotency.Replay {
		t.Fatal(o)
	}
	if d := cmp.Diff(&want, got); d != "" {
		t.Error(d)
	}
	if ttl := client.PTTL(ctx, client.Keys(ctx, "test:answer:*").Val()[0]).Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("kept for %s", ttl)
	}
}
