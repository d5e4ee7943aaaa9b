package directory

import "time"

// Pacer has a long computation leave the processor to others now and then.
//
// A goroutine that computes is taken off its processor after 10 ms, and the
// network is looked at no more often than that while every processor is busy: on
// one core, calls would be answered in steps of 10 ms for as long as a large
// directory is read. A goroutine that sleeps lets the scheduler look at once.
// Pacing costs about a twentieth of the time, and nothing where the whole takes
// less than a millisecond.
type Pacer struct {
	n     int
	since time.Time
}

const (
	paceRows = 16                    // steps between two looks at the clock
	paceRun  = time.Millisecond      // how long is computed at a stretch
	paceRest = 20 * time.Microsecond // the kernel makes it some 70
)

// Step is called for each row. The zero Pacer is ready.
func (p *Pacer) Step() {
	if p.n++; p.n%paceRows != 0 {
		return
	}
	now := time.Now()
	switch {
	case p.since.IsZero():
		p.since = now
	case now.Sub(p.since) >= paceRun:
		time.Sleep(paceRest)
		p.since = time.Now()
	}
}
