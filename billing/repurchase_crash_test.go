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

	"tollgate/billing/notify"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
	"tollgate/internal/usage"
)

// repurchaseChild names the variable that makes the test binary the program that
// is killed: its value is the JSON of a repurchaseJob.
const repurchaseChild = "BILLING_TEST_REPURCHASE_CHILD"

// repurchaseJob is what the child does: use the packages down, tell of the
// crossing, let the repurchase act, and so on without end, a line for each.
type repurchaseJob struct {
	SQL   sqldb.Options
	Store string // file of grants; beside it, one of what was used
	Sub   string
}

// usedStore is a fileStore that also knows what was used.
type usedStore struct{ fileStore }

func (s usedStore) lots() ([]lot.Grant, error) {
	b, err := os.ReadFile(s.path)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var lots []lot.Grant
	seen := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		var g lot.Grant
		if json.Unmarshal([]byte(line), &g) == nil && !seen[g.ID] { // a line cut by the kill is no grant
			seen[g.ID] = true
			lots = append(lots, g)
		}
	}
	return lots, nil
}

// Read implements QuotaReader.
func (s usedStore) Read(_ context.Context, subscription string) (lot.Balance, error) {
	lots, err := s.lots()
	if err != nil {
		return lot.Balance{}, err
	}
	info, err := os.Stat(s.path + ".used") // its length is what was used
	left := int64(0)
	if err == nil {
		left = info.Size()
	}
	b := lot.Balance{Subscription: subscription}
	for _, g := range lots {
		used := min(left, g.Amount)
		left -= used
		b.Lots = append(b.Lots, lot.State{Grant: g, State: "active", Used: used, Remaining: g.Amount - used})
	}
	return b, nil
}

// use appends what was used in one write.
func (s usedStore) use(n int64) error {
	f, err := os.OpenFile(s.path+".used", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(make([]byte, n))
	return err
}

var crashLevel = Level{LevelAbsolute, 200}

// step is one turn of the child, and what the test does at the end: bring the
// quota below the level if it is above, tell of it, and let the repurchase act
// until it rests.
func repurchaseStep(ctx context.Context, s *Service, store usedStore, c *clock, sub string, use bool) (int, error) {
	b, err := store.Read(ctx, sub)
	if err != nil {
		return 0, err
	}
	left, total := watched(&b, usage.Call)
	if use && !crashLevel.Reached(left, total) {
		if err := store.use(left - 150); err != nil {
			return 0, err
		}
		left = 150
	}
	arm := len(b.Lots) // one more with each purchase
	if crashLevel.Reached(left, total) {
		_, err = s.RecordCrossings(ctx, []Crossing{{
			ID: fmt.Sprintf("%s/call/absolute-200/%d", sub, arm), Subscription: sub, Unit: usage.Call, Level: crashLevel,
			Arm: int64(arm), Remaining: left, Total: total, At: c.now(),
		}})
		if err != nil {
			return 0, err
		}
	}
	for range 100 {
		if _, err := s.RepurchaseDue(ctx); err != nil {
			return 0, err
		}
		if _, err := s.DeliverDue(ctx); err != nil {
			return 0, err
		}
		r, err := s.Repurchase(ctx, sub)
		if err != nil {
			return 0, err
		}
		if r.Pending == "" {
			return arm, nil
		}
		c.advance(time.Second)
	}
	return 0, fmt.Errorf("the repurchase does not come to rest")
}

func runRepurchaseChild() {
	var job repurchaseJob
	if err := json.Unmarshal([]byte(os.Getenv(repurchaseChild)), &job); err != nil {
		fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := sqldb.Open(ctx, job.SQL)
	if err != nil {
		fail(err)
	}
	c := &clock{t: time.Now()}
	s, store, err := repurchaseService(ctx, db, job.Store, c)
	if err != nil {
		fail(err)
	}
	for {
		arm, err := repurchaseStep(ctx, s, store, c, job.Sub, true)
		if err != nil {
			fail(err)
		}
		fmt.Println(arm)
	}
}

func repurchaseService(ctx context.Context, db *sqldb.DB, path string, c *clock) (*Service, usedStore, error) {
	store := usedStore{fileStore{path}}
	n, err := notify.New(ctx, notify.Options{DB: db, Now: c.now})
	if err != nil {
		return nil, store, err
	}
	s, err := New(ctx, Options{DB: db, Lots: store, Now: c.now, Notices: n, Quota: store})
	return s, store, err
}

// TestRepurchaseKill kills a process that repurchases with SIGKILL at random
// moments. In the end every crossing has exactly one order, one receipt and one
// notice, and the money is that of the orders.
func TestRepurchaseKill(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]sqldb.Options{"sqlite": {Dir: t.TempDir()}, "postgres": {URL: postgres.URL(t)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repurchaseKills(t, o, 8)
		})
	}
}

