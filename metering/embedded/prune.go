package embedded

import (
	"context"
	"fmt"
	"time"

	"tollgate/metering"
)

// Settled is how long a call stays at least after it arrived, whatever its own
// time says: a batch that is sent again must find it.
const settled = 24 * time.Hour

// pruneStep is how many rows are removed in one transaction, between which
// records are inserted.
const pruneStep = 5000

// Prune removes the calls and rollups that are older than their retention, and
// the groups nothing refers to any more, and gives the space back to the file
// system. It returns the number of calls.
func (s *Store) Prune(ctx context.Context) (int64, error) {
	k := s.kept()
	calls, err := s.pruneSteps(ctx, "DELETE FROM call WHERE (time, request) IN (SELECT time, request FROM call WHERE time < ? AND stored < ? LIMIT ?)",
		k[metering.Raw], s.opt.Now().Add(-settled).UnixMilli())
	if err != nil {
		return calls, fmt.Errorf("metering: prune: %w", err)
	}
	var removed int64
	for l := metering.Minute; l <= metering.Day; l++ {
		text := fmt.Sprintf("DELETE FROM %s WHERE (bucket, dim) IN (SELECT bucket, dim FROM %[1]s WHERE bucket < ? LIMIT ?)", rollups[l])
		n, err := s.pruneSteps(ctx, text, k[l]-l.Size()+1)
		if err != nil {
			return calls, fmt.Errorf("metering: prune: %w", err)
		}
		if l == metering.Day {
			removed = n
		}
	}
	if removed > 0 {
		if err := s.forget(ctx); err != nil {
			return calls, fmt.Errorf("metering: prune: %w", err)
		}
	}
	return calls, nil
}

func (s *Store) pruneSteps(ctx context.Context, text string, args ...any) (removed int64, err error) {
	if args[0].(int64) <= 0 {
		return 0, nil
	}
	for {
		n, err := s.pruneSome(ctx, text, append(args[:len(args):len(args)], pruneStep))
		removed += n
		if err != nil || n == 0 {
			return removed, err
		}
	}
}

func (s *Store) pruneSome(ctx context.Context, text string, args []any) (int64, error) {
	s.write.Lock()
	defer s.write.Unlock()
	res, err := s.db.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if err == nil && n > 0 {
		_, err = s.db.ExecContext(ctx, "PRAGMA incremental_vacuum(1000)")
	}
	return n, err
}

// forget removes groups without a row. Every call has a day that is kept at
// least as long as it.
func (s *Store) forget(ctx context.Context) error {
	s.write.Lock()
	defer s.write.Unlock()
	if _, err := s.db.ExecContext(ctx, "DELETE FROM dim WHERE id NOT IN (SELECT dim FROM day UNION SELECT dim FROM call)"); err != nil {
		return err
	}
	return s.dims.load(ctx, s.db)
}
