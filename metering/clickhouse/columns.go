package clickhouse

import (
	"fmt"
	"strings"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// texts are the grouping columns that are texts, in the order of Group.
var texts = []string{"account", "subscription", "product", "api", "model", "credential", "application", "region", "node"}

// dimNames are all grouping columns that both calls and rollups have. A
// rollup has counted as well, which calls have in flags.
var dimNames = append(texts[:len(texts):len(texts)], "status", "basis")

// amountNames are the columns that are summed up, as calls have them, in the
// order of Totals after calls, counted and errors.
var amountNames = func() []string {
	names := []string{"cached", "reasoning", "bytes_in", "bytes_out", "total_ns"}
	for _, kind := range []string{"used", "charged", "overrun"} {
		for u := range usage.NumUnits {
			names = append(names, kind+"_"+u.String())
		}
	}
	return names
}()

// sumNames are those of a rollup.
var sumNames = append([]string{"calls", "counted_calls", "errors"}, amountNames...)

// amounts returns the values of amountNames of a call.
func amounts(dst []int64, r *usage.Record) []int64 {
	dst = append(dst, r.Cached, r.Reasoning, r.BytesIn, r.BytesOut, int64(r.Total))
	dst = append(dst, r.Units[:]...)
	for u := range usage.NumUnits {
		dst = append(dst, r.Charged(u))
	}
	return append(dst, r.Overrun[:]...)
}

// targets returns where the values of sumNames belong.
func targets(t *metering.Totals) []any {
	dst := []any{&t.Calls, &t.Counted, &t.Errors, &t.Cached, &t.Reasoning, &t.BytesIn, &t.BytesOut, (*int64)(&t.Time)}
	for _, u := range []*usage.Units{&t.Units, &t.Charged, &t.Overrun} {
		for i := range u {
			dst = append(dst, &u[i])
		}
	}
	return dst
}

// sumsOfCalls are the expressions of sumNames over calls.
func sumsOfCalls() []string {
	list := []string{"toInt64(count())", fmt.Sprintf("toInt64(countIf(bitAnd(flags, %d) != 0))", usage.Counted), "toInt64(countIf(status >= 400))"}
	for _, a := range amountNames {
		list = append(list, "sum("+a+")")
	}
	return list
}

// sumsOfRollups are those over a rollup.
func sumsOfRollups() []string {
	var list []string
	for _, s := range sumNames {
		list = append(list, "sum("+s+")")
	}
	return list
}

const (
	latencyOfCalls   = "sumMap(map(latency, toInt64(1)))"
	latencyOfRollups = "sumMap(latencies)"
)

// bucketOf returns the start of the bucket of a call.
var bucketOf = [...]string{metering.Minute: "toStartOfMinute", metering.Hour: "toStartOfHour", metering.Day: "toStartOfDay"}

// tables are those of the levels.
var tables = [...]string{metering.Raw: "usage_call", metering.Minute: "usage_minute", metering.Hour: "usage_hour", metering.Day: "usage_day"}

// countedOf is the column counted of a rollup, from a call.
var countedOf = fmt.Sprintf("toUInt8(bitAnd(flags, %d) != 0)", usage.Counted)

// rollupQuery is the statement that a view makes rows of its level by.
func rollupQuery(l metering.Level, from string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "SELECT toDateTime(%s(time), 'UTC') AS bucket, %s, %s AS counted", bucketOf[l], strings.Join(dimNames, ", "), countedOf)
	for i, e := range sumsOfCalls() {
		fmt.Fprintf(&b, ", %s AS %s", e, sumNames[i])
	}
	fmt.Fprintf(&b, ", %s AS latencies, max(finished) AS finished FROM %s GROUP BY bucket, %s, counted", latencyOfCalls, from, strings.Join(dimNames, ", "))
	return b.String()
}
