package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
	"tollgate/internal/testkit/wait"
)

func TestMain(m *testing.M) { postgres.Main(m) }

// start is when the tests' clocks begin.
var start = time.Date(2026, 11, 30, 18, 30, 15, 0, time.UTC)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: start} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Set(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Before(c.t) {
		return fmt.Errorf("back from %v to %v", c.t, t)
	}
	c.t = t
	return nil
}

func (c *clock) add(d time.Duration) { _ = c.Set(c.Now().Add(d)) }

// onBoth runs a test on SQLite and on PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Parallel()
	for name, options := range map[string]func(t *testing.T) sqldb.Options{
		"sqlite":   func(t *testing.T) sqldb.Options { return sqldb.Options{Dir: t.TempDir()} },
		"postgres": func(t *testing.T) sqldb.Options { return sqldb.Options{URL: postgres.URL(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := sqldb.Open(t.Context(), options(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			test(t, db)
		})
	}
}

func newRunner(t *testing.T, db *sqldb.DB, o Options) *Runner {
	t.Helper()
	o.DB = db
	r, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// journal notes runs as "job 15:04".
type journal struct {
	mu   sync.Mutex
	runs []string
}

func (j *journal) job(name string, s Schedule, catchUp bool) Job {
	return Job{Name: name, Schedule: s, CatchUp: catchUp, Run: func(_ context.Context, at time.Time) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.runs = append(j.runs, name+at.UTC().Format(" 02 15:04"))
		return nil
	}}
}

func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	runs := j.runs
	j.runs = nil
	return runs
}

func add(t *testing.T, r *Runner, jobs ...Job) {
	t.Helper()
	for _, j := range jobs {
		if err := r.Add(t.Context(), j); err != nil {
			t.Fatal(err)
		}
	}
}

func runDue(t *testing.T, r *Runner) {
	t.Helper()
	if _, err := r.RunDue(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// After a downtime a job that catches up runs for each instant, one that does
// not for the latest, and all in the order of the instants.
func TestCatchUpInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		c, wall, j := newClock(), newClock(), &journal{}
		r := newRunner(t, db, Options{Now: c.Now, Wall: wall.Now})
		add(t, r, j.job("rate", Every(time.Hour), true), j.job("sweep", Every(30*time.Minute), false))
		runDue(t, r)
		if got := j.take(); got != nil {
			t.Fatalf("what was due before the job was known: %v", got)
		}
		c.add(3 * time.Hour) // 21:30:15
		runDue(t, r)
		want := []string{"rate 30 19:00", "rate 30 20:00", "rate 30 21:00", "sweep 30 21:30"}
		if d := cmp.Diff(want, j.take()); d != "" {
			t.Fatal(d)
		}
		runDue(t, r)
		if got := j.take(); got != nil {
			t.Fatalf("done twice: %v", got)
		}
		// Another process, later: the cursor is in the database.
		c.add(time.Hour)
		other := newRunner(t, db, Options{Now: c.Now, Wall: wall.Now})
		add(t, other, j.job("rate", Every(time.Hour), true))
		runDue(t, other)
		if d := cmp.Diff([]string{"rate 30 22:00"}, j.take()); d != "" {
			t.Fatal(d)
		}
	})
}

// A failure leaves nothing out, delays no other job and pauses longer each time.
func TestFailuresAreRetried(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		c, wall, j := newClock(), newClock(), &journal{}
		r := newRunner(t, db, Options{Now: c.Now, Wall: wall.Now})
		broken := errors.New("no money there")
		var tried []time.Time
		add(t, r, j.job("other", Every(time.Hour), true), Job{Name: "bad", Schedule: Every(time.Hour), CatchUp: true, Run: func(_ context.Context, at time.Time) error {
			tried = append(tried, at)
			if broken == nil {
				return nil
			}
			if len(tried) == 2 {
				panic("and a panic")
			}
			return broken
		}})
		c.add(2 * time.Hour)
		for range 5 {
			runDue(t, r)
		}
		if len(tried) != 1 || len(j.take()) != 2 {
			t.Fatalf("tried %v without a pause", tried)
		}
		wall.add(time.Second)
		runDue(t, r)
		wall.add(time.Second)
		runDue(t, r)
		if len(tried) != 2 {
			t.Fatalf("the second pause is no longer than the first: %v", tried)
		}
		states, err := r.States(t.Context())
		if s := states["bad"]; err != nil || s.Failures != 2 || s.Error != "jobs: panic: and a panic" || !s.Cursor.Equal(start) {
			t.Fatalf("%+v, %v", s, err)
		}
		broken = nil
		if err := r.Retry(t.Context(), "bad"); err != nil {
			t.Fatal(err)
		}
		runDue(t, r)
		if len(tried) != 4 || !tried[2].Equal(tried[0]) || !tried[3].Equal(tried[0].Add(time.Hour)) {
			t.Fatalf("left out or out of order: %v", tried)
		}
		if states, _ := r.States(t.Context()); states["bad"].Failures != 0 || states["bad"].Error != "" {
			t.Fatalf("%+v", states["bad"])
		}
	})
}

