package journal

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Consumer is a reader with a name and a durable cursor: it goes on where it
// had acknowledged, over restarts, and no segment is removed before it has
// acknowledged all of it. It belongs to one goroutine; Lag and Acked may be
// asked from any.
type Consumer struct {
	Reader
	name  string
	slots *slotFile
	acked Position // guarded by j.mu
}

func openConsumer(j *Journal, name string) (*Consumer, error) {
	c := &Consumer{name: name}
	slots, err := openSlots(filepath.Join(j.dir, "cursor."+name), &c.acked)
	if err != nil && !errors.Is(err, errNoSlot) {
		return nil, fmt.Errorf("journal: cursor %s: %w", name, err)
	}
	c.slots = slots
	c.Reader = Reader{j: j, pos: c.acked}
	return c, nil
}

// Consumer returns the consumer name, one of Options.Consumers. There is one
// of each: every call returns the same.
func (j *Journal) Consumer(name string) (*Consumer, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.cursors[name]
	if c == nil {
		return nil, fmt.Errorf("%w: %q", ErrConsumer, name)
	}
	return c, nil
}

// Name returns the consumer's name.
func (c *Consumer) Name() string { return c.name }

// Acked returns the place up to which the consumer is done.
func (c *Consumer) Acked() Position {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	return c.acked
}

// Ack says that everything before p, the End of a record that was read, is
// done with. It survives the death of the process; after a crash of the
// machine the cursor may be an earlier one, and records come again. Going back
// is not possible: an earlier p changes nothing.
func (c *Consumer) Ack(p Position) error {
	if c.pos.Before(p) {
		return fmt.Errorf("journal: consumer %s acknowledges %s but has read up to %s only", c.name, p, c.pos)
	}
	c.j.mu.Lock()
	if c.j.closed {
		c.j.mu.Unlock()
		return ErrClosed
	}
	before := c.acked
	c.j.mu.Unlock()
	if !before.Before(p) {
		return nil
	}
	if err := c.slots.set(&p); err != nil {
		return fmt.Errorf("journal: cursor %s: %w", c.name, err)
	}
	c.j.mu.Lock()
	c.acked = p
	c.j.mu.Unlock()
	if before.Segment != p.Segment || p.Segment < c.j.active.Load().number {
		poke(c.j.kickAlloc)
	}
	return nil
}

// Rewind goes back to what was acknowledged last: what was read since comes
// again.
func (c *Consumer) Rewind() {
	c.release()
	c.pos = c.Acked()
}

// Lag returns the number of records appended and not acknowledged.
func (c *Consumer) Lag() int64 {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	return c.lagLocked()
}

// lagLocked counts segment by segment: after a loss of power the numbers of
// what was lost are missing between two of them.
func (c *Consumer) lagLocked() int64 {
	var n uint64
	for i := len(c.j.segs) - 1; i >= 0; i-- {
		s := c.j.segs[i]
		if s.number < c.acked.Segment {
			break
		}
		_, end, _ := s.end()
		from := s.base
		if s.number == c.acked.Segment {
			from = max(from, c.acked.Seq)
		}
		if end > from {
			n += end - from
		}
	}
	return int64(n)
}

// lagBytesLocked returns the bytes appended and not acknowledged.
func (c *Consumer) lagBytesLocked() int64 {
	var n int64
	for i := len(c.j.segs) - 1; i >= 0; i-- {
		s := c.j.segs[i]
		if s.number < c.acked.Segment {
			break
		}
		end, _, _ := s.end()
		from := uint32(headerSize)
		if s.number == c.acked.Segment {
			from = max(from, c.acked.Offset)
		}
		if end > from {
			n += int64(end - from)
		}
	}
	return n
}

// Lag returns the number of records that the named consumer has not
// acknowledged.
func (j *Journal) Lag(consumer string) (int64, error) {
	c, err := j.Consumer(consumer)
	if err != nil {
		return 0, err
	}
	return c.Lag(), nil
}
