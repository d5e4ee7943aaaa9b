package metering

import (
	"time"
)

// Level is a fineness of figures that a store keeps.
type Level int

// The levels. Raw figures are those of single calls.
const (
	Raw Level = iota
	Minute
	Hour
	Day
)

var levelSizes = [...]int64{Raw: 1, Minute: 60_000, Hour: 3_600_000, Day: 86_400_000}

// Size returns the length of a bucket of l in milliseconds.
func (l Level) Size() int64 { return levelSizes[l] }

// Bucket returns the start of the bucket that holds an instant, both in Unix
// ms. Buckets begin at multiples of their size in UTC.
func (l Level) Bucket(ms int64) int64 { return floor(ms, l.Size()) }

// String returns the name of l.
func (l Level) String() string { return [...]string{"raw", "minute", "hour", "day"}[l] }

func floor(ms, size int64) int64 {
	n := ms / size
	if ms%size < 0 {
		n--
	}
	return n * size
}

// Segment is a part of a query's time that is answered from one level. Times
// are Unix ms, From included and To not.
type Segment struct {
	Level    Level
	From, To int64
}

// Kept says since when, in Unix ms, each level is kept; what is before may be
// removed. The zero value keeps everything.
type Kept [Day + 1]int64

// Plan divides the time of a query so that as much as can be is answered from
// coarse figures: the days in the middle, the hours, minutes and single calls
// at the ends. It also returns the time that is covered, which is wider than
// the one asked for where an end lies beyond what is kept finely.
func (in *QueryInput) Plan(kept Kept) (segments []Segment, from, to time.Time) {
	a, b := ceilMilli(in.From), ceilMilli(in.To)
	for l := Raw; l < Day; l++ { // what l cannot tell any more, l+1 tells in whole
		whole := -(l + 1).Bucket(-kept[l]) // the bucket in which l begins to be kept is not whole
		if a < whole {
			a = (l + 1).Bucket(a)
		}
		if b < whole {
			b = -(l + 1).Bucket(-b)
		}
	}
	coarsest := in.coarsest()
	cut := a
	if coarsest < Day { // finer than the zone asks for is gone before this
		cut = min(max(a, (coarsest+1).Bucket(kept[coarsest]+(coarsest+1).Size()-1)), b)
	}
	if cut > a {
		segments = divide(segments, a, cut, coarsest+1)
	}
	return divide(segments, cut, b, coarsest), time.UnixMilli(a).UTC(), time.UnixMilli(b).UTC()
}

func divide(list []Segment, from, to int64, l Level) []Segment {
	if from >= to {
		return list
	}
	if l == Raw {
		return append(list, Segment{Raw, from, to})
	}
	first, last := -l.Bucket(-from), l.Bucket(to)
	if first >= last {
		return divide(list, from, to, l-1)
	}
	list = divide(list, from, first, l-1)
	list = append(list, Segment{l, first, last})
	return divide(list, last, to, l-1)
}

// coarsest returns the level whose buckets fit the rows: each must lie within
// one row whole.
func (in *QueryInput) coarsest() Level {
	switch in.GroupBy {
	case GroupMinute:
		return Minute
	case GroupHour, GroupDay:
	default:
		return Day
	}
	if in.Zone == nil || in.Zone == time.UTC {
		return map[GroupBy]Level{GroupHour: Hour, GroupDay: Day}[in.GroupBy]
	}
	// The zone's clock may be set anew within the time asked for.
	for at := in.From.In(in.Zone); ; {
		if _, offset := at.Zone(); offset%3600 != 0 {
			return Minute
		}
		_, end := at.ZoneBounds()
		if end.IsZero() || !end.Before(in.To) {
			return Hour
		}
		at = end
	}
}

// Step returns the width in ms to which a store may sum up the buckets of a
// segment before it gives them to Collect: the greatest that every row of a
// time series is a multiple of. 0: the row's time does not matter.
func (in *QueryInput) Step(l Level) int64 {
	if !in.series() {
		return 0
	}
	if in.GroupBy == GroupMinute {
		return Minute.Size()
	}
	if in.coarsest() > Minute {
		return max(l.Size(), Hour.Size())
	}
	return max(l.Size(), Minute.Size())
}

// ceilMilli rounds up: instants are stored in whole milliseconds, so both ends
// of a half-open range round the same way.
func ceilMilli(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }
