// Package redis starts real Redis servers for tests: one server, a server with
// replicas and Sentinels, a cluster of three masters. All of them listen on
// free ports of 127.0.0.1, keep their data in the test's own folder, and can
// be killed, restarted on the same data and paused.
//
//	server := redis.Start(t, redis.Options{AppendOnly: "always"})
//	client := goredis.NewClient(&goredis.Options{Addr: server.Addr()})
//	server.Kill()    // as a power cut
//	server.Restart() // same port, same data
//
// A missing redis-server fails the test. Everything works with Redis 6.0
// (Ubuntu 22.04) and later.
package redis
