// Package embedded is the usage store for one machine: a SQLite file of its
// own, written by one process, good for a million calls a day.
//
// Each call is one row, and at the same time, in the same transaction, a part
// of three rollup rows: of its minute, hour and day. So the rollups are equal
// to the sums over the calls at every instant, whatever dies. Queries read the
// rollups and only the ends of their time from single calls.
package embedded
