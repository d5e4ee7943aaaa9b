package recovery

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
	"tollgate/internal/testkit/redis"
	"tollgate/internal/usage"
	"tollgate/quota"
	"tollgate/quota/redisstore"
)

// quiet drops the Redis client's own log: a server is stopped here on purpose.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func TestMain(m *testing.M) {
	goredis.SetLogger(quiet{})
	postgres.Main(m)
}

// learn is the learning time of these tests: leases are as short.
const learn = 1500 * time.Millisecond

// books are grants as billing keeps them.
type books struct {
	mu   sync.Mutex
	lots []Lot
}

func (b *books) sell(g lot.Grant, delivered bool) lot.Grant {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lots = append(b.lots, Lot{g, delivered})
	return g
}

// Regrant implements Grants for lots that were sold in the order of their
// subscriptions.
func (b *books) Regrant(ctx context.Context, restore func(context.Context, string, []Lot) error) (int, error) {
	b.mu.Lock()
	lots := append([]Lot(nil), b.lots...)
	b.mu.Unlock()
	by, order := map[string][]Lot{}, []string{}
	for _, l := range lots {
		if by[l.Subscription] == nil {
			order = append(order, l.Subscription)
		}
		by[l.Subscription] = append(by[l.Subscription], l)
	}
	for _, sub := range order {
		if err := restore(ctx, sub, by[sub]); err != nil {
			return 0, err
		}
	}
	return len(lots), nil
}

// bed is a real Redis with its books.
type bed struct {
	*books
	t     *testing.T
	redis *redis.Server
	store *redisstore.Store
	db    *sqldb.DB
}

// onBoth runs a test with the book in each database.
func onBoth(t *testing.T, test func(t *testing.T, b *bed)) {
	t.Helper()
	for name, open := range map[string]func(t *testing.T) sqldb.Options{
		"sqlite":   func(t *testing.T) sqldb.Options { return sqldb.Options{Dir: t.TempDir()} },
		"postgres": func(t *testing.T) sqldb.Options { return sqldb.Options{URL: postgres.URL(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, err := sqldb.Open(t.Context(), open(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			server := redis.Start(t, redis.Options{AppendOnly: "always"})
			store, err := redisstore.Open(t.Context(), server.URL(), redisstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			test(t, &bed{books: &books{}, t: t, redis: server, store: store, db: db})
		})
	}
}

// keeper returns a keeper of the bed's store, or of what stands before it.
func (b *bed) keeper(store Store, change ...func(*Options)) *Keeper {
	b.t.Helper()
	o := Options{DB: b.db, Store: store, Grants: b.books, Learn: learn, Log: slog.New(slog.NewTextHandler(b.t.Output(), nil))}
	for _, fn := range change {
		fn(&o)
	}
	k, err := New(b.t.Context(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	return k
}

// flush empties Redis.
func (b *bed) flush() {
	b.t.Helper()
	if err := b.redis.Client().FlushAll(b.t.Context()).Err(); err != nil {
		b.t.Fatal(err)
	}
}

// buy sells a lot of so many calls and applies it, as a delivery does.
func (b *bed) buy(k *Keeper, sub, id string, n int64) {
	b.t.Helper()
	g := b.sell(lot.Grant{ID: id, Subscription: sub, Unit: usage.Call, Amount: n, Effective: time.Now().Add(-time.Hour).Truncate(time.Millisecond), Version: 1}, true)
	if _, err := b.store.ApplyGrant(b.t.Context(), g); err != nil {
		b.t.Fatal(err)
	}
	if err := k.Granted(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// lot reads the figures of one lot.
func (b *bed) lot(sub, id string) lot.State {
	b.t.Helper()
	bal, err := b.store.Read(b.t.Context(), sub)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, l := range bal.Lots {
		if l.ID == id {
			return l
		}
	}
	return lot.State{}
}

// mark reads the store's mark.
func (b *bed) mark() int64 {
	b.t.Helper()
	m, err := b.store.Mark(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return m.Generation
}

// node is an engine whose records are kept nowhere: its counters are the truth.
type node struct{ *quota.Engine }

// Record implements quota.Recorder.
func (node) Record(*usage.Record) error { return nil }

func (b *bed) node(name string, boot uint64) node {
	b.t.Helper()
	e, err := quota.New(quota.Config{
		Incarnation: quota.Incarnation{Node: name, Boot: boot}, TTL: learn, FlushEvery: 100 * time.Millisecond, AnswerWait: 10 * time.Second, SyncTimeout: 10 * time.Second,
	}, b.store, node{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = e.Close(context.WithoutCancel(b.t.Context())) })
	return node{e}
}

// call makes one call.
func (n node) call(ctx context.Context, sub string) error {
	h, err := n.Admit(ctx, sub, []usage.Unit{usage.Call}, usage.Units{usage.Call: 1}, time.Now())
	if err != nil {
		return err
	}
	defer h.Free()
	return h.Settle(&usage.Record{Subscription: sub, Units: usage.Units{usage.Call: 1}})
}
