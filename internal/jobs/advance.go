package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Clock is a business clock that can be moved: the one the Runner was given as
// Options.Now.
type Clock interface {
	Now() time.Time
	// Set moves the clock forward to t, from where it goes on.
	Set(t time.Time) error
}

// ErrBackwards says that a clock was to be moved back, which would make what
// has happened happen again.
var ErrBackwards = errors.New("jobs: the clock only moves forward")

// Advance moves the clock to the instant to, stopping at each instant at which
// a job is due and running it there, so that a month plays out in its order.
// It returns what was run. A job that fails stops the clock where it stands:
// the error names it, and Advance may be called again once it is mended.
// Run does nothing meanwhile.
func (r *Runner) Advance(ctx context.Context, clock Clock, to time.Time) ([]Outcome, error) {
	r.busy.Lock()
	defer r.busy.Unlock()
	if to.Before(clock.Now()) {
		return nil, fmt.Errorf("%w: it is %s there", ErrBackwards, clock.Now().UTC().Format(time.RFC3339))
	}
	var all []Outcome
	for {
		ran, err := r.runDue(ctx)
		all = append(all, ran...)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return all, err
		}
		for _, o := range ran {
			if o.Err != nil {
				return all, fmt.Errorf("job %s, due %s: %w", o.Job, o.At.UTC().Format(time.RFC3339), o.Err)
			}
		}
		if now := clock.Now(); !now.Before(to) {
			return all, nil
		}
		next, ok := r.NextDue()
		if !ok || next.After(to) {
			next = to
		}
		if next.After(clock.Now()) { // a clock that runs may be there already
			if err := clock.Set(next); err != nil {
				return all, err
			}
		}
	}
}
