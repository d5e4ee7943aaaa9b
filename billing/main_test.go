package billing

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
	"tollgate/internal/usage"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashChild) != "" {
		runCrashChild()
	}
	if os.Getenv(repurchaseChild) != "" {
		runRepurchaseChild()
	}
	// The model of one round is some thirty transactions: a few rounds each time,
	// more with -rapid.checks.
	flag.Set("rapid.checks", "15")
	postgres.Main(m)
}

// start is when the tests' clocks begin: in Beijing already the first of
// December.
var start = time.Date(2026, 11, 30, 18, 30, 15, 250_000_000, time.UTC)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// quotaStore is a LotStore that keeps to its contract and can be made to fail
// before it has applied a grant, or after, when only its answer is lost.
type quotaStore struct {
	mu      sync.Mutex
	grants  map[string]lot.Grant
	calls   int
	changes map[string]int // how often each lot took effect
	before  error
	after   error
	refused string           // a lot that is always refused
	used    map[string]int64 // by subscription, drawn from its lots in the order of their ids
	down    error            // what Read answers
	during  func(lot.Grant)  // called once, while a grant is under way
}

func newQuotaStore() *quotaStore {
	return &quotaStore{grants: map[string]lot.Grant{}, changes: map[string]int{}, used: map[string]int64{}}
}

// Read implements QuotaReader.
func (q *quotaStore) Read(_ context.Context, subscription string) (lot.Balance, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := lot.Balance{Subscription: subscription}
	left := q.used[subscription]
	for _, id := range slices.Sorted(maps.Keys(q.grants)) {
		g := q.grants[id]
		if g.Subscription != subscription || g.Void {
			continue
		}
		used := min(left, g.Amount)
		left -= used
		b.Lots = append(b.Lots, lot.State{Grant: g, State: "active", Granted: g.Amount, Remaining: g.Amount - used, Used: used})
	}
	return b, q.down
}

// use makes a subscription have used n units more.
func (q *quotaStore) use(subscription string, n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used[subscription] += n
}

// setDown makes Read fail, or work again.
func (q *quotaStore) setDown(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.down = err
}

// Used implements PaceReader: everything was used in the last day.
func (q *quotaStore) Used(_ context.Context, subscription string, _ usage.Unit, from, to time.Time) (int64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used[subscription], nil
}

func (q *quotaStore) ApplyGrant(ctx context.Context, g lot.Grant) error {
	q.mu.Lock()
	during := q.during
	q.during = nil
	q.mu.Unlock()
	if during != nil {
		during(g)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls++
	if g.ID == q.refused {
		return errStoreDown
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if q.before != nil {
		return q.before
	}
	if err := g.Validate(); err != nil {
		return err
	}
	if have, ok := q.grants[g.ID]; !ok || g.Version > have.Version {
		q.grants[g.ID] = g
		q.changes[g.ID]++
	} else if g.Version == have.Version && g != have {
		return fmt.Errorf("version %d of lot %s came as %v and as %v", g.Version, g.ID, have, g)
	}
	return q.after
}

func (q *quotaStore) fail(before, after error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.before, q.after = before, after
}

func (q *quotaStore) empty() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.grants = map[string]lot.Grant{}
}

func (q *quotaStore) has(id string) (lot.Grant, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	g, ok := q.grants[id]
	return g, ok
}

func (q *quotaStore) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.grants)
}

var errStoreDown = errors.New("the quota store is down")

// fixture is a Service on an empty database with what surrounds it.
type fixture struct {
	*Service
	db        *sqldb.DB
	store     *quotaStore
	watch     *watches
	notices   *notify.Service
	clock     *clock
	changed   int    // calls of the hook within the transaction
	committed int    // calls of the hook after it
	refuse    error  // what the hook within the transaction answers
	onChange  func() // called by the hook within the transaction
	hooks     sync.Mutex
}

// onBoth runs a test on an empty database of each engine.
func onBoth(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Helper()
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newFixture(t, sqldb.Options{Dir: t.TempDir()}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newFixture(t, sqldb.Options{URL: postgres.URL(t)}))
	})
}

func newFixture(t *testing.T, o sqldb.Options) *fixture {
	t.Helper()
	db, err := sqldb.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	f := &fixture{db: db, store: newQuotaStore(), watch: &watches{}, clock: &clock{t: start}}
	if f.notices, err = notify.New(t.Context(), notify.Options{DB: db, Now: f.clock.now}); err != nil {
		t.Fatal(err)
	}
	f.restart(t)
	return f
}

