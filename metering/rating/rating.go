package rating

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/jobs"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
	"tollgate/metering"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations are the tables of this package.
var Migrations = sqldb.Migrations{Owner: "rating", FS: migrationFiles}

// Usage answers what was used: a usage store.
type Usage interface {
	Query(ctx context.Context, in metering.QueryInput) (metering.Result, error)
}

// Subscriptions tells which subscriptions there are, closed ones included as
// long as their last calls may be rated: billing.
type Subscriptions interface {
	DirectorySubscriptions(ctx context.Context) ([]directory.Subscription, error)
}

// Options are what a Rater needs.
type Options struct {
	DB            *sqldb.DB
	Usage         Usage
	Subscriptions Subscriptions
	// Grace is how long after its end an hour is sealed. Default 10m.
	Grace time.Duration
	// Lookback is how long after its end an hour is compared with the usage
	// store. Default 30 days, as long as billing tells of closed subscriptions.
	Lookback time.Duration
	Now      func() time.Time // business clock; default time.Now
	Log      *slog.Logger     // default: discarded
}

// Rater seals hours. It is safe for concurrent use, by several processes too:
// of two that seal one hour, one does.
type Rater struct {
	o           Options
	sealed      atomic.Int64
	adjustments atomic.Int64

	beforeCommit func() error // in tests: a crash
}

// New returns a Rater after bringing its tables to the newest schema.
func New(ctx context.Context, o Options) (*Rater, error) {
	if o.DB == nil || o.Usage == nil || o.Subscriptions == nil {
		return nil, errors.New("rating: DB, Usage and Subscriptions must be set")
	}
	if o.Grace <= 0 {
		o.Grace = 10 * time.Minute
	}
	if o.Lookback <= 0 {
		o.Lookback = 30 * 24 * time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := o.DB.Migrate(ctx, Migrations); err != nil {
		return nil, err
	}
	return &Rater{o: o}, nil
}

// Stats are what this process did since it began.
type Stats struct{ Sealed, Adjustments int64 }

// Stats returns what this process did.
func (r *Rater) Stats() Stats { return Stats{r.sealed.Load(), r.adjustments.Load()} }

// Job seals each hour once it is due, and corrects earlier ones.
func (r *Rater) Job() jobs.Job {
	return jobs.Job{Name: "rating", Schedule: late{r.o.Grace}, CatchUp: true, Run: func(ctx context.Context, at time.Time) error {
		hour := at.Add(-r.o.Grace - time.Hour)
		if err := r.Seal(ctx, hour); err != nil {
			return err
		}
		return r.Correct(ctx, hour)
	}}
}

// late is due a time after each hour.
type late struct{ by time.Duration }

func (l late) Last(t time.Time) time.Time {
	return jobs.Every(time.Hour).Last(t.Add(-l.by)).Add(l.by)
}

func (l late) Next(t time.Time) time.Time {
	return jobs.Every(time.Hour).Next(t.Add(-l.by)).Add(l.by)
}

// rated returns the on-demand subscriptions by id.
func (r *Rater) rated(ctx context.Context) (map[string]directory.Subscription, error) {
	list, err := r.o.Subscriptions.DirectorySubscriptions(ctx)
	if err != nil {
		return nil, fmt.Errorf("rating: list the subscriptions: %w", err)
	}
	out := make(map[string]directory.Subscription)
	for _, s := range list {
		if s.Mode == directory.ModeOnDemand || s.Mode == directory.ModeOnDemandPackage {
			out[s.ID] = s
		}
	}
	return out, nil
}

// Seal freezes what was used in the hour that begins at hour. An hour that is
// sealed stays as it is.
func (r *Rater) Seal(ctx context.Context, hour time.Time) error {
	hour = hour.UTC()
	if !hour.Equal(hour.Truncate(time.Hour)) || hour.Add(time.Hour).After(r.o.Now()) {
		return fmt.Errorf("rating: %s is not the beginning of an hour that has ended", hour.Format(time.RFC3339))
	}
	subs, err := r.rated(ctx)
	if err != nil {
		return err
	}
	res, err := r.o.Usage.Query(ctx, metering.QueryInput{From: hour, To: hour.Add(time.Hour), GroupBy: metering.GroupSubscription})
	if err != nil {
		return fmt.Errorf("rating: %w", err)
	}
	n := 0
	err = r.o.DB.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		n = 0
		done, err := tx.Exec(ctx, "INSERT INTO rating_hour (hour, sealed, as_of) VALUES ($1, $2, $3) ON CONFLICT (hour) DO NOTHING",
			sqldb.Ms(hour), sqldb.Ms(r.o.Now()), sqldb.Ms(res.AsOf))
		if err != nil {
			return err
		}
		if rows, err := done.RowsAffected(); rows == 0 || err != nil {
			return err // it is sealed
		}
		for i := range res.Rows {
			sub, ok := subs[res.Rows[i].Key]
			if !ok {
				continue
			}
			for u, q := range res.Rows[i].Overrun {
				if q == 0 {
					continue
				}
				b := usage.Bucket{Account: sub.Account, Subscription: sub.ID, Product: sub.Product, Unit: usage.Unit(u), Hour: hour, Quantity: q}
				if err := r.add(ctx, tx, &b); err != nil {
					return err
				}
				n++
			}
		}
		return r.commit()
	})
	if err != nil {
		return fmt.Errorf("rating: seal %s: %w", hour.Format(time.RFC3339), err)
	}
	r.sealed.Add(int64(n))
	return nil
}

