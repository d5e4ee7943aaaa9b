package billing

import (
	"errors"
	"fmt"
	"time"
	_ "time/tzdata" // months are counted in the buyer's zone on hosts without a zone database
)

// defaultZone is where the calendar of the marketplace runs (CONV-4).
const defaultZone = "Asia/Shanghai"

// Limits of a validity, against typing errors.
const (
	maxMonths   = 1200
	maxDuration = 100 * 366 * 24 * time.Hour
)

// Validity is how long a lot can be used after it became effective: a number of
// calendar months or a duration. The zero value never ends.
type Validity struct {
	Months   int           `json:"months,omitempty"`
	Duration time.Duration `json:"duration,omitempty"` // whole milliseconds
}

// IsZero reports whether v never ends.
func (v Validity) IsZero() bool { return v == Validity{} }

// Validate returns every fault of v, joined.
func (v Validity) Validate() error {
	var faults []error
	if v.Months < 0 || v.Months > maxMonths {
		faults = append(faults, fmt.Errorf("validity of %d months: give 1..%d, or 0 for none", v.Months, maxMonths))
	}
	if v.Duration < 0 || v.Duration > maxDuration || v.Duration%time.Millisecond != 0 {
		faults = append(faults, fmt.Errorf("validity of %s: give whole milliseconds up to %s, or 0 for none", v.Duration, maxDuration))
	}
	if v.Months != 0 && v.Duration != 0 {
		faults = append(faults, errors.New("validity in months and as a duration: give one of them"))
	}
	return errors.Join(faults...)
}

// Expires returns the instant at which a lot that became effective at from is
// over, the zero Time for never. Months are calendar months in zone: the same
// wall clock time on the same day, or on the month's last day where the month
// has no such day (31 January and one month is 28 or 29 February), with
// localTime's rules for the change to and from summer time.
func (v Validity) Expires(from time.Time, zone string) (time.Time, error) {
	switch {
	case v.Duration != 0:
		return from.Add(v.Duration), nil
	case v.Months == 0:
		return time.Time{}, nil
	}
	loc, err := loadZone(zone)
	if err != nil {
		return time.Time{}, err
	}
	return addMonths(from.In(loc), v.Months).UTC(), nil
}

// addMonths adds calendar months in t's zone and keeps to the month's last day.
func addMonths(t time.Time, months int) time.Time {
	y, m, d := t.Date()
	hour, minute, sec := t.Clock()
	first := time.Date(y, m+time.Month(months), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return localTime(time.Date(first.Year(), first.Month(), min(d, last), hour, minute, sec, t.Nanosecond(), time.UTC), t.Location())
}

// localTime returns the instant at which clocks in loc show wall. Where they
// never do, because they were put forward over it, it is the instant of that
// change; where they do so twice, the first time.
func localTime(wall time.Time, loc *time.Location) time.Time {
	y, m, d := wall.Date()
	t := time.Date(y, m, d, wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), loc)
	_, offset := t.Zone()
	shown := t.Add(time.Duration(offset) * time.Second).UTC() // what clocks show at t
	begin, end := t.ZoneBounds()
	switch {
	case shown.Before(wall):
		return end
	case shown.After(wall):
		return begin
	case begin.IsZero(): // the zone never changed before
		return t
	}
	_, before := begin.Add(-1).Zone()
	if earlier := t.Add(time.Duration(offset-before) * time.Second); earlier.Before(begin) {
		return earlier
	}
	return t
}

// loadZone returns the IANA zone of that name, Asia/Shanghai for "".
func loadZone(name string) (*time.Location, error) {
	if name == "" {
		name = defaultZone
	}
	if name == "Local" {
		return nil, errors.New(`time zone "Local" differs from machine to machine: give an IANA name such as Asia/Shanghai`)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %q is not known: give an IANA name such as Asia/Shanghai", name)
	}
	return loc, nil
}
