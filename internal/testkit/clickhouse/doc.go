// Package clickhouse runs a ClickHouse engine for tests: chDB, which is
// ClickHouse as a library, taken from npm by scripts/setup.sh, behind an HTTP
// front of our own (chdbfront).
//
//	server := clickhouse.Start(t)
//	store, err := clickhouse.Open(ctx, server.URL("usage"), …)
//	server.Kill()    // as a power cut of the process
//	server.Restart() // same port, same data
//
// It proves what the engine does: tables, materialised views, deduplication,
// merges, TTL, functions, what an insert leaves when the process is killed. It
// does not prove ClickHouse's own server: no native protocol, no users, no
// replication.
package clickhouse
