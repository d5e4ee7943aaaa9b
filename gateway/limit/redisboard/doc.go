// Package redisboard is the limit.Board of nodes that share a Redis: single,
// sentinel or cluster. Each key's demands are one hash, by node, and so are the
// live nodes. Ages are measured by the server's clock, so the nodes'
// need not agree.
package redisboard
