package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tollgate/internal/sqldb"
)

// ErrUnknown says that there is no such job.
var ErrUnknown = errors.New("jobs: no such job")

// State is what is known of a job, for an operator's eyes.
type State struct {
	Name     string
	Cursor   time.Time // last due instant that is done
	Next     time.Time // next due instant; zero for a job this process does not have
	Running  string    // process that runs it now, or ""
	Paused   bool
	Runs     int64
	Failures int64     // in a row
	Error    string    // of the last run, "" when it ended well
	Retry    time.Time // not tried before, after a failure
	Started  time.Time // last run
	Finished time.Time // last run that ended well
}

// States returns the state of every job the database knows, by name.
func (r *Runner) States(ctx context.Context) (map[string]State, error) {
	rows, err := r.db.Query(ctx, `SELECT name, cursor_ms, owner, lease_ms, paused, runs, failures, retry_ms, last_error, started_ms, finished_ms FROM jobs_job`)
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	defer rows.Close()
	wall := r.wall()
	all := make(map[string]State)
	for rows.Next() {
		var (
			s                                         State
			cursor, lease, retry, started, finishedMs int64
		)
		if err := rows.Scan(&s.Name, &cursor, &s.Running, &lease, &s.Paused, &s.Runs, &s.Failures, &retry, &s.Error, &started, &finishedMs); err != nil {
			return nil, fmt.Errorf("read jobs: %w", err)
		}
		s.Cursor, s.Retry, s.Started, s.Finished = sqldb.Time(cursor), sqldb.Time(retry), sqldb.Time(started), sqldb.Time(finishedMs)
		if !sqldb.Time(lease).After(wall) {
			s.Running = ""
		}
		all[s.Name] = s
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range r.jobs {
		if s, ok := all[j.Name]; ok {
			s.Next = j.Schedule.Next(s.Cursor)
			all[j.Name] = s
		}
	}
	return all, nil
}

// SetPaused stops a job from being run, or lets it run again; then it does what
// it missed.
func (r *Runner) SetPaused(ctx context.Context, name string, paused bool) error {
	res, err := r.db.Exec(ctx, `UPDATE jobs_job SET paused = $1 WHERE name = $2`, paused, name)
	if err != nil {
		return fmt.Errorf("pause job %s: %w", name, err)
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	r.Wake()
	return nil
}

// Retry lets a job that failed run again without waiting out its pause.
func (r *Runner) Retry(ctx context.Context, name string) error {
	res, err := r.db.Exec(ctx, `UPDATE jobs_job SET retry_ms = 0 WHERE name = $1`, name)
	if err != nil {
		return fmt.Errorf("retry job %s: %w", name, err)
	}
	if n, _ := res.RowsAffected(); n == 0 {
		return fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	r.Wake()
	return nil
}
