package redisstore

import (
	"fmt"
	"strconv"
	"strings"

	"tollgate/internal/lot"
	"tollgate/internal/usage"
	"tollgate/quota"
)

// Flags of a lot's packed form.
const (
	flagZero = 1 << iota
	flagOverflow
	flagVoid
	flagReset
	flagAwayContinue // older nodes do not know the last two, and do not need them
	flagAwayStop
)

// packLot returns the packed form of g without folded_to and bounds.
func packLot(g *lot.Grant) string {
	flags := 0
	for flag, set := range map[int]bool{
		flagZero: g.ZeroPrice, flagOverflow: g.Overflow, flagVoid: g.Void, flagReset: g.Reset != lot.Never,
		flagAwayContinue: g.Away.Policy == lot.AwayContinue, flagAwayStop: g.Away.Policy == lot.AwayStop,
	} {
		if set {
			flags |= flag
		}
	}
	expires := int64(0)
	if !g.Expires.IsZero() {
		expires = g.Expires.UnixMilli()
	}
	return fmt.Sprintf("%d:%d:%d:%d:%d:%d", g.Unit, g.Amount, g.Effective.UnixMilli(), expires, flags, g.Version)
}

// packAway returns the limits of a lot that goes on while the store is away,
// empty for the defaults. They have a field of their own: nodes of earlier
// versions read the packed lot whole.
func packAway(g *lot.Grant) string {
	if g.Away.Seconds == 0 && g.Away.Credit == 0 {
		return ""
	}
	return fmt.Sprintf("%d:%d", g.Away.Seconds, g.Away.Credit)
}

// packTold returns crossings as kind-value:arm:rearmed.
func packTold(told []quota.Told) string {
	parts := make([]string, len(told))
	for i, c := range told {
		again := 0
		if c.Rearmed {
			again = 1
		}
		parts[i] = fmt.Sprintf("%s:%d:%d", c.Name(), c.Arm, again)
	}
	return strings.Join(parts, ",")
}

// Periods on either side of now in a list of bounds.
const (
	boundsBefore = 2
	boundsAfter  = 48
)

// packBounds returns the starts of the periods of g around now, and the end of
// the last one.
func packBounds(g *lot.Grant, now int64) string {
	if g.Reset == lot.Never {
		return ""
	}
	bounds := quota.Boundaries(g, now, boundsBefore, boundsAfter)
	bounds = append(bounds, quota.PeriodAt(g, bounds[len(bounds)-1]).To)
	var b []byte
	for i, at := range bounds {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, at, 10)
	}
	return string(b)
}

// packOverrun returns the amounts that are not zero as unit=amount.
func packOverrun(o *usage.Units) string {
	var b []byte
	for u, n := range o {
		if n <= 0 {
			continue
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(u), 10)
		b = append(b, '=')
		b = strconv.AppendInt(b, n, 10)
	}
	return string(b)
}

func parseOverrun(s string) (o usage.Units, err error) {
	for part := range strings.SplitSeq(s, ",") {
		if part == "" {
			continue
		}
		unit, amount, _ := strings.Cut(part, "=")
		u, err1 := strconv.Atoi(unit)
		n, err2 := strconv.ParseInt(amount, 10, 64)
		if err1 != nil || err2 != nil || u < 0 || u >= int(usage.NumUnits) {
			return o, fmt.Errorf("overrun %q", s)
		}
		o[u] = n
	}
	return o, nil
}

// parseReply reads what SYNC answered.
func parseReply(v []any) (*quota.SyncReply, int64, error) {
	if len(v) < 7 {
		return nil, 0, fmt.Errorf("quota: redis: answer of %d fields", len(v))
	}
	text := make([]string, len(v))
	for i := range v {
		s, ok := v[i].(string)
		if !ok {
			return nil, 0, fmt.Errorf("quota: redis: field %d of the answer is a %T", i, v[i])
		}
		text[i] = s
	}
	var n [5]int64
	for i, s := range []string{text[1], text[2], text[3], text[4], text[6]} {
		var err error
		if n[i], err = strconv.ParseInt(s, 10, 64); err != nil {
			return nil, 0, fmt.Errorf("quota: redis: answer: %w", err)
		}
	}
	r := &quota.SyncReply{
		Now: n[0], NextChange: n[2], Active: int(n[3]),
		Closed: n[1]&1 != 0, Learning: n[1]&2 != 0, Skewed: n[1]&4 != 0,
	}
	for unit := range strings.SplitSeq(text[5], ",") {
		if u, err := strconv.Atoi(unit); err == nil && u >= 0 && u < int(usage.NumUnits) {
			r.Known[u] = true
		}
	}
	for _, line := range text[7:] {
		b, err := parseBucket(line)
		if err != nil {
			return nil, 0, err
		}
		r.Buckets = append(r.Buckets, b)
	}
	return r, n[4], nil
}

// parseBucket reads lot|from|to|unit|open|overflow|remaining|outstanding|g|u|r
// and then away|seconds|credit.
func parseBucket(line string) (b quota.Bucket, err error) {
	id, rest, _ := strings.Cut(line, "|")
	var n [13]int64
	i := 0
	for part := range strings.SplitSeq(rest, "|") {
		if i == len(n) {
			i++
			break
		}
		if n[i], err = strconv.ParseInt(part, 10, 64); err != nil {
			break
		}
		i++
	}
	if err != nil || i != len(n) || n[2] < 0 || n[2] >= int64(usage.NumUnits) {
		return b, fmt.Errorf("quota: redis: cannot read the bucket %q", line)
	}
	return quota.Bucket{
		Counter:     quota.Counter{Lot: id, From: n[0], Granted: n[7], Used: n[8], Returned: n[9]},
		To:          n[1],
		Unit:        usage.Unit(n[2]),
		Open:        n[3] == 1,
		Overflow:    n[4] == 1,
		Remaining:   n[5],
		Outstanding: n[6],
		Away:        quota.Away{Continue: n[10] == 1, Seconds: n[11], Credit: n[12]},
	}, nil
}
