package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/quota"
)

// clusterMarks is the number of marks in a Cluster. Their slots are spread
// evenly, so that each of any sensible number of masters holds some.
const clusterMarks = 128

// markKeys lists the keys of the mark.
func (s *Store) markKeys() []string {
	if _, ok := s.client.(*goredis.ClusterClient); !ok {
		return []string{s.set.prefix + "mark"}
	}
	keys := make([]string, clusterMarks)
	for i := range keys {
		keys[i] = s.set.prefix + "mark:" + strconv.Itoa(i)
	}
	return keys
}

// Mark implements quota.Witness.
func (s *Store) Mark(ctx context.Context) (quota.Mark, error) {
	keys := s.markKeys()
	pipe := s.client.Pipeline()
	marks := make([]*goredis.StringCmd, len(keys))
	for i, key := range keys {
		marks[i] = pipe.Get(ctx, key)
	}
	_, _ = pipe.Exec(ctx) // each command's own error is looked at below
	var m quota.Mark
	for i, got := range marks {
		n, err := got.Int64()
		if err != nil && !errors.Is(err, goredis.Nil) {
			return m, fmt.Errorf("quota: redis: mark: %w", err)
		}
		if i == 0 || n < m.Generation {
			m.Generation = n
		}
	}
	var err error
	m.Server, err = s.server(ctx)
	return m, err
}

// server returns the run ids of all masters.
func (s *Store) server(ctx context.Context) (string, error) {
	if s.opt.Run != nil {
		return s.opt.Run(), nil
	}
	runID := func(ctx context.Context, c goredis.Cmdable) (string, error) {
		info, err := c.Info(ctx, "server").Result()
		if err != nil {
			return "", fmt.Errorf("quota: redis: run id: %w", err)
		}
		_, rest, _ := strings.Cut(info, "run_id:")
		id, _, _ := strings.Cut(rest, "\r")
		return id, nil
	}
	c, ok := s.client.(*goredis.ClusterClient)
	if !ok {
		return runID(ctx, s.client)
	}
	var mu sync.Mutex
	var all []string
	err := c.ForEachMaster(ctx, func(ctx context.Context, master *goredis.Client) error {
		id, err := runID(ctx, master)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, id)
		return nil
	})
	slices.Sort(all)
	return strings.Join(all, ","), err
}

// SetMark implements quota.Witness.
func (s *Store) SetMark(ctx context.Context, from, to int64) (bool, error) {
	for _, key := range s.markKeys() {
		n, err := markScript.Run(ctx, s.client, []string{key}, from, to).Int()
		if err != nil {
			return false, fmt.Errorf("quota: redis: mark: %w", err)
		}
		if n != 1 {
			return false, nil
		}
	}
	return true, nil
}

// Checkpoint implements quota.Witness.
func (s *Store) Checkpoint(ctx context.Context, id string) (quota.Checkpoint, error) {
	a, _, err := s.account(ctx, id)
	if err != nil {
		return quota.Checkpoint{}, err
	}
	return a.Checkpoint(), nil
}
