// Package quota spends what buyers were granted: it admits calls against lots
// of units, holds, settles, and never sells a unit twice or loses one.
//
// An [Engine] runs in every gateway node. It draws blocks of units, leases,
// from a [Store] shared by all nodes and spends them locally: a call that the
// lease covers touches no network, takes no lock and allocates nothing.
// Settlement is level-triggered. A node reports, per incarnation and bucket,
// three counters that only grow (granted G, used U, returned R); the store
// merges them by maximum. A report may therefore be lost, repeated, delayed or
// reordered and the sums still come out exact.
//
// A bucket is one lot in one of its periods: a reset is simply the next
// bucket, so resets and expiry share one code path. An incarnation is one
// start of one node; its number is never used again, so a report of a dead
// process cannot be mistaken for one of its successor.
//
// The journal of each node is the truth of what was used. The counters here
// are derived from it: a record is appended first, and only then do the
// counters move. After a crash [Engine.Replay] recomputes the counters of
// earlier incarnations from the journal and closes them.
//
// README.md in this directory states the invariants and what the package owns.
package quota