func (r *Rater) commit() error {
	if r.beforeCommit != nil {
		return r.beforeCommit()
	}
	return nil
}

func (r *Rater) add(ctx context.Context, tx *sqldb.Tx, b *usage.Bucket) error {
	_, err := tx.Exec(ctx, `INSERT INTO rating_bucket (hour, subscription, unit, seq, account, product, quantity, sealed, taken)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0)`,
		sqldb.Ms(b.Hour), b.Subscription, b.Unit.String(), b.Seq, b.Account, b.Product, b.Quantity, sqldb.Ms(r.o.Now()))
	return err
}

// Correct compares the sealed hours up to last, as far back as Lookback, with
// the usage store, and adds an adjustment where they differ.
func (r *Rater) Correct(ctx context.Context, last time.Time) error {
	last = last.UTC()
	var first int64
	err := r.o.DB.QueryRow(ctx, "SELECT COALESCE(min(hour), 0) FROM rating_hour WHERE hour >= $1 AND hour <= $2", sqldb.Ms(last.Add(-r.o.Lookback)), sqldb.Ms(last)).Scan(&first)
	if err != nil {
		return fmt.Errorf("rating: %w", err)
	}
	if first == 0 {
		return nil // nothing is sealed there
	}
	subs, err := r.rated(ctx)
	if err != nil {
		return err
	}
	from, to := sqldb.Time(first), last.Add(time.Hour)
	// One question over the whole time tells which subscriptions differ at all.
	res, err := r.o.Usage.Query(ctx, metering.QueryInput{From: from, To: to, GroupBy: metering.GroupSubscription})
	if err != nil {
		return fmt.Errorf("rating: %w", err)
	}
	used := make(map[string]usage.Units, len(res.Rows))
	for i := range res.Rows {
		used[res.Rows[i].Key] = res.Rows[i].Overrun
	}
	held := map[string]usage.Units{}
	sums, err := sums(ctx, r.o.DB, "", from, to)
	if err != nil {
		return err
	}
	for at, n := range sums {
		u := held[at.subscription]
		u[at.unit] += n
		held[at.subscription] = u
	}
	for id, sub := range subs {
		if used[id] == held[id] {
			continue
		}
		if err := r.correct(ctx, &sub, from, to); err != nil {
			return fmt.Errorf("rating: correct %s: %w", id, err)
		}
	}
	return nil
}

// place is what a sum of buckets is of.
type place struct {
	subscription string
	hour         int64
	unit         usage.Unit
}

