package billing

import (
	"context"

	"tollgate/internal/lot"
	"tollgate/internal/sqldb"
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
