package billing

import (
	"context"
	"time"

	"tollgate/billing/notify"
	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
	"tollgate/internal/usage"
)

// LotStore is the quota store as billing sees it.
type LotStore interface {
	// ApplyGrant makes the store hold g. It must be idempotent: a version that
	// the store has, or an older one, changes nothing and is no error. It may
	// be called for the same grant from several nodes at once.
	ApplyGrant(ctx context.Context, g lot.Grant) error
}

// Hooks tell the admin role of changes. Each may be nil.
type Hooks struct {
	// Changed is called within each transaction that changes what
	// DirectorySubscriptions returns, so that the directory's version can be
	// raised in the same one. An error rolls the change back. It may be called
	// more than once for one change, since transactions are run again.
	Changed func(ctx context.Context, tx *sqldb.Tx) error

	// Committed is called after such a transaction was committed, on the
	// goroutine that made the change.
	Committed func()
}

// Notices is the message centre: *notify.Service.
type Notices interface {
	// Post writes a message within tx, once per account, kind and dedup key,
	// and reports whether it was new. An error rolls back what it tells of.
	Post(ctx context.Context, tx *sqldb.Tx, e notify.Event) (fresh bool, err error)
}

// QuotaReader tells what is left of a subscription's units now.
type QuotaReader interface {
	Read(ctx context.Context, subscription string) (lot.Balance, error)
}

// PaceReader tells how fast a subscription's units are used.
type PaceReader interface {
	// Used returns the units charged to a subscription in [from, to).
	Used(ctx context.Context, subscription string, unit usage.Unit, from, to time.Time) (int64, error)
}

// Catalogue tells of products what texts and repurchases need.
type Catalogue interface {
	// Product returns a product's name and whether it is published. An unknown
	// product has no name and is not.
	Product(ctx context.Context, id string) (name string, published bool, err error)
}
