package quota_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"tollgate/internal/testkit/redis"
	"tollgate/quota/quotatest"
	"tollgate/quota/redisstore"
)

// forgetful is a real Redis whose keys are put back to an earlier state, as a
// replica that was promoted before it had the last writes.
type forgetful struct {
	*redisstore.Store
	t    testing.TB
	keys []string
	kept map[string]string
	run  int
}

func newForgetful(t testing.TB, address, prefix, sub string, clock *quotatest.Clock) *forgetful {
	t.Helper()
	f := &forgetful{t: t, kept: map[string]string{}}
	var err error
	f.Store, err = redisstore.Open(t.Context(), address+"?prefix="+prefix, redisstore.Options{
		Now: clock.Now,
		Run: func() string { return fmt.Sprintf("%040x", f.run+1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"l", "b", "i", "n", "m", "x", "g"} {
		f.keys = append(f.keys, prefix+"{"+sub+"}:"+k)
	}
	f.Keep()
	return f
}

func (f *forgetful) Keep() {
	for _, k := range f.keys {
		dump, err := f.Client().Dump(context.Background(), k).Result()
		if err != nil {
			dump = "" // there is no such key
		}
		f.kept[k] = dump
	}
}

func (f *forgetful) Rollback(another bool) {
	for _, k := range f.keys {
		err := f.Client().Del(context.Background(), k).Err()
		if err == nil && f.kept[k] != "" {
			err = f.Client().RestoreReplace(context.Background(), k, 0, f.kept[k]).Err()
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
	if another {
		f.run++
	}
}

func (f *forgetful) Time() time.Time {
	text, _ := f.Client().HGet(context.Background(), f.keys[4], "clock").Result()
	ms, _ := strconv.ParseInt(text, 10, 64)
	return time.UnixMilli(ms)
}

// TestSimulatorOnRedis drives a real Redis through the same runs as the ledger.
func TestSimulatorOnRedis(t *testing.T) {
	t.Parallel()
	server := redis.Start(t, redis.Options{})
	for i, mode := range simModes {
		t.Run(mode.name, func(t *testing.T) {
			for seed := uint64(1); seed <= 4; seed++ {
				clock := quotatest.NewClock(begin)
				sub := fmt.Sprintf("sub-%d-%d", i, seed)
				store := newForgetful(t, server.URL(), fmt.Sprintf("sim%d-%d:", i, seed), sub, clock)
				s := newSim(t, mode, seed, clock, store, sub)
				s.run(400)
				store.Close()
				if t.Failed() {
					t.Fatalf("seed %d of mode %q", seed, mode.name)
				}
			}
		})
	}
}
