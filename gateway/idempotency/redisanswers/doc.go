// Package redisanswers is the idempotency.Store of nodes that share a Redis. A
// call that runs is a marker with a time limit, so that a node that died frees
// its keys; an answer takes the marker's place.
package redisanswers
