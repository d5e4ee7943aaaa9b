// Package ledger is the state of one subscription's lots and the rules that
// change it: merge by maximum, grant in draw-down order, take back, evaluate
// thresholds, audit.
//
// It is pure: no clock, no disk, no network, no goroutine. The embedded store
// runs it behind a log, the simulator runs it behind a network that loses and
// repeats messages, and the Redis store's scripts do the same in Lua: a
// differential test holds the two together, operation by operation.
package ledger
