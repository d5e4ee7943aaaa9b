package jobs

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations are the tables of this package.
var Migrations = sqldb.Migrations{Owner: "jobs", FS: migrationFiles}

// Job is something that is due by the calendar.
type Job struct {
	// Name is the job's key in the database: lower case, stable for ever.
	Name string
	// Schedule says when it is due.
	Schedule Schedule
	// CatchUp runs the job once for each instant that was missed, oldest first.
	// Without it one run, for the latest, stands for all of them.
	CatchUp bool
	// Run does what was due at the instant at. It returns nil when that is done
	// and may be repeated for the same instant after a crash. It must end soon
	// after ctx does, and must not write afterwards.
	Run func(ctx context.Context, at time.Time) error
}

// Options are what a Runner needs.
type Options struct {
	DB  *sqldb.DB
	Now func() time.Time // business clock; default time.Now
	Log *slog.Logger     // failures of jobs; nil discards them

	// Wall is the clock of leases and pauses; default time.Now.
	Wall func() time.Time
	// Owner names this process in the database; default a fresh id.
	Owner string
	// Lease is how long a process that died keeps its jobs; default 30 s.
	Lease time.Duration
	// Poll is how often Run looks for jobs that are due; default 1 s.
	Poll time.Duration
}

// Pauses after failures.
const (
	retryFirst   = time.Second
	retryMost    = 5 * time.Minute
	maxErrorText = 500
	noteTimeout  = 30 * time.Second
)

// errLost says that another process has the job now.
var errLost = errors.New("jobs: the lease was lost during the run")

// Runner runs jobs. It is safe for concurrent use.
type Runner struct {
	db   *sqldb.DB
	now  func() time.Time
	wall func() time.Time
	log  *slog.Logger

	owner string
	lease time.Duration
	poll  time.Duration
	kick  chan struct{}

	mu   sync.Mutex
	jobs []Job
	busy sync.Mutex // held while a job runs: in one process they run one by one
}

// New returns a Runner after bringing its table to the newest schema.
func New(ctx context.Context, o Options) (*Runner, error) {
	if o.DB == nil {
		return nil, errors.New("jobs: Options.DB is not set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Owner == "" {
		o.Owner = ids.New(o.Wall())
	}
	if o.Lease <= 0 {
		o.Lease = 30 * time.Second
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if err := o.DB.Migrate(ctx, Migrations); err != nil {
		return nil, err
	}
	return &Runner{db: o.DB, now: o.Now, wall: o.Wall, log: o.Log, owner: o.Owner, lease: o.Lease, poll: o.Poll, kick: make(chan struct{}, 1)}, nil
}

// Add registers a job. A job that the database does not know begins now: what
// would have been due before is not run.
func (r *Runner) Add(ctx context.Context, j Job) error {
	if j.Name == "" || j.Schedule == nil || j.Run == nil {
		return fmt.Errorf("jobs: job %q needs a name, a schedule and a function", j.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.ContainsFunc(r.jobs, func(other Job) bool { return other.Name == j.Name }) {
		return fmt.Errorf("jobs: job %q is there already", j.Name)
	}
	_, err := r.db.Exec(ctx, `INSERT INTO jobs_job (name, cursor_ms, owner, lease_ms, fence, paused, runs, failures, retry_ms, last_error, started_ms, finished_ms)
		VALUES ($1, $2, '', 0, 0, $3, 0, 0, 0, '', 0, 0) ON CONFLICT (name) DO NOTHING`, j.Name, sqldb.Ms(r.now()), false)
	if err != nil {
		return fmt.Errorf("register job %s: %w", j.Name, err)
	}
	r.jobs = append(r.jobs, j)
	return nil
}

// Wake makes Run look for due jobs at once.
func (r *Runner) Wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Run runs jobs as they become due, until ctx ends, which is no error.
func (r *Runner) Run(ctx context.Context) error {
	for {
		if _, err := r.RunDue(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("due jobs cannot be read", "error", err)
		}
		t := time.NewTimer(r.poll)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-r.kick:
		case <-t.C:
		}
		t.Stop()
	}
}

// Outcome is one run of a job.
type Outcome struct {
	Job string
	At  time.Time // due instant
	Err error     // nil: done
}

// RunDue runs what is due by the business clock and returns what was run, in
// order of the due instants over all jobs. A job that fails, is paused, waits
// after a failure or belongs to another process is left out until the next call.
// The error says that the database could not be asked.
func (r *Runner) RunDue(ctx context.Context) ([]Outcome, error) {
	r.busy.Lock()
	defer r.busy.Unlock()
	return r.runDue(ctx)
}

// runDue is RunDue for a caller that holds r.busy.
func (r *Runner) runDue(ctx context.Context) ([]Outcome, error) {
	var done []Outcome
	left := make(map[string]bool)
	for ctx.Err() == nil {
		job, at, err := r.earliest(ctx, left)
		if err != nil || job == nil {
			return done, err
		}
		err = r.runOnce(ctx, job, at)
		switch {
		case errors.Is(err, errNotOurs):
			left[job.Name] = true
			continue
		case err != nil:
			left[job.Name] = true
			if ctx.Err() == nil {
				r.log.Error("a job failed", "job", job.Name, "due", at, "error", err)
			}
		}
		done = append(done, Outcome{Job: job.Name, At: at, Err: err})
	}
	return done, nil
}

// NextDue returns the earliest instant after the business clock at which any
// job is due, and false without jobs.
func (r *Runner) NextDue() (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var first time.Time
	for _, j := range r.jobs {
		if at := j.Schedule.Next(r.now()); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first, !first.IsZero()
}

// earliest finds the job with the earliest due instant, leaving some out.
func (r *Runner) earliest(ctx context.Context, left map[string]bool) (*Job, time.Time, error) {
	states, err := r.States(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var (
		first *Job
		when  time.Time
		now   = r.now()
		wall  = r.wall()
	)
	for i := range r.jobs {
		j := &r.jobs[i]
		s, ok := states[j.Name]
		if !ok || left[j.Name] || s.Paused || s.Retry.After(wall) {
			continue
		}
		at := j.Schedule.Next(s.Cursor)
		if !j.CatchUp {
			at = j.Schedule.Last(now)
		}
		if at.After(now) || !at.After(s.Cursor) {
			continue
		}
		if first == nil || at.Before(when) {
			first, when = j, at
		}
	}
	return first, when, nil
}

// errNotOurs says that another process has the job, or was faster.
var errNotOurs = errors.New("jobs: not ours")

// runOnce takes the lease, runs the job for one instant and moves its cursor.
func (r *Runner) runOnce(ctx context.Context, j *Job, at time.Time) error {
	fence, err := r.take(ctx, j, at)
	if err != nil {
		return err
	}
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		r.renew(run, cancel, j.Name, fence)
	}()
	failed := call(run, j, at)
	if cause := context.Cause(run); cause != nil && failed == nil {
		failed = cause // it went on although its lease was lost
	}
	cancel(nil)
	<-renewed
	return r.note(ctx, j, at, fence, failed)
}

// call runs the job; a panic in it is its failure.
func call(ctx context.Context, j *Job, at time.Time) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("jobs: panic: %v", p)
		}
	}()
	return j.Run(ctx, at)
}

// take takes the lease of a job whose instant at is not done yet.
func (r *Runner) take(ctx context.Context, j *Job, at time.Time) (fence int64, err error) {
	now := r.wall()
	err = r.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		return tx.QueryRow(ctx, `UPDATE jobs_job SET owner = $1, lease_ms = $2, fence = fence + 1, started_ms = $3
			WHERE name = $4 AND (owner = '' OR owner = $1 OR lease_ms <= $3) AND cursor_ms < $5 AND retry_ms <= $3 AND paused = $6 RETURNING fence`,
			r.owner, sqldb.Ms(now.Add(r.lease)), sqldb.Ms(now), j.Name, sqldb.Ms(at), false).Scan(&fence)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, errNotOurs
	}
	if err != nil {
		return 0, fmt.Errorf("take job %s: %w", j.Name, err)
	}
	return fence, nil
}

