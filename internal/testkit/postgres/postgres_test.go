package postgres

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { Main(m) }

func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	a, b := URL(t), URL(t)
	run(t, a, "CREATE TABLE only_here (x INT)")
	run(t, b, "CREATE TABLE only_here (x INT)") // the name is free in the other one
	run(t, a, "INSERT INTO only_here VALUES (1)")
}

func TestDataSurvivesAKill(t *testing.T) {
	t.Parallel()
	s := Start(t)
	url := s.Database(t)
	run(t, url, "CREATE TABLE kept (x INT)")
	s.Kill(t)
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		conn.Close(t.Context())
		t.Fatal("a killed server answers")
	}
	s.Restart(t)
	run(t, url, "INSERT INTO kept VALUES (1)")
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Fatalf("%s is still there: %v", s.dir, err)
	}
}

func run(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}
