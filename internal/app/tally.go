package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"tollgate/internal/journal"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// consumerQuota is the journal's consumer that keeps the tally.
const consumerQuota = "quota"

// tallyFile holds the tally's state beside the journal.
const tallyFile = "quota.tally"

// tally counts, behind the calls, what the journal says was used, and keeps the
// sum with the place it was made at. So the beginning of a journal can be
// removed while what it counted is still known: after a crash the next start
// settles from the sum and the rest of the journal, whole.
//
// The state is written before the place is acknowledged. A crash between only
// means that the state is ahead of the cursor; what it holds is not read again.
type tally struct {
	cursor *journal.Consumer
	path   string
	log    *slog.Logger

	sum  *quota.Tally
	at   journal.Position // everything before it is in sum
	kept journal.Position // of the state on disk
}

// tallyState is the file's content.
type tallyState struct {
	At  string       `json:"at"`
	Sum *quota.Tally `json:"sum"`
}

// openTally reads the state and counts what the journal holds behind it.
func openTally(ctx context.Context, j *journal.Journal, dir string, log *slog.Logger) (*tally, error) {
	cursor, err := j.Consumer(consumerQuota)
	if err != nil {
		return nil, err
	}
	t := &tally{cursor: cursor, path: filepath.Join(dir, tallyFile), log: log, sum: quota.NewTally()}
	if t.sum, t.at, err = readTally(t.path); err != nil {
		return nil, err
	}
	if t.at.Before(cursor.Acked()) {
		// Whoever removed the file: what it counted is reported already, or lost.
		log.Error("the state of the quota tally is older than its cursor; use that was not reported is lost", "file", t.path)
	}
	t.kept = t.at
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rec, ok, err := cursor.TryNext()
		if err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		if !ok {
			return t, nil
		}
		if err := t.add(rec); err != nil {
			return nil, err
		}
	}
}

func readTally(path string) (*quota.Tally, journal.Position, error) {
	state := tallyState{Sum: quota.NewTally()}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state.Sum, journal.Position{}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	var at journal.Position
	if err == nil {
		at, err = journal.ParsePosition(state.At)
	}
	if err != nil {
		return nil, at, hint(fmt.Errorf("%s: %w", path, err), "restore it from a copy; without it, use that was not reported before the crash is lost")
	}
	return state.Sum, at, nil
}

func (t *tally) add(entry journal.Record) error {
	if entry.Kind == journal.KindUsage && !entry.Pos.Before(t.at) {
		var rec usage.Record
		if err := usage.DecodeRecord(entry.Payload, &rec); err != nil {
			return fmt.Errorf("journal record %s: %w", entry.Pos, err)
		}
		t.sum.Add(entry.Boot, &rec)
	}
	if t.at.Before(entry.End) {
		t.at = entry.End
	}
	return nil
}

// run counts until ctx ends, keeping the state each time a segment is done.
func (t *tally) run(ctx context.Context, forget func() (boot uint64, closed bool)) {
	defer t.keep(forget)
	kept := time.Now()
	for {
		rec, err := t.next(ctx)
		if err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				t.keep(forget) // nothing more for a while
				kept = time.Now()
				continue
			}
			if ctx.Err() == nil && !errors.Is(err, journal.ErrClosed) {
				t.log.Error("the quota tally cannot read the journal; its segments are kept", "error", err)
			}
			return
		}
		if err := t.add(rec); err != nil {
			t.log.Error("the quota tally cannot read a record; the journal's segments are kept", "error", err)
			return
		}
		if t.at.Segment != t.kept.Segment || time.Since(kept) > tallyEvery {
			t.keep(forget)
			kept = time.Now()
		}
	}
}

// tallyEvery is how often the state is kept while calls go on; each costs one
// small file that is synced.
const tallyEvery = 10 * time.Second

// next waits for a record, for a second at most.
func (t *tally) next(ctx context.Context) (journal.Record, error) {
	if rec, ok, err := t.cursor.TryNext(); ok || err != nil {
		return rec, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return t.cursor.Next(ctx)
}

// keep writes the state and lets go of what is in it.
func (t *tally) keep(forget func() (uint64, bool)) {
	if boot, closed := forget(); closed {
		t.sum.Forget(boot)
	}
	if t.at == t.kept {
		return
	}
	text, err := json.Marshal(tallyState{At: t.at.String(), Sum: t.sum})
	if err == nil {
		err = writeFile(t.path, text)
	}
	if err == nil {
		err = t.cursor.Ack(t.at)
	}
	if err != nil {
		t.log.Error("the quota tally is not kept; the journal's segments stay", "error", err)
		return
	}
	t.kept = t.at
}
