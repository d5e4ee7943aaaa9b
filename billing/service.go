package billing

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations are the tables of this package.
var Migrations = sqldb.Migrations{Owner: "billing", FS: migrationFiles}

// Options are what a Service needs and may be told.
type Options struct {
	DB   *sqldb.DB
	Lots LotStore

	// Watches takes the thresholds; nil leaves them undelivered.
	Watches WatchStore

	Hooks Hooks

	// Notices is the message centre; nil tells nobody anything.
	Notices Notices
	// Quota tells a repurchase how much to buy; nil leaves repurchases due.
	Quota QuotaReader
	// Pace gives notices their "lasts about …"; nil leaves it out.
	Pace PaceReader
	// Products names products in notices and tells whether they are on sale;
	// nil: they have no names and all are.
	Products Catalogue
	// Region of this installation, for notices (ALERT-18).
	Region string

	// Now is the clock; default time.Now.
	Now func() time.Time

	// Logger gets deliveries that failed; nil discards them.
	Logger *slog.Logger

	// OnDemandCredit is the credit of an on-demand subscription in units, where
	// its spec names none; default 2^53-1, in effect none.
	OnDemandCredit int64

	// StoreAway is what gateways do with a package while the quota store is
	// away, where its spec does not say; default: stop. Packages keep what held
	// when they were bought.
	StoreAway lot.Away

	// MaxLots is how many lots that are not over a subscription may have;
	// default 5000, which is also the most: each report of a gateway that draws
	// on it names all of them, and a step in Redis takes no more than 8000.
	MaxLots int64

	// DeliveryTimeout bounds one ApplyGrant; default 5 s.
	DeliveryTimeout time.Duration

	// PollEvery is how often Run looks for deliveries left by another process
	// or by one that died; default 1 s.
	PollEvery time.Duration
}

// Service is the billing domain on one database. It is safe for concurrent use,
// also by several processes on one PostgreSQL.
type Service struct {
	db      *sqldb.DB
	lots    LotStore
	watches WatchStore
	hooks   Hooks

	notices  Notices
	quota    QuotaReader
	pace     PaceReader
	products Catalogue
	region   string

	now     func() time.Time
	log     *slog.Logger
	credit  int64
	away    lot.Away
	maxLots int64
	timeout time.Duration
	poll    time.Duration
	kick    chan struct{} // wakes Run
	buyer   chan struct{} // wakes RunRepurchases
}

// New returns a Service after bringing its tables to the newest schema.
// Deliveries run in the background only while Run does.
func New(ctx context.Context, o Options) (*Service, error) {
	switch {
	case o.DB == nil:
		return nil, errors.New("billing: Options.DB is not set")
	case o.Lots == nil:
		return nil, errors.New("billing: Options.Lots is not set")
	case o.OnDemandCredit < 0 || o.OnDemandCredit > lot.MaxAmount:
		return nil, errors.New("billing: Options.OnDemandCredit is outside 0..2^53-1")
	}
	if o.MaxLots <= 0 || o.MaxLots > defaultMaxLots {
		o.MaxLots = defaultMaxLots
	}
	if err := o.StoreAway.Validate(); err != nil {
		return nil, fmt.Errorf("billing: Options.StoreAway: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnDemandCredit == 0 {
		o.OnDemandCredit = lot.MaxAmount
	}
	if o.DeliveryTimeout <= 0 {
		o.DeliveryTimeout = 5 * time.Second
	}
	if o.PollEvery <= 0 {
		o.PollEvery = time.Second
	}
	if err := o.DB.Migrate(ctx, Migrations); err != nil {
		return nil, err
	}
	return &Service{
		db: o.DB, lots: o.Lots, watches: o.Watches, hooks: o.Hooks,
		notices: o.Notices, quota: o.Quota, pace: o.Pace, products: o.Products, region: o.Region, now: o.Now, log: o.Logger,
		credit: o.OnDemandCredit, away: o.StoreAway, maxLots: o.MaxLots, timeout: o.DeliveryTimeout, poll: o.PollEvery,
		kick: make(chan struct{}, 1), buyer: make(chan struct{}, 1),
	}, nil
}

// defaultMaxLots is Options.MaxLots.
const defaultMaxLots = 5000

// moneyTimeout bounds a transaction that goes on after its caller left.
const moneyTimeout = 30 * time.Second

// moneyTx runs fn in a transaction that does not end half-way when the caller
// goes away: a request that is cancelled during COMMIT would leave the caller
// not knowing whether the money moved. Rows are locked in the order in which
// they are named in the package's README.
func (s *Service) moneyTx(ctx context.Context, fn func(ctx context.Context, tx *sqldb.Tx) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), moneyTimeout)
	defer cancel()
	return s.db.InLockingTx(ctx, fn)
}

// changed calls the hooks for a change of what DirectorySubscriptions returns.
func (s *Service) changed(ctx context.Context, tx *sqldb.Tx) error {
	if s.hooks.Committed != nil {
		tx.AfterCommit(s.hooks.Committed)
	}
	if s.hooks.Changed != nil {
		return s.hooks.Changed(ctx, tx)
	}
	return nil
}

// instant returns the current time as it is stored, in whole milliseconds.
func (s *Service) instant() time.Time { return s.now().UTC().Truncate(time.Millisecond) }
