package recovery

import (
	"context"
	"time"

	"tollgate/internal/lot"
	"tollgate/quota"
)

// Store is the quota store as the Keeper sees it: a part of quota.Store.
type Store interface {
	quota.Witness
	Restore(ctx context.Context, g lot.Grant, floor []quota.Floor, learn time.Duration) error
	Sync(ctx context.Context, req *quota.SyncRequest) (*quota.SyncReply, error)
	CloseIncarnation(ctx context.Context, req *quota.CloseRequest) error
	Subscriptions(ctx context.Context, after string, limit int) ([]string, error)
}

// Lot is a grant as the books have it.
type Lot struct {
	lot.Grant
	// Delivered tells whether the store has had this version: one that it
	// never had is not missing.
	Delivered bool
}

// Grants are the books of what was sold. Regrant must hand every lot of every
// subscription to restore, each subscription once, also lots that are over,
// and everything that was committed before it began.
type Grants interface {
	Regrant(ctx context.Context, restore func(ctx context.Context, subscription string, lots []Lot) error) (int, error)
}