// Many processes on one database run each instant once.
func TestOneProcessAtATime(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		c := newClock()
		var (
			mu      sync.Mutex
			running int
			runs    = map[time.Time]int{}
		)
		job := Job{Name: "once", Schedule: Every(time.Minute), CatchUp: true, Run: func(_ context.Context, at time.Time) error {
			mu.Lock()
			running++
			if running > 1 {
				t.Error("two at once")
			}
			runs[at]++
			mu.Unlock()
			mu.Lock()
			defer mu.Unlock()
			running--
			return nil
		}}
		var runners []*Runner
		for range 4 {
			r := newRunner(t, db, Options{Now: c.Now})
			add(t, r, job)
			runners = append(runners, r)
		}
		c.add(30 * time.Minute)
		var wg sync.WaitGroup
		for _, r := range runners {
			wg.Go(func() {
				for done := false; !done && t.Context().Err() == nil; {
					if _, err := r.RunDue(t.Context()); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					done = len(runs) >= 30
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(runs) != 30 {
			t.Fatalf("%d instants", len(runs))
		}
		for at, n := range runs {
			if n != 1 {
				t.Errorf("%v ran %d times", at, n)
			}
		}
	})
}

// A process that died in a run keeps the job until its lease ends; then another
// runs the same instant. The first one's late end moves nothing.
func TestTakeover(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		c, wall := newClock(), newClock()
		dead := newRunner(t, db, Options{Now: c.Now, Wall: wall.Now, Lease: time.Minute})
		var at []time.Time
		job := Job{Name: "j", Schedule: Every(time.Hour), CatchUp: true, Run: func(_ context.Context, due time.Time) error {
			at = append(at, due)
			return nil
		}}
		add(t, dead, job)
		c.add(time.Hour)
		due := Every(time.Hour).Last(c.Now())
		fence, err := dead.take(t.Context(), &job, due)
		if err != nil {
			t.Fatal(err)
		}
		other := newRunner(t, db, Options{Now: c.Now, Wall: wall.Now, Lease: time.Minute})
		add(t, other, job)
		runDue(t, other)
		if len(at) != 0 {
			t.Fatal("taken from a living process")
		}
		if s, _ := other.States(t.Context()); s["j"].Running == "" {
			t.Error("nobody is said to run it")
		}
		wall.add(time.Minute)
		runDue(t, other)
		if len(at) != 1 || !at[0].Equal(due) {
			t.Fatalf("after the lease: %v", at)
		}
		if err := dead.note(t.Context(), &job, due, fence, nil); !errors.Is(err, errLost) {
			t.Fatalf("the dead one's end: %v", err)
		}
	})
}

