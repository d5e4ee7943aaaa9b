// Package clickhouse is the usage store for many machines: ClickHouse, by its
// native protocol or by HTTP.
//
// Gateways send batches of thousands of calls, each with a deduplication token
// that is the hash of the batch. ClickHouse keeps the tokens of the last
// hundred thousand inserts, for the table of calls and for each rollup that a
// materialised view fills from it, so a batch that is sent again completes what
// is missing of the earlier try and adds nothing else. What is older than that,
// or comes in another batch, is found by request id before it is sent; and the
// rollups are compared with the calls, and corrected, behind that (Repair).
//
// The statements, with the reasons for their sort orders and partitions, are in
// schema/*.sql.
package clickhouse
