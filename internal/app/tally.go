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
//
// It also ends the calls that earlier starts left open: streams that the
// process died under. Each gets one record of basis "recovered", charged to the
// start that served it.
type tally struct {
	journal *journal.Journal
	cursor  *journal.Consumer
	path    string
	log     *slog.Logger

	sum  *quota.Tally
	at   journal.Position // everything before it is in sum
	kept journal.Position // of the state on disk

	rec   usage.Record // decoded into, to use its texts again
	quiet bool         // nothing has come for a second
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
	t := &tally{journal: j, cursor: cursor, path: filepath.Join(dir, tallyFile), log: log, sum: quota.NewTally()}
	if t.sum, t.at, err = readTally(t.path); err != nil {
		return nil, err
	}
	if t.at.Before(cursor.Acked()) {
		// Whoever removed the file: what it counted is reported already, or lost.
		log.Error("the state of the quota tally is older than its cursor; use that was not reported is lost", "file", t.path)
	}
	t.kept = t.at
	if err := t.catchUp(ctx); err != nil {
		return nil, err
	}
	if t.endOpen() {
		return t, t.catchUp(ctx)
	}
	return t, nil
}

// catchUp counts what the journal holds now.
func (t *tally) catchUp(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec, ok, err := t.cursor.TryNext()
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if !ok {
			return nil
		}
		if err := t.add(rec); err != nil {
			return err
		}
	}
}

// endOpen writes the records that end what earlier starts left open, and
// reports whether it wrote any. The journal's lock was theirs, so they are
// over. What it cannot write now is charged all the same when the starts are
// closed, and gets its row by a later try.
func (t *tally) endOpen() (wrote bool) {
	list, err := t.sum.Open(t.journal.Boot())
	if err != nil {
		t.log.Error("calls that were open at a crash cannot be read; they are charged, and have no usage row", "error", err)
		return false
	}
	var buf []byte
	for i := range list {
		buf = usage.AppendRecord(buf[:0], &list[i])
		if _, err := t.journal.Append(journal.KindUsage, buf); err != nil {
			t.log.Error("calls that were open at a crash cannot be recorded now; they are charged, and get their usage rows later", "calls", len(list)-i, "error", err)
			return wrote
		}
		wrote = true
	}
	if wrote {
		t.log.Warn("calls were open when the process died: they are charged with what had been delivered", "calls", len(list))
	}
	return wrote
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
		if err := usage.DecodeRecord(entry.Payload, &t.rec); err != nil {
			return fmt.Errorf("journal record %s: %w", entry.Pos, err)
		}
		t.sum.Add(entry.Boot, &t.rec) // it copies what it keeps
	}
	if t.at.Before(entry.End) {
		t.at = entry.End
	}
	return nil
}

// run counts until ctx ends, keeping the state each time a segment is done.
func (t *tally) run(ctx context.Context, forget func() (boot uint64, closed bool)) {
	defer t.keep(forget)
	kept, ended := time.Now(), time.Now()
	keep := func() {
		t.keep(forget)
		kept = time.Now()
		if kept.Sub(ended) > endEvery {
			t.endOpen() // those that could not be written at the start
			ended = kept
		}
	}
	for {
		rec, err := t.next(ctx)
		if err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				keep() // nothing more for a while
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
			keep()
		}
	}
}

// tallyEvery is how often the state is kept while calls go on; each costs one
// small file that is synced.
const tallyEvery = 10 * time.Second

// endEvery is how often a record that could not be written at the start is
// tried again.
const endEvery = time.Minute

// While calls come the tally looks for them now and then: being woken for each
// would cost the call more than counting it does, and nobody waits for the sum.
const (
	tallyLook  = 50 * time.Millisecond
	tallyQuiet = time.Second
)

// next waits for a record, for tallyQuiet at most.
func (t *tally) next(ctx context.Context) (journal.Record, error) {
	if rec, ok, err := t.cursor.TryNext(); ok || err != nil {
		return rec, err
	}
	if t.quiet {
		ctx, cancel := context.WithTimeout(ctx, tallyQuiet)
		defer cancel()
		rec, err := t.cursor.Next(ctx)
		t.quiet = err != nil
		return rec, err
	}
	look := time.NewTicker(tallyLook)
	defer look.Stop()
	for range tallyQuiet / tallyLook {
		select {
		case <-look.C:
		case <-ctx.Done():
			return journal.Record{}, ctx.Err()
		}
		if rec, ok, err := t.cursor.TryNext(); ok || err != nil {
			return rec, err
		}
	}
	t.quiet = true
	return journal.Record{}, context.DeadlineExceeded
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
