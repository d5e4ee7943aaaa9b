// Package metering keeps what every call used: it carries the records of the
// node's journal into a usage store, each exactly once, and answers queries
// over them.
//
// A record is identified by its request id (METER-12). Shipping is at least
// once and storing is idempotent on that id, so any crash, timeout, double
// send or replay leaves one row per call. Rows may be late, never different:
// they are derived from the same journal records as the quota counters.
//
// The package does not decide whether a call may run (quota), what it costs
// (billing), or who may see a row (admin).
package metering
