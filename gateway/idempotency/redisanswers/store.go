package redisanswers

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/gateway/idempotency"
)

// Store is an idempotency.Store over Redis.
type Store struct {
	client          goredis.UniversalClient
	prefix          string
	window, running time.Duration
}

// New returns the store over client, which it does not close. An answer is kept
// for window; a call that has neither ended nor been kept after running is taken
// for dead.
func New(client goredis.UniversalClient, prefix string, window, running time.Duration) *Store {
	return &Store{client: client, prefix: prefix + "answer:", window: window, running: running}
}

func (s *Store) key(k idempotency.Key) string { return s.prefix + hex.EncodeToString(k[:]) }

// A value is the body's fingerprint, and behind it the answer as JSON; nothing
// behind it means that the call runs.

// Begin implements idempotency.Store with one command.
func (s *Store) Begin(ctx context.Context, k idempotency.Key, p idempotency.Print, _ time.Time) (idempotency.Outcome, *idempotency.Answer, error) {
	old, err := s.client.SetArgs(ctx, s.key(k), p[:], goredis.SetArgs{Mode: "NX", Get: true, TTL: s.running}).Result()
	switch {
	case err == goredis.Nil:
		return idempotency.Fresh, nil, nil
	case err != nil:
		return 0, nil, fmt.Errorf("idempotency: begin: %w", err)
	}
	value := []byte(old)
	if len(value) < len(p) || !bytes.Equal(value[:len(p)], p[:]) {
		return idempotency.Mismatch, nil, nil
	}
	if value = value[len(p):]; len(value) == 0 {
		return idempotency.Running, nil, nil
	}
	var a idempotency.Answer
	if err := json.Unmarshal(value, &a); err != nil {
		return 0, nil, fmt.Errorf("idempotency: read a kept answer: %w", err)
	}
	return idempotency.Replay, &a, nil
}

// Keep implements idempotency.Store.
func (s *Store) Keep(ctx context.Context, k idempotency.Key, p idempotency.Print, a *idempotency.Answer, _ time.Time) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := s.client.Set(ctx, s.key(k), append(p[:], text...), s.window).Err(); err != nil {
		return fmt.Errorf("idempotency: keep an answer: %w", err)
	}
	return nil
}

// Forget implements idempotency.Store.
func (s *Store) Forget(ctx context.Context, k idempotency.Key) error {
	if err := s.client.Del(ctx, s.key(k)).Err(); err != nil {
		return fmt.Errorf("idempotency: forget a call: %w", err)
	}
	return nil
}
