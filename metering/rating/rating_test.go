package rating

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/jobs"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
	"tollgate/internal/usage"
	"tollgate/metering/embedded"
)

func TestMain(m *testing.M) { postgres.Main(m) }

var start = time.Date(2026, 11, 30, 18, 0, 0, 0, time.UTC)

// subscriptions is billing: two that are rated and one that is not.
type subscriptions struct{}

func (subscriptions) DirectorySubscriptions(context.Context) ([]directory.Subscription, error) {
	return []directory.Subscription{
		{ID: "A", Account: "acc-a", Product: "p", Mode: directory.ModeOnDemand},
		{ID: "B", Account: "acc-b", Product: "p", Mode: directory.ModeOnDemandPackage},
		{ID: "PREPAID", Account: "acc-b", Product: "q", Mode: directory.ModePerCall},
	}, nil
}

type fixture struct {
	*Rater
	db    *sqldb.DB
	usage *embedded.Store
	now   time.Time
}

func open(t testing.TB, dir string, o sqldb.Options) *fixture {
	t.Helper()
	f := &fixture{now: start}
	var err error
	if f.db, err = sqldb.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.db.Close() })
	if f.usage, err = embedded.Open(t.Context(), filepath.Join(dir, "usage.db"), embedded.Options{Now: func() time.Time { return f.now }}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.usage.Close() })
	f.Rater = f.rater(t)
	return f
}

