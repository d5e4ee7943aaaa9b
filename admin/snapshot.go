package admin

import (
	"context"
	"encoding/hex"
	"fmt"

	"tollgate/internal/directory"
	"tollgate/internal/sqldb"
)

// BuildSnapshot reads everything a gateway needs.
//
// The version is read before the data, and every change bumps the version in
// its own transaction. So the data is at least as new as the version says: a
// change that slips in between is in this snapshot already or makes the next.
func (s *Server) BuildSnapshot(ctx context.Context) (*directory.Snapshot, error) {
	subs, err := s.deps.Billing.DirectorySubscriptions(ctx)
	if err != nil {
		return nil, fmt.Errorf("admin: list the subscriptions: %w", err)
	}
	if err := s.ensureMarketApps(ctx, subs); err != nil {
		return nil, err
	}
	version, err := s.version(ctx)
	if err != nil {
		return nil, err
	}
	// Read again, after the version: the first list may be older than it.
	if subs, err = s.deps.Billing.DirectorySubscriptions(ctx); err != nil {
		return nil, fmt.Errorf("admin: list the subscriptions: %w", err)
	}
	snap := &directory.Snapshot{Version: version, Made: s.now().UTC(), Region: s.cfg.Region, Pepper: s.pepper, Subscriptions: subs}
	for _, read := range []func(context.Context, *directory.Snapshot) error{
		s.snapProducts, s.snapApplications, s.snapAppKeys, s.snapAppCodes, s.snapAPIKeys, s.snapPolicies, s.snapReceiptKeys,
	} {
		if err := read(ctx, snap); err != nil {
			return nil, fmt.Errorf("admin: build the directory: %w", err)
		}
	}
	return snap, nil
}

func (s *Server) snapProducts(ctx context.Context, snap *directory.Snapshot) error {
	products, err := all(ctx, s.db, scanProduct, "SELECT "+productColumns+" FROM admin_products WHERE published ORDER BY id")
	if err != nil {
		return err
	}
	upstreams, err := all(ctx, s.db, s.scanUpstream, "SELECT "+upstreamColumns+" FROM admin_upstreams ORDER BY product, position")
	if err != nil {
		return err
	}
	of := map[string][]directory.Upstream{}
	for _, u := range upstreams {
		if u.Weight > 0 {
			of[u.product] = append(of[u.product], u.Upstream)
		}
	}
	snap.Products = make([]directory.Product, 0, len(products))
	for _, p := range products {
		snap.Products = append(snap.Products, directory.Product{
			ID: p.ID, Kind: p.Kind, Name: p.Name, Seller: p.Seller, InferID: p.InferID, Models: p.Models,
			Host: p.Host, Path: p.Path, Methods: p.Methods, StripPath: p.StripPath, SimpleAuth: p.SimpleAuth,
			Upstreams: of[p.ID], Traffic: p.Traffic, ForwardMock: p.ForwardMock, OnDisconnect: p.OnDisconnect, BillEstimates: p.BillEstimates,
			Items: p.Metering.Items, Parameters: p.Metering.Parameters, Objects: p.Metering.Objects,
		})
	}
	return nil
}

// snapApplications lists applications with what they may call: the manual
// bindings, and for MARKETPLACE_APP every API product its account subscribes
// to (AUTH-7).
func (s *Server) snapApplications(ctx context.Context, snap *directory.Snapshot) error {
	apps, err := all(ctx, s.db, scanApplication, applicationQuery+" WHERE a.region = $1 ORDER BY a.id", s.cfg.Region)
	if err != nil {
		return err
	}
	type pair struct{ application, product string }
	manual, err := all(ctx, s.db, func(r scanner) (b pair, err error) {
		err = r.Scan(&b.application, &b.product)
		return b, err
	}, "SELECT application, product FROM admin_bindings ORDER BY application, product")
	if err != nil {
		return err
	}
	bound := map[string][]string{}
	for _, b := range manual {
		bound[b.application] = append(bound[b.application], b.product)
	}
	api, err := s.apiProducts(ctx)
	if err != nil {
		return err
	}
	bought := map[string][]string{} // by account
	seen := map[pair]bool{}
	for _, sub := range snap.Subscriptions {
		key := pair{sub.Account, sub.Product}
		if api[sub.Product] && sub.State != directory.SubscriptionClosed && !seen[key] {
			seen[key] = true
			bought[sub.Account] = append(bought[sub.Account], sub.Product)
		}
	}
	snap.Applications = make([]directory.Application, 0, len(apps))
	for _, a := range apps {
		products := bound[a.ID]
		if a.Market {
			products = bought[a.Account]
		}
		snap.Applications = append(snap.Applications, directory.Application{ID: a.ID, Account: a.Account, Name: a.Name, Bound: products})
	}
	return nil
}

func (s *Server) snapAppKeys(ctx context.Context, snap *directory.Snapshot) (err error) {
	snap.AppKeys, err = all(ctx, s.db, func(r scanner) (k directory.AppKey, err error) {
		var sealed string
		if err := r.Scan(&k.ID, &k.Application, &k.Key, &sealed); err != nil {
			return k, err
		}
		plain, err := s.box.Open(appSecretPlace(k.ID), sealed)
		k.Secret = directory.Secret(plain)
		return k, err
	}, `SELECT k.id, k.application, k.app_key, k.secret FROM admin_app_keys k JOIN admin_applications a ON a.id = k.application
		WHERE a.region = $1 ORDER BY k.id`, s.cfg.Region)
	return err
}

func (s *Server) snapAppCodes(ctx context.Context, snap *directory.Snapshot) (err error) {
	snap.AppCodes, err = all(ctx, s.db, func(r scanner) (c directory.AppCode, err error) {
		err = r.Scan(&c.ID, &c.Application, hexBytes{&c.Hash})
		return c, err
	}, `SELECT c.id, c.application, c.hash FROM admin_app_codes c JOIN admin_applications a ON a.id = c.application
		WHERE a.region = $1 ORDER BY c.id`, s.cfg.Region)
	return err
}

func (s *Server) snapAPIKeys(ctx context.Context, snap *directory.Snapshot) (err error) {
	snap.APIKeys, err = all(ctx, s.db, func(r scanner) (k directory.APIKey, err error) {
		err = r.Scan(&k.ID, &k.Account, hexBytes{&k.Hash}, sqldb.JSON(&k.Products))
		return k, err
	}, "SELECT id, account, hash, products FROM admin_api_keys WHERE enabled AND deleted = 0 ORDER BY id")
	return err
}

// hexBytes scans hexadecimal text into bytes.
type hexBytes struct{ dst *[]byte }

// Scan implements sql.Scanner.
func (h hexBytes) Scan(src any) error {
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("admin: a hash is stored as TEXT, not as %T", src)
	}
	b, err := hex.DecodeString(text)
	*h.dst = b
	return err
}
