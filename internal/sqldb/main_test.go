package sqldb

import (
	"testing"
	"testing/fstest"

	"tollgate/internal/testkit/postgres"
)

func TestMain(m *testing.M) { postgres.Main(m) }

// schema is a table with one column of each kind the package allows.
var schema = Migrations{Owner: "test", FS: fstest.MapFS{
	"migrations/00001_first.sql": {Data: []byte(`-- +goose Up
CREATE TABLE test_row (id TEXT NOT NULL PRIMARY KEY, n BIGINT NOT NULL, yes BOOLEAN NOT NULL, at_ms BIGINT NOT NULL, doc TEXT NOT NULL);
`)},
}}

// onBoth runs a test on an empty database of each engine.
func onBoth(t *testing.T, test func(t *testing.T, db *DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, Options{Dir: t.TempDir()}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, Options{URL: postgres.URL(t)}))
	})
}

func open(t *testing.T, o Options) *DB {
	t.Helper()
	db, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// migrate makes the table of schema.
func migrate(t *testing.T, db *DB) {
	t.Helper()
	if err := db.Migrate(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
}
