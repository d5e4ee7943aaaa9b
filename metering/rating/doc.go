// Package rating turns usage rows into sealed hour buckets: what each on-demand
// subscription used of each billing item, beyond every package, in one hour
// (PKG-28). Billing charges the buckets; it never sees single calls.
//
// What holds:
//
//  1. A sealed bucket never changes. What is charged stays what was charged.
//  2. The sum over an hour's buckets is what the usage store says of the hour,
//     once Correct has run after the last of its rows arrived. A row that comes
//     late (its node was away) makes an adjustment, a bucket with the
//     difference; so does a row of a call that still ran when its hour ended.
//  3. Each bucket is handed out once: Take marks it in the transaction of
//     whoever charges it, so both happen or neither does.
//  4. Hours are sealed in order and none is left out, whatever crashed: what was
//     sealed is in the database, and each step is one transaction.
//
// An hour belongs to the calls that were admitted in it, by the record's time.
// It is sealed Grace after its end. Hours are compared again for Lookback; what
// arrives later than that is not charged: choose a Lookback longer than any node
// may be away.
package rating