// restart replaces the Service by a fresh one, as after a crash.
func (f *fixture) restart(t testing.TB) {
	t.Helper()
	s, err := New(context.WithoutCancel(t.Context()), Options{
		DB: f.db, Lots: f.store, Now: f.clock.now, PollEvery: 5 * time.Millisecond,
		Watches: f.watch, Notices: f.notices, Quota: f.store, Pace: f.store, Region: "cn-north-4",
		Hooks: Hooks{
			Changed: func(ctx context.Context, tx *sqldb.Tx) error {
				f.hooks.Lock()
				defer f.hooks.Unlock()
				f.changed++
				if f.onChange != nil {
					f.onChange()
				}
				return f.refuse
			},
			Committed: func() {
				f.hooks.Lock()
				defer f.hooks.Unlock()
				f.committed++
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Service = s
}

// perCall is a package of 1000 calls for 9.90 that ends after a month.
func perCall() SpecInput {
	return SpecInput{
		Product: "weather", Seller: "sky", Name: "1000 calls", Mode: directory.ModePerCall,
		Quotas: []Quota{{usage.Call, 1000}}, Price: money.MustParse("9.90"), Validity: Validity{Months: 1}, Actor: "seller",
	}
}

// tokens is a package of input and output tokens that stops when used up.
func tokens() SpecInput {
	return SpecInput{
		Product: "chat", Seller: "mind", Name: "tokens", Mode: directory.ModeUsedUpStop,
		Quotas: []Quota{{usage.OutputToken, 50_000}, {usage.InputToken, 200_000}}, Price: money.MustParse("5"), Actor: "seller",
	}
}

func (f *fixture) spec(t testing.TB, in SpecInput) Spec {
	t.Helper()
	spec, err := f.CreateSpec(context.WithoutCancel(t.Context()), in)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

var keys struct {
	sync.Mutex
	n int
}

// key returns an idempotency key that was not used before.
func key() string {
	keys.Lock()
	defer keys.Unlock()
	keys.n++
	return fmt.Sprintf("key-%d", keys.n)
}

func (f *fixture) topUp(t testing.TB, account, amount string) Entry {
	t.Helper()
	e, err := f.TopUp(t.Context(), TopUpInput{Account: account, Amount: money.MustParse(amount), Actor: "operator", IdempotencyKey: key()})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (f *fixture) buy(t testing.TB, account string, spec Spec, quantity int64) Order {
	t.Helper()
	o, err := f.Purchase(t.Context(), PurchaseInput{Account: account, Spec: spec.ID, Quantity: quantity, Actor: account, IdempotencyKey: key()})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (f *fixture) wantBalance(t testing.TB, account, want string) {
	t.Helper()
	b, err := f.Balance(t.Context(), account)
	if err != nil || b.Available != money.MustParse(want) {
		t.Fatalf("balance of %s = %s, %v, want %s", account, b.Available, err, want)
	}
}

// wantSound proves the books.
func (f *fixture) wantSound(t testing.TB) Verification {
	t.Helper()
	v, err := f.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range v.Faults {
		t.Error(fault)
	}
	return v
}

// orderLots returns the lots of an order, the oldest first.
func (f *fixture) orderLots(t testing.TB, order string) []Lot {
	t.Helper()
	lots, _, err := f.Lots(t.Context(), LotFilter{Order: order, Page: Page{Limit: maxPage}})
	if err != nil {
		t.Fatal(err)
	}
	for i, j := 0, len(lots)-1; i < j; i, j = i+1, j-1 {
		lots[i], lots[j] = lots[j], lots[i]
	}
	return lots
}

// watches is a WatchStore that keeps the newest version of each set.
type watches struct {
	mu   sync.Mutex
	sets map[string]Thresholds // by subscription and unit
}

func (w *watches) SetThresholds(_ context.Context, t Thresholds) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sets == nil {
		w.sets = map[string]Thresholds{}
	}
	if key := t.Subscription + "/" + t.Unit.String(); w.sets[key].Version < t.Version {
		w.sets[key] = t
	}
	return nil
}

// levels returns what is watched.
func (w *watches) levels(subscription string, unit usage.Unit) []Level {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.sets[subscription+"/"+unit.String()]
	return t.All()
}