// renew keeps the lease until ctx ends, and cancels the run when it is lost or
// about to be: two thirds of it without a renewal.
func (r *Runner) renew(ctx context.Context, cancel context.CancelCauseFunc, name string, fence int64) {
	last := time.Now() // monotonic, whatever the clocks say
	t := time.NewTicker(r.lease / 6)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		try, done := context.WithTimeout(ctx, r.lease/6)
		began := time.Now()
		res, err := r.db.Exec(try, `UPDATE jobs_job SET lease_ms = $1 WHERE name = $2 AND owner = $3 AND fence = $4`,
			sqldb.Ms(r.wall().Add(r.lease)), name, r.owner, fence)
		done()
		if err == nil {
			if n, _ := res.RowsAffected(); n == 0 {
				cancel(errLost)
				return
			}
			last = began
		}
		if time.Since(last) > r.lease*2/3 {
			cancel(errLost)
			return
		}
	}
}

// note moves the cursor after a run that ended well, and notes a failure
// otherwise. Both give the lease back, also when ctx has ended.
func (r *Runner) note(ctx context.Context, j *Job, at time.Time, fence int64, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	now := r.wall()
	if failed == nil {
		res, err := r.db.Exec(ctx, `UPDATE jobs_job SET owner = '', lease_ms = 0, cursor_ms = $1, runs = runs + 1, failures = 0, retry_ms = 0, last_error = '', finished_ms = $2
			WHERE name = $3 AND owner = $4 AND fence = $5`, sqldb.Ms(at), sqldb.Ms(now), j.Name, r.owner, fence)
		if err != nil {
			return fmt.Errorf("note the run of job %s: %w", j.Name, err)
		}
		if n, _ := res.RowsAffected(); n == 0 {
			return errLost // whoever has it now runs the instant again
		}
		return nil
	}
	text := failed.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText]
	}
	err := r.db.InLockingTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var failures int64
		err := tx.QueryRow(ctx, `UPDATE jobs_job SET owner = '', lease_ms = 0, runs = runs + 1, failures = failures + 1, last_error = $1
			WHERE name = $2 AND owner = $3 AND fence = $4 RETURNING failures`, text, j.Name, r.owner, fence).Scan(&failures)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // another process has it
		}
		if err != nil {
			return err
		}
		pause := min(retryFirst<<min(failures-1, 20), retryMost)
		_, err = tx.Exec(ctx, `UPDATE jobs_job SET retry_ms = $1 WHERE name = $2`, sqldb.Ms(now.Add(pause)), j.Name)
		return err
	})
	return errors.Join(failed, err)
}
