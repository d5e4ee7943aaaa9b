package redisanswers

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/gateway/idempotency"
)

// Store is an idempotency.Store over Redis.
type Store struct {
	client        goredis.UniversalClient
	prefix        string
	window, lease time.Duration

	mu      sync.Mutex
	running map[idempotency.Key][]byte // this node's markers, renewed by Run
}

// New returns the store over client, which it does not close. An answer is kept
// for window. The marker of a call that runs is good for lease and has to be
// renewed by Run: a node that died, or is cut off, frees its keys after that.
func New(client goredis.UniversalClient, prefix string, window, lease time.Duration) *Store {
	return &Store{client: client, prefix: prefix + "answer:", window: window, lease: lease, running: make(map[idempotency.Key][]byte)}
}

func (s *Store) key(k idempotency.Key) string { return s.prefix + hex.EncodeToString(k[:]) }

// A value is the body's fingerprint, and behind it either the answer as JSON or
// the marker of a call that runs: markerSign and a text of its own, so that a
// node which was thought dead neither renews nor ends the marker of the call
// that took its place.
const (
	markerSign = '*'
	markerSize = 1 + 16
)

// runs reports whether what stands behind the fingerprint is a marker.
func runs(rest []byte) bool { return len(rest) == 0 || rest[0] == markerSign }

// Begin implements idempotency.Store with one command.
func (s *Store) Begin(ctx context.Context, k idempotency.Key, p idempotency.Print, _ time.Time) (idempotency.Outcome, *idempotency.Answer, error) {
	marker := make([]byte, len(p)+markerSize)
	copy(marker, p[:])
	marker[len(p)] = markerSign
	if _, err := rand.Read(marker[len(p)+1:]); err != nil {
		return 0, nil, err
	}
	old, err := s.client.SetArgs(ctx, s.key(k), marker, goredis.SetArgs{Mode: "NX", Get: true, TTL: s.lease}).Result()
	switch {
	case err == goredis.Nil:
		s.mu.Lock()
		s.running[k] = marker
		s.mu.Unlock()
		return idempotency.Fresh, nil, nil
	case err != nil:
		return 0, nil, fmt.Errorf("idempotency: begin: %w", err)
	}
	value := []byte(old)
	if len(value) < len(p) || !bytes.Equal(value[:len(p)], p[:]) {
		return idempotency.Mismatch, nil, nil
	}
	if value = value[len(p):]; runs(value) {
		return idempotency.Running, nil, nil
	}
	var a idempotency.Answer
	if err := json.Unmarshal(value, &a); err != nil {
		return 0, nil, fmt.Errorf("idempotency: read a kept answer: %w", err)
	}
	return idempotency.Replay, &a, nil
}

// end returns the marker of a call, which is renewed no longer.
func (s *Store) end(k idempotency.Key) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.running[k]
	delete(s.running, k)
	return m
}

// keepScript puts the answer in the place of the call's own marker, or of
// nothing: a lease that ran out does not lose the answer, and another call's
// marker or answer is left alone.
var keepScript = goredis.NewScript(`
local v = redis.call('GET', KEYS[1])
if v == false or v == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 0`)

// Keep implements idempotency.Store.
func (s *Store) Keep(ctx context.Context, k idempotency.Key, p idempotency.Print, a *idempotency.Answer, _ time.Time) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := keepScript.Run(ctx, s.client, []string{s.key(k)}, s.end(k), append(p[:], text...), s.window.Milliseconds()).Err(); err != nil {
		return fmt.Errorf("idempotency: keep an answer: %w", err)
	}
	return nil
}

var forgetScript = goredis.NewScript(`
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 0`)

// Forget implements idempotency.Store.
func (s *Store) Forget(ctx context.Context, k idempotency.Key) error {
	if err := forgetScript.Run(ctx, s.client, []string{s.key(k)}, s.end(k)).Err(); err != nil {
		return fmt.Errorf("idempotency: forget a call: %w", err)
	}
	return nil
}

// renewText gives the call's own marker another lease.
const renewText = `
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0`

// Run renews the markers of the calls that run until ctx ends: one command for
// each in a third of the lease, in one trip. What cannot be renewed in time is
// taken by the next call with that key.
func (s *Store) Run(ctx context.Context) {
	t := time.NewTicker(s.lease / 3)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = s.renew(ctx) // tried again before the lease ends
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.lease/3)
	defer cancel()
	pipe := s.client.Pipeline()
	s.mu.Lock()
	for k, marker := range s.running {
		pipe.Eval(ctx, renewText, []string{s.key(k)}, marker, s.lease.Milliseconds())
	}
	s.mu.Unlock()
	if pipe.Len() == 0 {
		return nil
	}
	_, err := pipe.Exec(ctx)
	if errors.Is(err, goredis.Nil) {
		return nil
	}
	return err
}
