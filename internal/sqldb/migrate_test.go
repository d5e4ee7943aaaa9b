package sqldb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"tollgate/internal/testkit/postgres"
)

// later is schema with one more migration.
func later() Migrations {
	files := maps.Clone(schema.FS.(fstest.MapFS))
	files["migrations/00002_second.sql"] = &fstest.MapFile{Data: []byte("-- +goose Up\nCREATE TABLE test_second (id TEXT PRIMARY KEY);\nINSERT INTO test_row VALUES ('two', 2, TRUE, 0, '');\n")}
	return Migrations{Owner: schema.Owner, FS: files}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		migrate(t, db)
		migrate(t, db) // again: nothing to do
		if err := db.Migrate(t.Context(), later()); err != nil {
			t.Fatal(err)
		}
		if n := count(t, db); n != 1 {
			t.Fatalf("the second migration ran %d times", n)
		}
		if current, newest, err := db.SchemaVersions(t.Context(), schema); err != nil || current != 2 || newest != 1 {
			t.Fatalf("versions %d of %d, %v", current, newest, err)
		}
		// The binary of before, on the database of after.
		err := db.Migrate(t.Context(), schema)
		if !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), "run the newer binary") {
			t.Fatalf("a newer database: %v", err)
		}
		// Another owner is not concerned.
		other := Migrations{Owner: "other", FS: fstest.MapFS{"00001_x.sql": {Data: []byte("-- +goose Up\nCREATE TABLE other_x (id TEXT PRIMARY KEY);\n")}}}
		if err := db.Migrate(t.Context(), other); err != nil {
			t.Fatal(err)
		}
	})
}

// TestFailedMigrationLeavesNothing holds that a migration is one transaction.
func TestFailedMigrationLeavesNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		broken := Migrations{Owner: "broken", FS: fstest.MapFS{"00001_x.sql": {Data: []byte("-- +goose Up\nCREATE TABLE broken_x (id TEXT PRIMARY KEY);\nINSERT INTO no_such_table VALUES (1);\n")}}}
		if err := db.Migrate(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "broken tables") {
			t.Fatalf("a broken migration: %v", err)
		}
		if _, err := db.Exec(t.Context(), "SELECT 1 FROM broken_x"); err == nil {
			t.Fatal("the first half of a broken migration is there")
		}
	})
}

// TestMigrateAtOnce starts several processes, as it were, on a new database.
func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		for range 8 { // two that meet in the middle are rare
			migrateAtOnce(t, Options{Dir: t.TempDir()})
		}
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		migrateAtOnce(t, Options{URL: postgres.URL(t)})
	})
}

func migrateAtOnce(t *testing.T, o Options) {
	t.Helper()
	dbs := make([]*DB, 8)
	for i := range dbs {
		dbs[i] = open(t, o)
	}
	var ready, wg sync.WaitGroup
	ready.Add(len(dbs))
	for _, db := range dbs {
		wg.Go(func() {
			ready.Done()
			ready.Wait()
			if err := db.Migrate(t.Context(), later()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(t, dbs[0]); n != 1 {
		t.Fatalf("the second migration ran %d times", n)
	}
}

// TestMigrateWaitsForAnotherProcess holds the lock of a file as a process that
// migrates it does.
func TestMigrateWaitsForAnotherProcess(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	db, other := open(t, o), open(t, o)
	unlock, err := other.lockFile(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := db.Migrate(ctx, schema); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("while another process migrates: %v", err)
	}
	if _, err := db.Exec(t.Context(), "SELECT 1 FROM test_row"); err == nil {
		t.Fatal("migrated while another process does")
	}
	unlock()
	migrate(t, db)
}

func TestMigrateWithoutPermission(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t)
	address, err := url.Parse(server.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	server.Exec(t, "CREATE ROLE guest LOGIN")
	address.User = url.User("guest")
	db := open(t, Options{URL: address.String()})
	if err := db.Migrate(t.Context(), schema); err == nil || !strings.Contains(err.Error(), "GRANT CREATE") {
		t.Fatal(fmt.Errorf("a user who may not create tables: %w", err))
	}
}
