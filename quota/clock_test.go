package quota_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// A lease ends by the monotonic clock: setting the wall clock neither ends it
// early nor lengthens it.
func TestLeasesDoNotFollowTheWallClock(t *testing.T) {
	t.Parallel()
	for name, jump := range map[string]time.Duration{"forward": 10 * time.Hour, "back": -30 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mono atomic.Int64
			b := newBed(t, func(c *quota.Config) {
				c.Mono = func() time.Duration { return time.Duration(mono.Load()) }
				c.TTL = time.Minute
			}, lot.Grant{Unit: usage.Call, Amount: 1000})
			if err := b.call(); err != nil {
				t.Fatal(err)
			}
			b.store.away.Store(true)
			b.clock.Advance(jump)
			for range 3 {
				if err := b.call(); err != nil {
					t.Fatalf("within its lease: %v", err)
				}
			}
			mono.Store(int64(time.Minute))
			if err := b.call(); !errors.Is(err, quota.ErrUnavailable) {
				t.Fatalf("after the lease: %v", err)
			}
		})
	}
}
