// Package redisstore is the quota store that several gateway nodes share: one
// Redis, a Redis watched by Sentinels, or a Redis Cluster.
//
//	redis://[user:password@]host:port[/db]
//	redis+sentinel://[user:password@]host:port[,host:port…][/db]?master_name=NAME
//	redis+cluster://[user:password@]host:port[,host:port…]
//
// With rediss in place of redis the connection is TLS. Further parameters are
// those of go-redis (dial_timeout, read_timeout, pool_size, …) and:
//
//	wait=N           replicas that must have a grant before it is used; default 0
//	wait_timeout=D   how long to wait for them; default 100ms
//	prefix=TEXT      begins every key; default "tollgate:"
//
// # Keys
//
// All keys of a subscription share a hash tag, so each step runs in one slot:
//
//	{id}:l  hash  lot -> unit:amount:effective:expires:flags:version:folded_to:bounds
//	{id}:b  hash  lot|from -> cap:used:outstanding:min
//	{id}:i  hash  node@boot|lot|from -> granted:used:returned
//	{id}:n  hash  node@boot -> deadline:seen:state:overrun
//	{id}:m  hash  clock, learn, recall, run, ver; w|unit thresholds, a|unit|level
//	              how they are armed; f|node highest boot folded; o|unit overrun folded;
//	              y|lot seconds:credit of a lot that goes on while the store is away;
//	              p|lot folded periods
//	{id}:x  hash  outbox: crossing id -> unit|level|arm|remaining|total|at
//	{id}:g  hash  lot -> the grant as JSON
//
// and outside: "subs", a sorted set of all subscriptions, written before the
// first grant of each, "out", the set of those with crossings to deliver, the
// channel "recall", and "mark", how far the store has followed the control
// plane: in a Cluster "mark:0" to "mark:127", which lie on all masters, since
// each of them can be emptied on its own.
//
// Times are Unix milliseconds of the server, flags 1 zero price, 2 overflow, 4
// void, 8 resets. bounds are the starts of the reset periods around now and one
// end: calendars are computed in Go, and a step that finds the list too short
// says so and is run again with a longer one.
//
// # What Redis can lose
//
// Replication is asynchronous and the append-only file is synced once a second
// at best, so a failover or a restart can lose the last writes. Use is never
// lost by that: nodes repeat all they know, and counters are merged by their
// maximum. A lost grant could be sold again: with wait=1 a node uses a raised
// grant only when a replica has it, and a server whose run id changed grants
// nothing new for one lease time, until all nodes have reported.
package redisstore
