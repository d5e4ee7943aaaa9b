package jobs

import "time"

// Schedule names the instants at which a job is due.
type Schedule interface {
	// Next returns the first due instant after t.
	Next(t time.Time) time.Time
	// Last returns the last due instant that is not after t.
	Last(t time.Time) time.Time
}

// Every is due at each multiple of d since 1970 in UTC: Every(time.Hour) at
// each full hour. d must be positive.
func Every(d time.Duration) Schedule { return every(d) }

type every time.Duration

func (e every) Last(t time.Time) time.Time {
	d := time.Duration(e)
	ms, step := t.UnixNano(), int64(d)
	n := ms / step
	if ms%step < 0 {
		n--
	}
	return time.Unix(0, n*step).UTC()
}

func (e every) Next(t time.Time) time.Time { return e.Last(t).Add(time.Duration(e)) }

// Daily is due once a day at the given time of day in zone. On a day whose
// clocks leave that time out it is due when they have jumped; on one that has it
// twice, the first time only.
func Daily(hour, minute int, zone *time.Location) Schedule { return daily{hour, minute, zone} }

type daily struct {
	hour, minute int
	zone         *time.Location
}

// on returns the due instant of the day that is days after t's.
func (d daily) on(t time.Time, days int) time.Time {
	y, m, day := t.In(d.zone).Date()
	at := time.Date(y, m, day+days, d.hour, d.minute, 0, 0, d.zone)
	if got := at.In(d.zone); got.Hour() != d.hour || got.Minute() != d.minute {
		// The day leaves the time out. Read it by the offset before the jump.
		_, offset := at.Add(-3 * time.Hour).In(d.zone).Zone()
		return time.Date(y, m, day+days, d.hour, d.minute, 0, 0, time.UTC).Add(-time.Duration(offset) * time.Second)
	}
	// Date takes either of two readings of an ambiguous time: take the first.
	if earlier := at.Add(-time.Hour); earlier.In(d.zone).Hour() == d.hour && earlier.In(d.zone).Minute() == d.minute {
		at = earlier
	}
	if half := at.Add(-30 * time.Minute); half.In(d.zone).Hour() == d.hour && half.In(d.zone).Minute() == d.minute {
		at = half
	}
	return at.UTC()
}

func (d daily) Last(t time.Time) time.Time {
	for days := 0; ; days-- {
		if at := d.on(t, days); !at.After(t) {
			return at
		}
	}
}

func (d daily) Next(t time.Time) time.Time {
	for days := 0; ; days++ {
		if at := d.on(t, days); at.After(t) {
			return at
		}
	}
}

// Monthly is due once a month, on the given day (1 to 28) at the given hour in
// zone.
func Monthly(day, hour int, zone *time.Location) Schedule { return monthly{day, hour, zone} }

type monthly struct {
	day, hour int
	zone      *time.Location
}

func (m monthly) on(t time.Time, months int) time.Time {
	y, mon, _ := t.In(m.zone).Date()
	return time.Date(y, mon+time.Month(months), m.day, m.hour, 0, 0, 0, m.zone).UTC()
}

func (m monthly) Last(t time.Time) time.Time {
	for n := 0; ; n-- {
		if at := m.on(t, n); !at.After(t) {
			return at
		}
	}
}

func (m monthly) Next(t time.Time) time.Time {
	for n := 0; ; n++ {
		if at := m.on(t, n); at.After(t) {
			return at
		}
	}
}
