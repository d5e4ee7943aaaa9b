package metering

import (
	"math"
	"slices"
	"sort"
	"time"
)

// Latencies are kept as counts of logarithmic buckets, in the manner of
// DDSketch: bucket i holds what lies in (g^(i-1), g^i] µs with g = 101/99, so a
// quantile read from the counts is within 1 % of the value that has that rank.
// Counts can be added up and taken away, and both stores use the same buckets,
// so their percentiles are equal.
const (
	latencyError   = 0.01
	latencyBuckets = 1200 // the last begins at some seven hours
)

var latencyBounds = func() (b [latencyBuckets]float64) {
	g := (1 + latencyError) / (1 - latencyError)
	for i := range b {
		b[i] = math.Pow(g, float64(i))
	}
	return b
}()

// LatencyBucket returns the bucket of a duration.
func LatencyBucket(d time.Duration) uint16 {
	us := float64(d) / float64(time.Microsecond)
	return uint16(min(sort.SearchFloat64s(latencyBounds[:], us), latencyBuckets-1))
}

// latencyOf returns the duration that stands for a bucket: at most 1 % from
// each in it.
func latencyOf(bucket uint16) time.Duration {
	g := (1 + latencyError) / (1 - latencyError)
	us := latencyBounds[min(int(bucket), latencyBuckets-1)] * 2 / (1 + g)
	return time.Duration(us * float64(time.Microsecond))
}

// Histogram counts calls by latency bucket.
type Histogram map[uint16]int64

// Add adds o to h.
func (h Histogram) Add(o Histogram) {
	for k, n := range o {
		h[k] += n
		if h[k] == 0 {
			delete(h, k)
		}
	}
}

// Quantile returns the duration that the share q of the calls, 0 to 1, did not
// exceed, within 1 %; 0 when there are no calls.
func (h Histogram) Quantile(q float64) time.Duration {
	var all int64
	keys := make([]uint16, 0, len(h))
	for k, n := range h {
		keys = append(keys, k)
		all += n
	}
	if all <= 0 {
		return 0
	}
	slices.Sort(keys)
	rank := max(1, int64(math.Ceil(q*float64(all))))
	var seen int64
	for _, k := range keys {
		if seen += h[k]; seen >= rank {
			return latencyOf(k)
		}
	}
	return latencyOf(keys[len(keys)-1])
}
