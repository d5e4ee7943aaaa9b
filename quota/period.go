package quota

import (
	"fmt"
	"math"
	"sync"
	"time"
	_ "time/tzdata" // calendar resets must not depend on the host's files

	"tollgate/internal/lot"
)

// DefaultZone is the zone of calendar resets when a grant names none (CONV-4).
const DefaultZone = "Asia/Shanghai"

var zones sync.Map // name -> *time.Location

// Zone returns the location of a grant's calendar.
func Zone(name string) (*time.Location, error) {
	if name == "" {
		name = DefaultZone
	}
	if loc, ok := zones.Load(name); ok {
		return loc.(*time.Location), nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("quota: unknown time zone %q: use an IANA name such as Asia/Shanghai", name)
	}
	zones.Store(name, loc)
	return loc, nil
}

// ValidateGrant returns what makes g unusable to a store: what lot.Grant
// itself finds, an unknown zone, or an id a store's keys cannot carry.
func ValidateGrant(g *lot.Grant) error {
	if err := g.Validate(); err != nil {
		return err
	}
	for _, c := range []byte(g.ID + g.Subscription) {
		if c <= ' ' || c == '|' || c == '{' || c == '}' || c == '/' || c >= 0x7f {
			return fmt.Errorf("quota: id %q of subscription %q has the character %q: use letters, digits, dots, underscores and hyphens", g.ID, g.Subscription, c)
		}
	}
	_, err := Zone(g.Zone)
	return err
}

// Period is one reset period of a lot, Unix ms, half open.
type Period struct {
	From int64
	To   int64 // 0: never ends
	N    int64 // its number, from 0
}

// PeriodAt returns the period of g that contains the instant at, Unix ms.
// Before the lot is effective it is the first one, after the lot's end the
// last. Periods run in whole cycles from the effective instant (PKG-24): hours
// by the clock that never jumps, days, weeks, months and years by the calendar
// of the grant's zone. The day of the month is anchored: 31 January is
// followed by 28 February and 31 March. A local time that does not exist
// becomes the first valid instant after it; of one that exists twice it is the
// first.
func PeriodAt(g *lot.Grant, at int64) Period {
	eff := g.Effective.UnixMilli()
	end := int64(0)
	if !g.Expires.IsZero() {
		end = g.Expires.UnixMilli()
		at = min(at, end-1)
	}
	at = max(at, eff)
	if g.Reset == lot.Never {
		return Period{From: eff, To: end}
	}
	loc, err := Zone(g.Zone)
	if err != nil { // a store refuses such a grant
		loc = time.UTC
	}
	c := calendar{cycle: g.Reset, eff: g.Effective.In(loc), effMs: eff}
	n := max(0, c.guess(at))
	for n > 0 && c.start(n) > at {
		n--
	}
	for c.start(n+1) <= at {
		n++
	}
	p := Period{From: c.start(n), To: c.start(n + 1), N: n}
	if end != 0 {
		p.To = min(p.To, end)
	}
	return p
}

// Boundaries returns the starts of the period that contains at, of the
// preceding before periods and of the following after ones, in order and
// without repetition, Unix ms.
func Boundaries(g *lot.Grant, at int64, before, after int) []int64 {
	p := PeriodAt(g, at)
	out := []int64{p.From}
	for from := p.From; before > 0 && from > g.Effective.UnixMilli(); before-- {
		from = PeriodAt(g, from-1).From
		out = append([]int64{from}, out...)
	}
	for ; after > 0 && p.To != 0; after-- {
		if !g.Expires.IsZero() && p.To >= g.Expires.UnixMilli() {
			break
		}
		p = PeriodAt(g, p.To)
		out = append(out, p.From)
	}
	return out
}

// calendar counts the cycles of a lot from its effective instant.
type calendar struct {
	cycle lot.Cycle
	eff   time.Time // in the lot's zone
	effMs int64
}

const hourMs = int64(time.Hour / time.Millisecond)

// guess returns about how many cycles lie between the effective instant and
// at, at most one too few or too many.
func (c calendar) guess(at int64) int64 {
	d := at - c.effMs
	switch c.cycle {
	case lot.Hour:
		return d / hourMs
	case lot.Day:
		return d / (24 * hourMs)
	case lot.Week:
		return d / (7 * 24 * hourMs)
	}
	t := time.UnixMilli(at).In(c.eff.Location())
	months := int64(t.Year()-c.eff.Year())*12 + int64(t.Month()) - int64(c.eff.Month())
	if c.cycle == lot.Year {
		return months / 12
	}
	return months
}

// start returns the instant cycle n begins at, Unix ms.
func (c calendar) start(n int64) int64 {
	if n > math.MaxInt32 {
		return math.MaxInt64
	}
	if c.cycle == lot.Hour {
		return c.effMs + n*hourMs
	}
	y, m, d := c.eff.Date()
	switch c.cycle {
	case lot.Day:
		d += int(n)
	case lot.Week:
		d += 7 * int(n)
	case lot.Month, lot.Year:
		if c.cycle == lot.Year {
			n *= 12
		}
		months := int64(m) - 1 + n
		y, m = y+int(months/12), time.Month(months%12+1)
		d = min(d, daysIn(y, m))
	}
	return instant(y, m, d, c.eff).UnixMilli()
}

func daysIn(y int, m time.Month) int { return time.Date(y, m+1, 0, 0, 0, 0, 0, time.UTC).Day() }

// instant returns the instant of the local date with clock's time of day.
func instant(y int, m time.Month, d int, clock time.Time) time.Time {
	loc := clock.Location()
	h, mi, s := clock.Clock()
	u := time.Date(y, m, d, h, mi, s, clock.Nanosecond(), time.UTC) // the wall clock, read as UTC
	// No zone changes its offset twice within two days of one instant, so the
	// offsets a day before and a day after are the only candidates.
	_, before := u.Add(-24 * time.Hour).In(loc).Zone()
	_, after := u.Add(24 * time.Hour).In(loc).Zone()
	a := u.Add(-time.Duration(before) * time.Second).In(loc)
	b := u.Add(-time.Duration(after) * time.Second).In(loc)
	_, offA := a.Zone()
	_, offB := b.Zone()
	switch {
	case offA == before && offB == after:
		if b.Before(a) {
			return b
		}
		return a
	case offA == before:
		return a
	case offB == after:
		return b
	}
	// The local time was skipped: a, read with the old offset, lies behind the
	// change.
	start, _ := a.ZoneBounds()
	return start
}
