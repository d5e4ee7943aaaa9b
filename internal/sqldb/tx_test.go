package sqldb

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"tollgate/internal/testkit/postgres"
)

func insert(ctx context.Context, q Querier, id string, n int64) error {
	_, err := q.Exec(ctx, `INSERT INTO test_row (id, n, yes, at_ms, doc) VALUES ($1, $2, TRUE, 0, '')`, id, n)
	return err
}

func count(t *testing.T, db *DB) int {
	t.Helper()
	var n int
	if err := db.QueryRow(t.Context(), `SELECT COUNT(*) FROM test_row`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRollback(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		migrate(t, db)
		refused := errors.New("refused")
		after := false
		err := db.InTx(t.Context(), func(ctx context.Context, tx *Tx) error {
			tx.AfterCommit(func() { after = true })
			if err := insert(ctx, tx, "a", 1); err != nil {
				return err
			}
			return refused
		})
		if !errors.Is(err, refused) || after || count(t, db) != 0 {
			t.Fatalf("error: %v, after commit ran: %v, rows: %d", err, after, count(t, db))
		}
		func() {
			defer func() { recover() }()
			db.InTx(t.Context(), func(ctx context.Context, tx *Tx) error {
				if err := insert(ctx, tx, "b", 1); err != nil {
					return err
				}
				panic("in the middle")
			})
		}()
		if n := count(t, db); n != 0 {
			t.Fatalf("%d rows after a panic", n)
		}
		// The panic must not have kept the lock.
		err = db.InLockingTx(t.Context(), func(ctx context.Context, tx *Tx) error {
			tx.AfterCommit(func() { after = true })
			return insert(ctx, tx, "c", 1)
		})
		if err != nil || !after || count(t, db) != 1 {
			t.Fatalf("commit: %v, after commit ran: %v, rows: %d", err, after, count(t, db))
		}
	})
}

func TestNestedUseIsRefused(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		migrate(t, db)
		err := db.InTx(t.Context(), func(ctx context.Context, tx *Tx) error {
			if err := insert(ctx, db, "a", 1); !errors.Is(err, ErrNested) {
				t.Errorf("Exec on the DB within a transaction: %v", err)
			}
			return db.InTx(ctx, func(context.Context, *Tx) error { return nil })
		})
		if !errors.Is(err, ErrNested) {
			t.Fatalf("a transaction within a transaction: %v", err)
		}
	})
}