// querier is a database or a transaction of it.
type querier = sqldb.Querier

// sums returns what is sealed, of one subscription or of all.
func sums(ctx context.Context, q querier, subscription string, from, to time.Time) (map[place]int64, error) {
	rows, err := q.Query(ctx, `SELECT subscription, hour, unit, CAST(SUM(quantity) AS BIGINT) FROM rating_bucket
		WHERE ($1 = '' OR subscription = $1) AND hour >= $2 AND hour < $3 GROUP BY subscription, hour, unit`, subscription, sqldb.Ms(from), sqldb.Ms(to))
	if err != nil {
		return nil, fmt.Errorf("rating: %w", err)
	}
	defer rows.Close()
	out := map[place]int64{}
	for rows.Next() {
		var at place
		var unit string
		var n int64
		if err := rows.Scan(&at.subscription, &at.hour, &unit, &n); err != nil {
			return nil, fmt.Errorf("rating: %w", err)
		}
		if at.unit, err = usage.ParseUnit(unit); err != nil {
			return nil, fmt.Errorf("rating: %w", err)
		}
		out[at] = n
	}
	return out, rows.Err()
}

// correct goes through the hours of one subscription.
func (r *Rater) correct(ctx context.Context, sub *directory.Subscription, from, to time.Time) error {
	res, err := r.o.Usage.Query(ctx, metering.QueryInput{From: from, To: to, GroupBy: metering.GroupHour, Filter: metering.Filter{Subscriptions: []string{sub.ID}}})
	if err != nil {
		return err
	}
	n := 0
	err = r.o.DB.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		n = 0
		held, err := sums(ctx, tx, sub.ID, from, to)
		if err != nil {
			return err
		}
		differ := map[place]int64{}
		for at, q := range held {
			differ[at] = -q
		}
		for i := range res.Rows {
			for u, q := range res.Rows[i].Overrun {
				differ[place{sub.ID, sqldb.Ms(res.Rows[i].Start), usage.Unit(u)}] += q
			}
		}
		places := make([]place, 0, len(differ))
		for at, d := range differ {
			if d != 0 {
				places = append(places, at)
			}
		}
		slices.SortFunc(places, func(a, b place) int {
			if a.hour != b.hour {
				return int(a.hour/3_600_000 - b.hour/3_600_000)
			}
			return int(a.unit) - int(b.unit)
		})
		for _, at := range places {
			// Hours in the time that are not sealed were before this
			// marketplace rated any, or will be sealed: they are left alone.
			var sealed, seq int
			err := tx.QueryRow(ctx, `SELECT (SELECT count(*) FROM rating_hour WHERE hour = $1),
				(SELECT count(*) FROM rating_bucket WHERE subscription = $2 AND hour = $1 AND unit = $3)`, at.hour, sub.ID, at.unit.String()).Scan(&sealed, &seq)
			if err != nil {
				return err
			}
			if sealed == 0 {
				continue
			}
			// The first of an hour that had none is an adjustment as well.
			b := usage.Bucket{
				Account: sub.Account, Subscription: sub.ID, Product: sub.Product, Unit: at.unit,
				Hour: sqldb.Time(at.hour), Seq: max(seq, 1), Quantity: differ[at],
			}
			if seq > 0 {
				if err := tx.QueryRow(ctx, "SELECT max(seq) + 1 FROM rating_bucket WHERE subscription = $1 AND hour = $2 AND unit = $3", sub.ID, at.hour, at.unit.String()).Scan(&b.Seq); err != nil {
					return err
				}
			}
			// Another process that corrects the same takes the same number: one
			// of the two fails and looks again.
			if err := r.add(ctx, tx, &b); err != nil {
				return err
			}
			n++
		}
		return r.commit()
	})
	if err != nil {
		return err
	}
	r.adjustments.Add(int64(n))
	if n > 0 {
		r.o.Log.Info("hours that were sealed got adjustments", "subscription", sub.ID, "adjustments", n)
	}
	return nil
}
