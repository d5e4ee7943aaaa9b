package billing

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
)

// crashChild names the variable that makes the test binary the program that is
// killed: its value is the JSON of a crashJob.
const crashChild = "BILLING_TEST_CRASH_CHILD"

// crashJob is what the child does: buy without end, one package at a time,
// under the keys prefix-0, prefix-1, …, and print each key that was answered.
type crashJob struct {
	SQL    sqldb.Options
	Store  string // file that stands for the quota store
	Spec   string
	Prefix string
}

// fileStore is a LotStore that outlives a process: each grant is one line,
// appended by one write.
type fileStore struct{ path string }

func (s fileStore) ApplyGrant(_ context.Context, g lot.Grant) error {
	line, err := json.Marshal(g)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}

// grants returns what was applied, by lot.
func (s fileStore) grants(t *testing.T) map[string]int64 {
	t.Helper()
	b, err := os.ReadFile(s.path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		var g lot.Grant
		if err := json.Unmarshal([]byte(line), &g); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got[g.ID] = g.Amount
	}
	return got
}

func runCrashChild() {
	var job crashJob
	if err := json.Unmarshal([]byte(os.Getenv(crashChild)), &job); err != nil {
		fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := sqldb.Open(ctx, job.SQL)
	if err != nil {
		fail(err)
	}
	s, err := New(ctx, Options{DB: db, Lots: fileStore{job.Store}})
	if err != nil {
		fail(err)
	}
	go s.Run(ctx)
	for i := 0; ; i++ {
		k := fmt.Sprintf("%s-%d", job.Prefix, i)
		if _, err := s.Purchase(ctx, PurchaseInput{Account: "buyer", Spec: job.Spec, Quantity: 1, IdempotencyKey: k}); err != nil {
			fail(err)
		}
		fmt.Println(k)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKill kills a buying process with SIGKILL at random moments. Whatever it
// had been answered must be in the books, with its lot in the quota store once
// the next process has run; and the money must be the price of the orders.
func TestKill(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]sqldb.Options{"sqlite": {Dir: t.TempDir()}, "postgres": {URL: postgres.URL(t)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			killRounds(t, o, 8)
		})
	}
}

func killRounds(t *testing.T, o sqldb.Options, rounds int) {
	f := newFixture(t, o)
	spec := f.spec(t, perCall())
	f.topUp(t, "buyer", "1000000000")
	store := fileStore{filepath.Join(t.TempDir(), "lots")}
	answered := map[string]bool{}
	for round := range rounds {
		job := crashJob{SQL: o, Store: store.path, Spec: spec.ID, Prefix: fmt.Sprintf("round%d", round)}
		for _, key := range buyUntilKilled(t, job, 1+rand.IntN(12)) {
			answered[key] = true
		}
	}
	// PostgreSQL may still be ending the last purchase: it holds the buyer's row
	// until it is committed or rolled back.
	if _, err := f.db.Exec(t.Context(), `UPDATE billing_ledger_account SET updated_ms = updated_ms`); err != nil {
		t.Fatal(err)
	}
	// The next process: all it has is the database and the quota store.
	s, err := New(t.Context(), Options{DB: f.db, Lots: store})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeliverDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Service = s
	orders, next, err := s.Orders(t.Context(), OrderFilter{Account: "buyer", Page: Page{Limit: maxPage}})
	if err != nil || next != "" {
		t.Fatalf("orders: %v, more: %q", err, next)
	}
	have := store.grants(t)
	for _, o := range orders {
		delete(answered, o.IdempotencyKey)
		if o.State != OrderCompleted {
			t.Errorf("order %s is %s", o.ID, o.State)
		}
		lots := f.orderLots(t, o.ID)
		if len(lots) != 1 || have[lots[0].ID] != 1000 {
			t.Errorf("order %s: %d lots, %d units in the store", o.ID, len(lots), have[lots[0].ID])
		}
	}
	if len(answered) > 0 {
		t.Errorf("answered, but not in the books: %v", answered)
	}
	if len(have) != len(orders) {
		t.Errorf("%d lots in the store for %d orders", len(have), len(orders))
	}
	spent, err := spec.Price.Mul(int64(len(orders)))
	if err != nil {
		t.Fatal(err)
	}
	f.wantBalance(t, "buyer", (money.MustParse("1000000000") - spent).String())
	f.wantSound(t)
	t.Logf("%d orders over %d kills", len(orders), rounds)
}

// buyUntilKilled runs the child, kills it a random moment after it was answered
// n times, and returns the keys it had printed.
func buyUntilKilled(t *testing.T, job crashJob, n int) []string {
	t.Helper()
	env, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), crashChild+"="+string(env))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var got []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		got = append(got, lines.Text())
		if len(got) == n {
			// Anywhere within the next purchases, while their output is read.
			time.AfterFunc(rand.N(6*time.Millisecond), func() { cmd.Process.Kill() })
		}
	}
	if err := cmd.Wait(); err == nil || len(got) < n {
		t.Fatalf("the child ended by itself after %d purchases: %v", len(got), err)
	}
	return got
}
