package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// ShiftedClock is the wall clock of a program under test: the real one moved by
// the duration that a file holds ("36h", "-90s"; a file that is missing or
// empty moves nothing). It jumps when the file changes, as a machine's clock
// does when somebody sets it. Its instants carry no monotonic reading, because
// that of the machine does not jump; what must not depend on the wall clock
// measures by itself.
type ShiftedClock struct {
	file  string
	shift atomic.Int64 // ns
}

// shiftEvery is how often the file is read.
const shiftEvery = 20 * time.Millisecond

// NewShiftedClock returns a clock that follows file until ctx ends.
func NewShiftedClock(ctx context.Context, file string) (*ShiftedClock, error) {
	c := &ShiftedClock{file: file}
	if err := c.read(); err != nil {
		return nil, err
	}
	go func() {
		t := time.NewTicker(shiftEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				_ = c.read() // a file that is being written is read again
			}
		}
	}()
	return c, nil
}

func (c *ShiftedClock) read() error {
	text, err := os.ReadFile(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = nil, nil
	}
	if err != nil {
		return err
	}
	var d time.Duration
	if s := strings.TrimSpace(string(text)); s != "" {
		if d, err = time.ParseDuration(s); err != nil {
			return fmt.Errorf("clock file %s: %w: write a duration, as in 36h or -90s", c.file, err)
		}
	}
	c.shift.Store(int64(d))
	return nil
}

// Now returns the shifted time.
func (c *ShiftedClock) Now() time.Time {
	return time.Now().Round(0).Add(time.Duration(c.shift.Load()))
}

// monotonic returns a clock that no setting of the wall clock moves.
func monotonic() func() time.Duration {
	base := time.Now()
	return func() time.Duration { return time.Since(base) }
}
