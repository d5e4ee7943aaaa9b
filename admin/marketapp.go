package admin

import (
	"context"
	"errors"
	"fmt"

	"tollgate/internal/directory"
	"tollgate/internal/sqldb"
)

// ensureMarketApps makes MARKETPLACE_APP, with its key pair, for each account
// in subs that has bought an API product and has none in this region (AUTH-7,
// AUTH-10, API-3).
//
// It runs after each purchase and before each snapshot, so that the
// application is there before the purchase reaches a gateway, even if the
// process died between the payment and this call, or another process sold.
func (s *Server) ensureMarketApps(ctx context.Context, subs []directory.Subscription) error {
	api, err := s.apiProducts(ctx)
	if err != nil {
		return err
	}
	have, err := all(ctx, s.db, func(r scanner) (account string, err error) {
		err = r.Scan(&account)
		return account, err
	}, "SELECT account FROM admin_applications WHERE market AND region = $1", s.cfg.Region)
	if err != nil {
		return fmt.Errorf("admin: list the default applications: %w", err)
	}
	done := make(map[string]bool, len(have))
	for _, account := range have {
		done[account] = true
	}
	for _, sub := range subs {
		if done[sub.Account] || !api[sub.Product] || sub.State == directory.SubscriptionClosed {
			continue
		}
		done[sub.Account] = true
		err := s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := one(ctx, tx, scanApplication, applicationQuery+" WHERE a.account = $1 AND a.region = $2 AND a.market", sub.Account, s.cfg.Region)
			if !errors.Is(err, ErrNotFound) {
				return err // nil: another process was faster
			}
			_, err = s.insertApplication(ctx, tx, sub.Account, MarketplaceApp, true)
			return err
		})
		if err != nil {
			return fmt.Errorf("admin: make %s for account %s: %w", MarketplaceApp, sub.Account, err)
		}
	}
	return nil
}

// MarketApplication returns the MARKETPLACE_APP of an account, or ErrNotFound
// before its first purchase of an API product.
func (s *Server) MarketApplication(ctx context.Context, account string) (Application, error) {
	a, err := one(ctx, s.db, scanApplication, applicationQuery+" WHERE a.account = $1 AND a.region = $2 AND a.market", account, s.cfg.Region)
	if err != nil {
		return Application{}, err
	}
	list := []Application{a}
	if err := s.fillBindings(ctx, list); err != nil {
		return Application{}, err
	}
	return list[0], nil
}
