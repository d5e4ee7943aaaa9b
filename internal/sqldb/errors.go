package sqldb

import "errors"

// ErrNested says that a statement or a transaction was started on the DB by
// code that already runs in a transaction of it, which would wait for itself.
var ErrNested = errors.New("sqldb: started inside a transaction of the same database: use the Tx that was passed in")

// ErrReadOnly says that a snapshot was to be written to.
var ErrReadOnly = errors.New("sqldb: a snapshot is for reading: use InTx to write")

// ErrNewerSchema says that the database was last written by a newer binary.
var ErrNewerSchema = errors.New("the database is newer than this binary")

// sqlState returns the five-character code of a PostgreSQL error, or "".
func sqlState(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// sqliteCode returns the primary result code of a SQLite error, or 0.
func sqliteCode(err error) int {
	var e interface{ Code() int }
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// sqliteExtendedCode returns the extended result code of a SQLite error, or 0.
func sqliteExtendedCode(err error) int {
	var e interface{ Code() int }
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// IsUnique reports whether err is the violation of a unique index or a primary
// key: the row is already there.
func IsUnique(err error) bool {
	// SQLITE_CONSTRAINT_PRIMARYKEY and SQLITE_CONSTRAINT_UNIQUE.
	code := sqliteExtendedCode(err)
	return sqlState(err) == "23505" || code == 1555 || code == 2067
}

// IsForeignKey reports whether err is the violation of a foreign key: a row
// that is referred to is missing, or still referred to.
func IsForeignKey(err error) bool {
	return sqlState(err) == "23503" || sqliteExtendedCode(err) == 787
}

// retryable reports whether the transaction that got err had no effect and is
// worth another run.
func retryable(err error) bool {
	switch sqlState(err) {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	}
	switch sqliteCode(err) {
	case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
		return true
	}
	// A broken connection is not among them: whether a COMMIT on it took effect
	// is unknown. database/sql itself replaces stale ones at BEGIN.
	return false
}
