package sqldb

import (
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestOneText holds that what the package comment promises of one SQL text is
// so on both engines.
func TestOneText(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		migrate(t, db)
		ctx := t.Context()
		at := time.Date(2026, 11, 21, 10, 20, 30, 456_000_000, time.FixedZone("", 8*3600))
		doc := map[string]any{"k": []any{"v", true}}
		const upsert = `INSERT INTO test_row (doc, id, at_ms, yes, n) VALUES ($5, $1, $4, $3, $2)
			ON CONFLICT (id) DO UPDATE SET n = test_row.n + excluded.n, yes = NOT excluded.yes RETURNING n, yes`
		var n int64
		var yes bool
		// Placeholders out of order and of every kind; 2^53+1 shows a float.
		if err := db.QueryRow(ctx, upsert, "a", int64(1)<<53+1, true, Ms(at), JSON(doc)).Scan(&n, &yes); err != nil || n != 1<<53+1 || !yes {
			t.Fatalf("insert: %d, %v, %v", n, yes, err)
		}
		if err := db.QueryRow(ctx, upsert, "a", int64(-1), true, Ms(at), JSON(doc)).Scan(&n, &yes); err != nil || n != 1<<53 || yes {
			t.Fatalf("upsert: %d, %v, %v", n, yes, err)
		}
		var gotAt time.Time
		var gotDoc map[string]any
		// One placeholder twice, a boolean column as a condition.
		err := db.QueryRow(ctx, `SELECT at_ms, doc FROM test_row WHERE (id = $1 OR id = $1 || 'x') AND NOT yes AND yes = $2`, "a", false).
			Scan(Instant{&gotAt}, JSON(&gotDoc))
		if err != nil || !gotAt.Equal(at) || gotAt.Location() != time.UTC {
			t.Fatalf("instant: %v, %v", gotAt, err)
		}
		if d := cmp.Diff(doc, gotDoc); d != "" {
			t.Fatal(d)
		}
		res, err := db.Exec(ctx, `INSERT INTO test_row (id, n, yes, at_ms, doc) VALUES ('a', 0, TRUE, 0, '') ON CONFLICT (id) DO NOTHING`)
		if err != nil {
			t.Fatal(err)
		}
		if rows, err := res.RowsAffected(); err != nil || rows != 0 {
			t.Fatalf("DO NOTHING affected %d rows, %v", rows, err)
		}
		if err := db.QueryRow(ctx, `SELECT n FROM test_row WHERE id = 'b'`).Scan(&n); !errors.Is(err, sql.ErrNoRows) {
			t.Fatalf("no row: %v", err)
		}
		_, err = db.Exec(ctx, `INSERT INTO test_row (id, n, yes, at_ms, doc) VALUES ('a', 0, TRUE, 0, '')`)
		if !IsUnique(err) || IsForeignKey(err) {
			t.Fatalf("IsUnique does not know %v", err)
		}
	})
}

func TestForeignKeysAreHeld(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		for _, q := range []string{`CREATE TABLE parent (id TEXT PRIMARY KEY)`, `CREATE TABLE child (parent TEXT REFERENCES parent (id))`} {
			if _, err := db.Exec(ctx, q); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.Exec(ctx, `INSERT INTO child VALUES ('nobody')`); !IsForeignKey(err) || IsUnique(err) {
			t.Fatalf("a child without a parent: %v", err)
		}
	})
}

func TestZeroInstant(t *testing.T) {
	t.Parallel()
	if Ms(time.Time{}) != 0 || !Time(0).IsZero() {
		t.Fatal("the zero time is stored as 0 and read back as zero")
	}
	if err := (Instant{new(time.Time)}).Scan("x"); err == nil {
		t.Fatal("a text was read as an instant")
	}
	if err := JSON(new(int)).Scan(int64(1)); err == nil {
		t.Fatal("a number was read as JSON text")
	}
}

// TestSQLiteIsSafeForMoney holds the settings that a committed purchase rests
// on, on every connection of the pool.
func TestSQLiteIsSafeForMoney(t *testing.T) {
	t.Parallel()
	db := open(t, Options{Dir: t.TempDir(), MaxConns: 3})
	var held []*sql.Conn
	for range 3 {
		c, err := db.sql.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000"} {
			var got string
			if err := c.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
				t.Errorf("%s = %s, %v, want %s", pragma, got, err, want)
			}
		}
	}
	for _, c := range held {
		c.Close()
	}
}