func repurchaseKills(t *testing.T, o sqldb.Options, rounds int) {
	f := newFixture(t, o)
	path := filepath.Join(t.TempDir(), "lots")
	c := &clock{t: time.Now()}
	s, store, err := repurchaseService(t.Context(), f.db, path, c)
	if err != nil {
		t.Fatal(err)
	}
	f.Service = s
	f.topUp(t, "b", "100000")
	sub := f.buy(t, "b", f.spec(t, perCall()), 1).Subscription
	if _, err := f.GrantAgency(t.Context(), "b", RepurchasePolicy, "b"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.SetAlerts(t.Context(), AlertChange{Account: "b", Enabled: true, Level: crashLevel}); err != nil {
		t.Fatal(err)
	}
	in := RepurchaseInput{Subscription: sub, Level: crashLevel, DayLimit: maxDayLimit, Agreement: RepurchaseAgreement}
	if _, err := f.SetRepurchase(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := repurchaseStep(t.Context(), s, store, c, sub, false); err != nil { // the look that setting it up asks for
		t.Fatal(err)
	}
	for range rounds {
		crashRepurchase(t, repurchaseJob{SQL: o, Store: path, Sub: sub}, 1+rand.IntN(5))
	}
	if _, err := f.db.Exec(t.Context(), `UPDATE billing_ledger_account SET updated_ms = updated_ms`); err != nil {
		t.Fatal(err)
	}
	if _, err := repurchaseStep(t.Context(), s, store, c, sub, false); err != nil {
		t.Fatal(err)
	}
	orders := f.repurchased(t, "b")
	tries, _, err := f.RepurchaseTries(t.Context(), sub, Page{Limit: maxPage})
	if err != nil {
		t.Fatal(err)
	}
	crossings, _, err := f.Crossings(t.Context(), CrossingFilter{Subscription: sub, Page: Page{Limit: maxPage}})
	if err != nil {
		t.Fatal(err)
	}
	perCrossing := map[string]int{}
	for _, try := range tries {
		if try.Code != "" {
			t.Errorf("a try failed: %+v", try)
		}
		perCrossing[try.Crossing]++
	}
	for _, x := range crossings {
		if perCrossing[x.ID] != 1 {
			t.Errorf("%d orders for crossing %s", perCrossing[x.ID], x.ID)
		}
	}
	kinds := map[string]int{}
	for _, k := range f.kinds(t, "b") {
		kinds[k]++
	}
	if len(orders) != len(crossings) || kinds["repurchase_succeeded"] != len(orders) || kinds["low_quota"] != len(crossings) {
		t.Errorf("%d crossings, %d orders, messages %v", len(crossings), len(orders), kinds)
	}
	price := money.MustParse("9.90")
	f.wantBalance(t, "b", (money.MustParse("100000") - price*money.Amount(len(orders)+1)).String())
	f.wantSound(t)
	t.Logf("%d orders over %d kills", len(orders), rounds)
}

// crashRepurchase runs the child until it came to rest n times, and kills it a
// random moment later.
func crashRepurchase(t *testing.T, job repurchaseJob, n int) {
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
	cmd.Env = append(os.Environ(), repurchaseChild+"="+string(env))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if got++; got == n {
			time.AfterFunc(rand.N(15*time.Millisecond), func() { cmd.Process.Kill() })
		}
	}
	if err := cmd.Wait(); err == nil || got < n {
		t.Fatalf("the child ended by itself after %d repurchases: %v", got, err)
	}
}
