package idempotency

import (
	"container/list"
	"context"
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"
)

// Key names a call: see KeyOf.
type Key [32]byte

// Print is the fingerprint of a request's body.
type Print [32]byte

// KeyOf returns the key of a call.
func KeyOf(credential string, method, target, key []byte) Key {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(credential), method, target, key} {
		var n [8]byte
		for i := range n {
			n[i] = byte(len(part) >> (8 * i))
		}
		h.Write(n[:])
		h.Write(part)
	}
	return Key(h.Sum(nil))
}

// PrintOf returns the fingerprint of a body.
func PrintOf(body []byte) Print { return sha256.Sum256(body) }

// Header is a header field of a kept answer.
type Header struct{ Name, Value string }

// Answer is a complete answer. It is not changed once it is kept.
type Answer struct {
	Status    int
	Header    []Header
	Body      []byte
	RequestID string // of the call that was charged
}

// size is what an answer costs in memory, about.
func (a *Answer) size() int64 {
	n := int64(len(a.Body)) + 512
	for _, h := range a.Header {
		n += int64(len(h.Name)+len(h.Value)) + 32
	}
	return n
}

// Outcome is what is known of a call.
type Outcome uint8

// The outcomes of Begin.
const (
	// Fresh: the call runs now. Exactly one of Keep and Forget must follow.
	Fresh Outcome = iota
	// Running: the same call is under way.
	Running
	// Mismatch: the key was used for another body.
	Mismatch
	// Replay: the call was answered.
	Replay
)

// Store keeps answers. It must be safe for concurrent use.
type Store interface {
	Begin(ctx context.Context, k Key, p Print, now time.Time) (Outcome, *Answer, error)
	Keep(ctx context.Context, k Key, p Print, a *Answer, now time.Time) error
	Forget(ctx context.Context, k Key) error
}

// Local keeps answers in memory: for the calls that reach this node, until it
// stops.
type Local struct {
	window   time.Duration
	maxBytes int64

	mu    sync.Mutex
	calls map[Key]*local
	order *list.List // of *local with an answer, oldest first
	bytes int64

	evicted atomic.Int64
}

type local struct {
	key     Key
	print   Print
	answer  *Answer // nil while it runs
	expires time.Time
	place   *list.Element
}

// NewLocal returns a store that keeps each answer for window, and at most
// maxBytes of them all: beyond that the oldest go first.
func NewLocal(window time.Duration, maxBytes int64) *Local {
	return &Local{window: window, maxBytes: maxBytes, calls: make(map[Key]*local), order: list.New()}
}

// Bytes returns about how much memory the answers take.
func (s *Local) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// Evicted returns how many answers went before their time for want of room.
func (s *Local) Evicted() int64 { return s.evicted.Load() }

// Begin implements Store.
func (s *Local) Begin(_ context.Context, k Key, p Print, now time.Time) (Outcome, *Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.order.Front(); e != nil && !now.Before(e.Value.(*local).expires); e = s.order.Front() {
		s.drop(e.Value.(*local))
	}
	l := s.calls[k]
	switch {
	case l == nil:
		s.calls[k] = &local{key: k, print: p}
		return Fresh, nil, nil
	case l.print != p:
		return Mismatch, nil, nil
	case l.answer == nil:
		return Running, nil, nil
	}
	return Replay, l.answer, nil
}

// Keep implements Store.
func (s *Local) Keep(_ context.Context, k Key, p Print, a *Answer, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.calls[k]
	if l == nil || l.print != p || l.answer != nil {
		return nil
	}
	n := a.size()
	if n > s.maxBytes {
		delete(s.calls, k)
		s.evicted.Add(1)
		return nil
	}
	for s.bytes+n > s.maxBytes {
		s.drop(s.order.Front().Value.(*local))
		s.evicted.Add(1)
	}
	l.answer, l.expires = a, now.Add(s.window)
	l.place = s.order.PushBack(l)
	s.bytes += n
	return nil
}

// Forget implements Store.
func (s *Local) Forget(_ context.Context, k Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.calls[k]; l != nil && l.answer == nil {
		delete(s.calls, k)
	}
	return nil
}

func (s *Local) drop(l *local) {
	s.order.Remove(l.place)
	delete(s.calls, l.key)
	s.bytes -= l.answer.size()
}
