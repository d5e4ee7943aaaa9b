// Package redisanswers is the idempotency.Store of nodes that share a Redis. A
// call that runs is a marker with a short lease, which its node renews while the
// call runs, however long that takes; an answer takes the marker's place. The
// keys of a node that died are free when their lease ends: until then a
// repetition is told that the call is under way (409), from then on it runs, and
// is charged, as a call of its own.
package redisanswers
