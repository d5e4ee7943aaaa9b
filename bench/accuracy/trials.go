package accuracy

// trials are all there are, in the order they run.
var trials = []trial{
	{name: "kill9", broke: "the node, by SIGKILL at random instants under load; embedded stores", run: kill9{}.run, heavy: true},
	{name: "kill9-redis", broke: "a gateway, by SIGKILL at random instants under load; Redis", run: kill9{redis: true}.run, heavy: true},
	{name: "kill9-streams", broke: "a gateway, by SIGKILL in the middle of streams; Redis", run: kill9{redis: true, streams: true}.run, heavy: true},
	{name: "kill9-rotate", broke: "a gateway, by SIGKILL while its journal drops segments; Redis", run: kill9{redis: true, rotate: true}.run, heavy: true},
	{name: "kill9-tail", broke: "one of two gateways, by SIGKILL while the last units of a package are sold; Redis", run: kill9Tail, heavy: true},
	{name: "last-unit", broke: "nothing: 8 nodes and 1 000 calls at once race for a few units, bought again and again", run: lastUnit, heavy: true},
	{name: "sigstop", broke: "a node, stopped past the end of its lease and continued", run: sigstop},
	{name: "redis-restart", broke: "Redis, by SIGKILL, restarted without what it wrote last, with a package nearly used up", run: redisRestart},
	{name: "redis-lost-purchase", broke: "Redis, by SIGKILL, restarted as it was before a package was bought", run: redisLostPurchase},
	{name: "redis-flushall", broke: "Redis, emptied by FLUSHALL under load", run: redisFlush},
	{name: "failover", broke: "the Redis master, by SIGKILL while its replica is cut off; Sentinels promote that; wait=1", run: failover},
	{name: "partition", broke: "the way between one node and Redis: cut, replies lost, slow, lossy; then healed", run: partition},
	{name: "disk-full", broke: "a gateway's disk: a tmpfs filled to the last byte under load", run: diskFull},
	{name: "rolling-restart", broke: "three nodes, by SIGTERM one after the other under load", run: rolling},
	{name: "mix-tokens", broke: "answers: split bodies, usage unasked or absent, streams cut, clients that leave; by tokens", run: mix{tokens: true}.run},
	{name: "mix-calls", broke: "the same answers; by calls", run: mix{}.run},
	{name: "dry-streams", broke: "nothing: 32 streams at once run their package of tokens dry; embedded stores", run: dry{}.run},
	{name: "dry-streams-redis", broke: "nothing: 32 streams at once run their package of tokens dry over three nodes; Redis", run: dry{nodes: 3}.run},
	{name: "retried", broke: "first attempts, which the gateway makes again over two upstreams; each call charged once", run: retried},
	{name: "mixed", broke: "nothing: 10 000 calls of every kind", run: mixed, heavy: true},
	{name: "race", broke: "nothing: 10 000 calls race for a package of 5 000; embedded stores", run: race{}.run, heavy: true},
	{name: "race-redis", broke: "nothing: 10 000 calls race for a package of 5 000 over three nodes; Redis", run: race{nodes: 3}.run, heavy: true},
}