// A run whose lease was taken away is cancelled and counts as failed.
func TestLostLeaseCancelsTheRun(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		c := newClock()
		r := newRunner(t, db, Options{Now: c.Now, Lease: 300 * time.Millisecond})
		began := make(chan struct{})
		add(t, r, Job{Name: "long", Schedule: Every(time.Hour), Run: func(ctx context.Context, _ time.Time) error {
			close(began)
			<-ctx.Done()
			return nil // it does not even say so
		}})
		c.add(time.Hour)
		done := make(chan []Outcome)
		go func() {
			o, err := r.RunDue(t.Context())
			if err != nil {
				t.Error(err)
			}
			done <- o
		}()
		<-began
		if _, err := db.Exec(t.Context(), `UPDATE jobs_job SET owner = 'thief', fence = fence + 1 WHERE name = 'long'`); err != nil {
			t.Fatal(err)
		}
		if o := <-done; len(o) != 1 || !errors.Is(o[0].Err, errLost) {
			t.Fatalf("%+v", o)
		}
		var owner string
		if err := db.QueryRow(t.Context(), `SELECT owner FROM jobs_job WHERE name = 'long'`).Scan(&owner); err != nil || owner != "thief" {
			t.Fatalf("owner %q, %v", owner, err)
		}
	})
}

func TestPause(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		c, j := newClock(), &journal{}
		r := newRunner(t, db, Options{Now: c.Now})
		add(t, r, j.job("j", Every(time.Hour), true))
		if err := r.SetPaused(t.Context(), "j", true); err != nil {
			t.Fatal(err)
		}
		c.add(2 * time.Hour)
		runDue(t, r)
		if got := j.take(); got != nil {
			t.Fatalf("paused, but ran %v", got)
		}
		if err := r.SetPaused(t.Context(), "j", false); err != nil {
			t.Fatal(err)
		}
		runDue(t, r)
		if got := j.take(); len(got) != 2 {
			t.Fatalf("after the pause: %v", got)
		}
		if err := errors.Join(r.SetPaused(t.Context(), "no", true)); !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
	})
}

// The time machine stops at each due instant: jobs see the clock there.
func TestAdvance(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		c := newClock()
		r := newRunner(t, db, Options{Now: c.Now, Wall: newClock().Now})
		var seen []string
		var failing error
		for name, s := range map[string]Schedule{"hour": Every(time.Hour), "day": Daily(5, 0, time.FixedZone("UTC+8", 8*3600))} {
			add(t, r, Job{Name: name, Schedule: s, CatchUp: true, Run: func(_ context.Context, at time.Time) error {
				if !c.Now().Equal(at) {
					t.Errorf("%s: due %v, but it is %v", name, at, c.Now())
				}
				if failing != nil && name == "day" {
					return failing
				}
				seen = append(seen, name+at.Format(" 15:04"))
				return nil
			}})
		}
		out, err := r.Advance(t.Context(), c, start.Add(3*time.Hour))
		if err != nil || len(out) != 4 || !c.Now().Equal(start.Add(3*time.Hour)) {
			t.Fatalf("%v, %v, it is %v", out, err, c.Now())
		}
		want := map[string]bool{"hour 19:00": true, "hour 20:00": true, "hour 21:00": true, "day 21:00": true}
		for _, s := range seen {
			delete(want, s)
		}
		if len(want) != 0 || len(seen) != 4 {
			t.Fatalf("ran %v", seen)
		}
		if _, err := r.Advance(t.Context(), c, start); !errors.Is(err, ErrBackwards) {
			t.Fatalf("backwards: %v", err)
		}
		failing = errors.New("stuck")
		if _, err := r.Advance(t.Context(), c, start.AddDate(0, 0, 7)); !errors.Is(err, failing) {
			t.Fatalf("a failing job: %v", err)
		}
		if at := start.Truncate(time.Hour).Add(27 * time.Hour); !c.Now().Equal(at) {
			t.Fatalf("the clock stands at %v, not at %v where the job failed", c.Now(), at)
		}
	})
}

func TestRunWakesAndEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		c, j := newClock(), &journal{}
		r := newRunner(t, db, Options{Now: c.Now, Poll: time.Hour})
		add(t, r, j.job("j", Every(time.Hour), true))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		c.add(time.Hour)
		wait.Until(t, 10*time.Second, "the run", func(context.Context) error {
			r.Wake()
			if len(j.take()) == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestAddRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		j := &journal{}
		r := newRunner(t, db, Options{})
		add(t, r, j.job("j", Every(time.Hour), true))
		for _, bad := range []Job{{}, {Name: "x"}, j.job("j", Every(time.Hour), true)} {
			if err := r.Add(t.Context(), bad); err == nil {
				t.Errorf("%q was taken", bad.Name)
			}
		}
	})
}
