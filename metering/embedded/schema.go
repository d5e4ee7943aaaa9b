package embedded

import (
	"context"
	"fmt"
	"strings"

	"tollgate/internal/usage"
	"tollgate/metering"
)

// schema is the whole of version 2. Times are Unix ms.
//
// dim keeps each combination of what calls can be grouped and filtered by
// once; the other tables refer to it by number, so their rows are short. Its
// rows are as many as combinations occur: clients choose the model's name, so
// Prune removes those that nothing refers to any more.
//
// call is clustered by admission, by which pages are read; request makes a
// call unique (METER-12); dim finds the calls of a buyer in an hour. body is
// the record as the journal holds it.
//
// The rollups hold their sums as one blob (sum.go): thirty columns would take
// SQLite about five times as long to read. They are clustered by bucket for
// short times over everything, with an index for few groups over a long time.
const schema = `
CREATE TABLE dim (
	id INTEGER PRIMARY KEY,
	account TEXT NOT NULL, subscription TEXT NOT NULL, product TEXT NOT NULL, api TEXT NOT NULL, model TEXT NOT NULL,
	credential TEXT NOT NULL, application TEXT NOT NULL, region TEXT NOT NULL, node TEXT NOT NULL,
	status INTEGER NOT NULL, basis INTEGER NOT NULL, counted INTEGER NOT NULL
);
CREATE TABLE call (
	time INTEGER NOT NULL, request BLOB NOT NULL,
	dim INTEGER NOT NULL, stored INTEGER NOT NULL, body BLOB NOT NULL,
	PRIMARY KEY (time, request)
) WITHOUT ROWID;
CREATE UNIQUE INDEX call_request ON call (request);
CREATE INDEX call_dim ON call (dim, time);
CREATE TABLE minute (bucket INTEGER NOT NULL, dim INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (bucket, dim)) WITHOUT ROWID;
CREATE TABLE hour   (bucket INTEGER NOT NULL, dim INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (bucket, dim)) WITHOUT ROWID;
CREATE TABLE day    (bucket INTEGER NOT NULL, dim INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (bucket, dim)) WITHOUT ROWID;
CREATE INDEX hour_dim ON hour (dim);
CREATE INDEX day_dim ON day (dim);
CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 2;
`

const schemaVersion = 2

// migrate makes the tables, and carries those of version 1, which had no
// rollups, over.
func (s *Store) migrate(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // no-op after Commit
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > schemaVersion {
		return fmt.Errorf("its schema is version %d and this Tollgate knows %d: use the newer Tollgate, or another data folder", version, schemaVersion)
	}
	if version == schemaVersion {
		var left int
		err := tx.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'record'").Scan(&left)
		if err != nil || left == 0 {
			return err
		}
		_ = tx.Rollback()
		return s.carryOver(ctx)
	}
	before := ""
	if version == 1 {
		before = "DROP INDEX call_subscription; DROP INDEX call_account; DROP TABLE call; DROP TABLE name;"
	}
	if _, err := tx.ExecContext(ctx, before+schema); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if version == 1 {
		return s.carryOver(ctx)
	}
	return nil
}

// carryOver moves the records of version 1 in steps; a crash between leaves
// the rest for the next start.
func (s *Store) carryOver(ctx context.Context) error {
	if err := s.dims.load(ctx, s.db); err != nil {
		return err
	}
	for {
		rows, err := s.db.QueryContext(ctx, "SELECT body FROM record LIMIT 2000")
		if err != nil {
			return err
		}
		var recs []usage.Record
		for rows.Next() {
			var body []byte
			var r usage.Record
			if err = rows.Scan(&body); err == nil {
				err = usage.DecodeRecord(body, &r)
			}
			if err != nil {
				_ = rows.Close()
				return err
			}
			recs = append(recs, r)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if len(recs) == 0 {
			return s.dropOld(ctx)
		}
		if err := s.Insert(ctx, recs); err != nil {
			return err
		}
		args := make([]any, len(recs))
		for i := range recs {
			args[i] = recs[i].ID[:]
		}
		marks := strings.TrimSuffix(strings.Repeat("?,", len(args)), ",")
		if _, err := s.db.ExecContext(ctx, "DELETE FROM record WHERE request IN ("+marks+")", args...); err != nil {
			return err
		}
	}
}

func (s *Store) dropOld(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, "DROP TABLE IF EXISTS record")
	return err
}

// rollups are the tables of the levels.
var rollups = [...]string{metering.Minute: "minute", metering.Hour: "hour", metering.Day: "day"}
