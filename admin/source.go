package admin

import (
	"context"
	"fmt"
	"sync"
	"time"

	"tollgate/internal/directory"
)

// Source yields directory snapshots within the admin role's process, to the
// gateway beside it and to the feed. Waiters are woken at once by changes of
// this process, and look every Config.Poll for those of others on the same
// database. It is safe for concurrent use.
type Source struct {
	server *Server

	mu      sync.Mutex
	changed chan struct{} // closed by wake
	known   int64         // newest version seen
	read    time.Time     // when it was read

	building sync.Mutex // held by the one that builds
	snap     *directory.Snapshot
	sealed   []byte // snap as the feed sends it, once asked for
}

// Next implements directory.Source.
func (s *Source) Next(ctx context.Context, since int64) (*directory.Snapshot, error) {
	if err := s.wait(ctx, since); err != nil {
		return nil, err
	}
	snap, _, err := s.newest(ctx, since, false)
	return snap, err
}

// version returns the newest version, read at most Config.Poll ago and after
// every change of this process. A caller that has seen a newer one already,
// from another admin process, makes it read again: a gateway behind a balancer
// must not be taken back.
func (s *Source) version(ctx context.Context, since int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.read.IsZero() && s.known >= since && time.Since(s.read) < s.server.cfg.Poll {
		return s.known, nil
	}
	v, err := s.server.version(ctx)
	if err != nil {
		return 0, err
	}
	s.known, s.read = v, time.Now()
	return v, nil
}

// wait returns when the version is not since.
func (s *Source) wait(ctx context.Context, since int64) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		v, err := s.version(ctx, since)
		if err != nil {
			return err
		}
		if v != since {
			return nil
		}
		t := time.NewTimer(s.server.cfg.Poll)
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// wake makes every waiter look at the version now.
func (s *Source) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read = time.Time{}
	close(s.changed)
	s.changed = make(chan struct{})
}

// newest returns a snapshot of the newest version, built once for all who ask,
// and its sealed form when that is wanted.
func (s *Source) newest(ctx context.Context, since int64, seal bool) (*directory.Snapshot, []byte, error) {
	v, err := s.version(ctx, since)
	if err != nil {
		return nil, nil, err
	}
	s.building.Lock()
	defer s.building.Unlock()
	if s.snap == nil || s.snap.Version != v {
		snap, err := s.server.BuildSnapshot(ctx)
		if err != nil {
			return nil, nil, err
		}
		s.snap, s.sealed = snap, nil
		s.mu.Lock()
		s.known = max(s.known, snap.Version)
		s.mu.Unlock()
	}
	if seal && s.sealed == nil {
		if s.sealed, err = directory.Seal(s.snap, s.server.cfg.FeedSecret); err != nil {
			return nil, nil, fmt.Errorf("admin: seal the directory: %w", err)
		}
	}
	return s.snap, s.sealed, nil
}