// TestInTxRunsAsIfAlone counts and then inserts from many goroutines: with less
// than serializable isolation more rows than the limit would slip in.
func TestInTxRunsAsIfAlone(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		migrate(t, db)
		const limit, tries = 5, 24
		full := errors.New("full")
		var wg sync.WaitGroup
		for i := range tries {
			wg.Go(func() {
				err := db.InTx(t.Context(), func(ctx context.Context, tx *Tx) error {
					var n int
					if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM test_row`).Scan(&n); err != nil {
						return err
					}
					if n >= limit {
						return full
					}
					return insert(ctx, tx, fmt.Sprint(i), 1)
				})
				if err != nil && !errors.Is(err, full) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := count(t, db); n != limit {
			t.Fatalf("%d rows, want exactly %d", n, limit)
		}
	})
}

// TestLockingTxLosesNoUpdate adds to one hot row from many goroutines.
func TestLockingTxLosesNoUpdate(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		migrate(t, db)
		if err := insert(t.Context(), db, "hot", 0); err != nil {
			t.Fatal(err)
		}
		const workers, each = 8, 25
		var runs atomic.Int64
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range each {
					err := db.InLockingTx(t.Context(), func(ctx context.Context, tx *Tx) error {
						runs.Add(1)
						var n int64
						if err := tx.QueryRow(ctx, `UPDATE test_row SET yes = yes WHERE id = 'hot' RETURNING n`).Scan(&n); err != nil {
							return err
						}
						_, err := tx.Exec(ctx, `UPDATE test_row SET n = $1 WHERE id = 'hot'`, n+1)
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		var n int64
		if err := db.QueryRow(t.Context(), `SELECT n FROM test_row`).Scan(&n); err != nil || n != workers*each {
			t.Fatalf("n = %d, %v, want %d", n, err, workers*each)
		}
		if runs.Load() != workers*each {
			t.Errorf("%d runs for %d transactions: they should wait, not run again", runs.Load(), workers*each)
		}
	})
}

// TestDeadlockRunsAgain locks two rows in opposite orders. PostgreSQL ends one
// of the two, which must then run again and succeed.
func TestDeadlockRunsAgain(t *testing.T) {
	t.Parallel()
	db := open(t, Options{URL: postgres.URL(t)})
	migrate(t, db)
	for _, id := range []string{"a", "b"} {
		if err := insert(t.Context(), db, id, 0); err != nil {
			t.Fatal(err)
		}
	}
	var holding sync.WaitGroup // until both hold their first row
	holding.Add(2)
	var runs atomic.Int64
	var wg sync.WaitGroup
	for _, order := range [][2]string{{"a", "b"}, {"b", "a"}} {
		wg.Go(func() {
			first := true
			err := db.InLockingTx(t.Context(), func(ctx context.Context, tx *Tx) error {
				runs.Add(1)
				if _, err := tx.Exec(ctx, `UPDATE test_row SET n = n + 1 WHERE id = $1`, order[0]); err != nil {
					return err
				}
				if first {
					first = false
					holding.Done()
					holding.Wait()
				}
				_, err := tx.Exec(ctx, `UPDATE test_row SET n = n + 1 WHERE id = $1`, order[1])
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var sum int64
	if err := db.QueryRow(t.Context(), `SELECT CAST(SUM(n) AS BIGINT) FROM test_row`).Scan(&sum); err != nil || sum != 4 {
		t.Fatalf("sum = %d, %v, want 4", sum, err)
	}
	if runs.Load() != 3 {
		t.Fatalf("%d runs, want 3: there was no deadlock to run again from", runs.Load())
	}
}

// TestSnapshot writes while a snapshot is read: neither waits, and the snapshot
// goes on showing what it showed.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		migrate(t, db)
		rows := func(ctx context.Context, q Querier) (n int) {
			if err := q.QueryRow(ctx, `SELECT COUNT(*) FROM test_row`).Scan(&n); err != nil {
				t.Error(err)
			}
			return n
		}
		err := db.InSnapshot(t.Context(), func(ctx context.Context, tx *Tx) error {
			if n := rows(ctx, tx); n != 0 {
				t.Errorf("%d rows at first", n)
			}
			// The test's own context: this is another transaction on purpose.
			if err := db.InTx(t.Context(), func(ctx context.Context, tx *Tx) error { return insert(ctx, tx, "a", 1) }); err != nil {
				t.Error(err)
			}
			if n := rows(ctx, tx); n != 0 {
				t.Errorf("%d rows after a write elsewhere", n)
			}
			if err := insert(ctx, tx, "b", 1); !errors.Is(err, ErrReadOnly) {
				t.Errorf("a write in a snapshot: %v", err)
			}
			return nil
		})
		if err != nil || count(t, db) != 1 {
			t.Fatalf("%v, %d rows", err, count(t, db))
		}
	})
}

func TestCancelWhileWaitingToWrite(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, db *DB) {
		migrate(t, db)
		if err := insert(t.Context(), db, "hot", 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err := db.InLockingTx(t.Context(), func(outer context.Context, tx *Tx) error {
			if _, err := tx.Exec(outer, `UPDATE test_row SET n = 1`); err != nil {
				return err
			}
			cancel()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.InTx(ctx, func(ctx context.Context, tx *Tx) error { return insert(ctx, tx, "late", 1) }); !errors.Is(err, context.Canceled) {
			t.Fatalf("a cancelled context: %v", err)
		}
		if n := count(t, db); n != 1 {
			t.Fatalf("%d rows", n)
		}
	})
}

// TestServerRestart holds that transactions go on over connections that a
// restart of the server broke.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	server := postgres.Start(t)
	db := open(t, Options{URL: server.Database(t), MaxConns: 10})
	migrate(t, db)
	// Fill the pool, so that several broken connections wait in it.
	var wg, all sync.WaitGroup
	all.Add(10)
	for range 10 {
		wg.Go(func() {
			err := db.InTx(t.Context(), func(ctx context.Context, tx *Tx) error {
				all.Done()
				all.Wait()
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	server.Kill(t)
	if err := db.InTx(t.Context(), func(context.Context, *Tx) error { return nil }); err == nil {
		t.Fatal("a transaction on a dead server succeeded")
	}
	if err := db.Ping(t.Context()); err == nil {
		t.Fatal("a dead server answers a ping")
	}
	server.Restart(t)
	for i := range 12 {
		if err := db.InTx(t.Context(), func(ctx context.Context, tx *Tx) error { return insert(ctx, tx, fmt.Sprint(i), 1) }); err != nil {
			t.Fatalf("transaction %d after the restart: %v", i, err)
		}
	}
}
