// Package sqldb opens the control plane's database: the embedded SQLite file
// or a PostgreSQL server, behind one SQL text.
//
// What one text means: placeholders are $1, $2, …; columns are TEXT, BIGINT,
// BOOLEAN and nothing else (BLOB and BYTEA differ, so binary values are stored
// as hexadecimal or base64 text); instants are BIGINT Unix milliseconds (Ms and
// Time), zero for "not set"; structures are JSON in TEXT (JSON); money is
// BIGINT millionths of a yuan. Upserts are INSERT … ON CONFLICT … DO UPDATE …
// RETURNING. No SELECT … FOR UPDATE, which SQLite lacks: a row is locked by an
// UPDATE of it.
//
// Two kinds of writing transaction are offered. InTx runs as if alone: SERIALIZABLE in
// PostgreSQL, the only writer in SQLite. InLockingTx is READ COMMITTED in
// PostgreSQL, for code that first locks each row its decision rests on and is
// called often enough for retries on hot rows to hurt. Both run the function
// again when the database asks for that, so it must have no effect outside the
// transaction; Tx.AfterCommit is for those. InSnapshot reads several tables as
// they are at one instant, without a lock.
//
// The package joins two drivers and the migration runner, more third parties
// than the house rule allows an internal package, so that no other package
// knows which engine it runs on.
package sqldb