// rater is one more process on the same database.
func (f *fixture) rater(t testing.TB) *Rater {
	t.Helper()
	r, err := New(t.Context(), Options{DB: f.db, Usage: f.usage, Subscriptions: subscriptions{}, Now: func() time.Time { return f.now }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// call makes a record of a call that used n units beyond every package.
func call(sub string, at time.Time, unit usage.Unit, n int64) usage.Record {
	r := usage.Record{ID: ids.NewRequest(at), Time: at, Finished: at.Add(time.Second), Subscription: sub, Status: 200, Flags: usage.Counted}
	r.Overrun[unit] = n
	r.Units[unit] = n + 5 // five of them were paid for by a lot
	r.Charges = []usage.Charge{{Lot: "L", Unit: unit, Amount: 5}}
	return r
}

func (f *fixture) insert(t testing.TB, recs ...usage.Record) {
	t.Helper()
	if err := f.usage.Insert(context.Background(), recs); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) list(t testing.TB, sub string) (out []string) {
	t.Helper()
	list, err := f.Buckets(context.Background(), sub, start.AddDate(0, 0, -1), start.AddDate(0, 1, 0), usage.Bucket{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		out = append(out, fmt.Sprintf("%s = %d for %s", list[i].ID(), list[i].Quantity, list[i].Account))
	}
	return out
}

// TestSealAndCorrect plays an afternoon: an hour is sealed by its calls' own
// time, a node that was away brings more, and one call turns out cheaper.
func TestSealAndCorrect(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]func(t *testing.T) sqldb.Options{
		"sqlite":   func(t *testing.T) sqldb.Options { return sqldb.Options{Dir: t.TempDir()} },
		"postgres": func(t *testing.T) sqldb.Options { return sqldb.Options{URL: postgres.URL(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := open(t, t.TempDir(), options(t))
			clock := func() time.Time { return f.now }
			runner, err := jobs.New(t.Context(), jobs.Options{DB: f.db, Now: clock})
			if err != nil {
				t.Fatal(err)
			}
			if err := runner.Add(t.Context(), f.Job()); err != nil {
				t.Fatal(err)
			}
			due := func(to time.Time) {
				t.Helper()
				f.now = to
				out, err := runner.RunDue(t.Context())
				for _, o := range out {
					err = errors.Join(err, o.Err)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			h := func(n int, d time.Duration) time.Time { return start.Add(time.Duration(n)*time.Hour + d) }
			running := call("A", h(0, 59*time.Minute), usage.Token, 40)
			running.Flags |= usage.Provisional
			f.insert(t, call("A", h(0, 0), usage.Token, 10), call("A", h(0, time.Hour-time.Millisecond), usage.Token, 1), running,
				call("A", h(1, 0), usage.Token, 100), call("B", h(0, time.Minute), usage.Image, 3), call("PREPAID", h(0, 0), usage.Call, 9), call("B", h(0, 0), usage.Token, 0))
			due(h(1, 9*time.Minute))
			if got := f.list(t, "A"); got != nil {
				t.Errorf("sealed before the grace is over: %v", got)
			}
			due(h(1, 10*time.Minute))
			want := []string{"A.token.2026113018.0 = 51 for acc-a"}
			if d := cmp.Diff(want, f.list(t, "A")); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff([]string{"B.image.2026113018.0 = 3 for acc-b"}, f.list(t, "B")); d != "" {
				t.Error(d)
			}
			// The running call ends with less; a node that was away brings a call
			// of the hour, and the only one of another unit. Two hours pass.
			final := call("A", running.Time, usage.Token, 30)
			final.ID = running.ID
			f.insert(t, final, call("A", h(0, time.Minute), usage.Token, 7), call("B", h(0, 0), usage.Call, 2))
			due(h(3, 30*time.Minute))
			want = append(want, "A.token.2026113018.1 = -3 for acc-a", "A.token.2026113019.0 = 100 for acc-a")
			if d := cmp.Diff(want, f.list(t, "A")); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff([]string{"B.call.2026113018.1 = 2 for acc-b", "B.image.2026113018.0 = 3 for acc-b"}, f.list(t, "B")); d != "" {
				t.Error(d)
			}
			if got := f.list(t, "PREPAID"); got != nil {
				t.Errorf("a prepaid subscription is rated: %v", got)
			}
			// Sealing and correcting again changes nothing.
			for n := range 3 {
				if err := errors.Join(f.Seal(t.Context(), h(n, 0)), f.Correct(t.Context(), h(n, 0))); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(want, f.list(t, "A")); d != "" {
				t.Error(d)
			}
			if err := f.Seal(t.Context(), h(3, 0)); err == nil {
				t.Error("an hour that is not over is sealed")
			}
			f.wantTakenOnce(t)
		})
	}
}

// wantTakenOnce takes all buckets, some in transactions that fail.
func (f *fixture) wantTakenOnce(t *testing.T) {
	t.Helper()
	waiting, err := f.Waiting(t.Context())
	if err != nil || waiting == 0 {
		t.Fatalf("%d waiting, %v", waiting, err)
	}
	seen := map[string]bool{}
	fail := errors.New("no money")
	for round := 0; ; round++ {
		var got []usage.Bucket
		err := f.db.InTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) (err error) {
			if got, err = f.Take(ctx, tx, 2); err == nil && round%2 == 0 {
				err = fail
			}
			return err
		})
		if errors.Is(err, fail) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if seen[got[i].ID()] {
				t.Errorf("%s is handed out twice", got[i].ID())
			}
			seen[got[i].ID()] = true
		}
		if len(got) == 0 {
			break
		}
	}
	if int64(len(seen)) != waiting {
		t.Errorf("%d of %d buckets handed out", len(seen), waiting)
	}
}

// TestWhateverComesWhen has calls arrive in any order and processes crash at
// any commit: a bucket that was seen once never changes, and at the end the
// buckets of each hour add up to what the usage store says.
func TestWhateverComesWhen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		sub := filepath.Join(dir, fmt.Sprint(n))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			rt.Fatal(err)
		}
		f := open(t, sub, sqldb.Options{Dir: sub})
		crash := errors.New("crash")
		processes := []*Rater{f.Rater, f.rater(t)}
		ctx := context.Background()
		sealed, known := 0, map[string]int64{}
		truth := map[string]int64{}
		seal := func(r *Rater, crashes bool) {
			r.beforeCommit = nil
			if crashes {
				r.beforeCommit = func() error { return crash }
			}
			hour := start.Add(time.Duration(sealed) * time.Hour)
			err := r.Seal(ctx, hour)
			if err == nil {
				sealed++
				err = r.Correct(ctx, hour)
			}
			if err != nil && !(crashes && errors.Is(err, crash)) {
				rt.Fatal(err)
			}
		}
		check := func() {
			seen := 0
			for _, s := range []string{"A", "B"} {
				list, err := f.Buckets(ctx, s, start, start.AddDate(0, 0, 9), usage.Bucket{}, 10_000)
				if err != nil {
					rt.Fatal(err)
				}
				for i := range list {
					was, ok := known[list[i].ID()]
					if ok && was != list[i].Quantity {
						rt.Fatalf("%s was %d and is %d", list[i].ID(), was, list[i].Quantity)
					}
					known[list[i].ID()] = list[i].Quantity
					seen++
				}
			}
			if seen != len(known) {
				rt.Fatalf("%d buckets of %d are left", seen, len(known))
			}
		}
		f.now = start.Add(30 * time.Hour)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "calls") {
				for range rapid.IntRange(1, 5).Draw(rt, "n") {
					hour := rapid.IntRange(0, 5).Draw(rt, "hour")
					s := rapid.SampledFrom([]string{"A", "B"}).Draw(rt, "sub")
					unit := rapid.SampledFrom([]usage.Unit{usage.Call, usage.Token}).Draw(rt, "unit")
					q := rapid.Int64Range(1, 9).Draw(rt, "q")
					f.insert(t, call(s, start.Add(time.Duration(hour)*time.Hour+time.Minute), unit, q))
					truth[fmt.Sprint(s, hour, unit)] += q
				}
			} else if sealed < 6 {
				seal(rapid.SampledFrom(processes).Draw(rt, "who"), rapid.Bool().Draw(rt, "crash"))
			}
			check()
		}
		for sealed < 6 {
			seal(f.Rater, false)
		}
		f.beforeCommit = nil
		if err := f.Correct(ctx, start.Add(5*time.Hour)); err != nil {
			rt.Fatal(err)
		}
		check()
		got := map[string]int64{}
		for _, s := range []string{"A", "B"} {
			list, err := f.Buckets(ctx, s, start, start.AddDate(0, 0, 9), usage.Bucket{}, 10_000)
			if err != nil {
				rt.Fatal(err)
			}
			for i := range list {
				got[fmt.Sprint(s, int(list[i].Hour.Sub(start)/time.Hour), list[i].Unit)] += list[i].Quantity
			}
		}
		if d := cmp.Diff(truth, got); d != "" {
			rt.Fatalf("buckets and calls differ (-calls +buckets):\n%s", d)
		}
		_, _ = f.db.Close(), f.usage.Close()
	})
}
