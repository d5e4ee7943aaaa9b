package admin

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// MarketplaceApp is the name of the application that a purchase makes (AUTH-7).
const MarketplaceApp = "MARKETPLACE_APP"

// Application holds the credentials of a buyer for API products.
type Application struct {
	ID       string
	Account  string
	Region   string
	Name     string
	Market   bool // MARKETPLACE_APP
	Key      AppKey
	Bindings []Binding
	Created  time.Time
}

// Binding lets an application call a product. A default one follows from an
// active subscription (AUTH-7), a manual one was made by the buyer (AUTH-9).
type Binding struct {
	Product string
	Default bool
}

// AppKey is the key pair of an application without its secret.
type AppKey struct {
	ID    string
	Key   string
	Reset time.Time // when the secret was made
}

// CreateApplication makes an application of the buyer's own, with a key pair.
func (s *Server) CreateApplication(ctx context.Context, account, name string) (Application, error) {
	return s.createApplication(ctx, onceKey{}, account, name)
}

func (s *Server) createApplication(ctx context.Context, k onceKey, account, name string) (Application, error) {
	var f faults
	checkText(&f, "body.name", name, 1, 64)
	f.check(name != MarketplaceApp, "body.name", "must not be MARKETPLACE_APP, which purchases make")
	if err := f.err(); err != nil {
		return Application{}, err
	}
	return once(ctx, s, visible, k, []string{account, name}, func(ctx context.Context, tx *sqldb.Tx) (Application, error) {
		if err := s.buyerExists(ctx, tx, account); err != nil {
			return Application{}, err
		}
		var n int
		err := tx.QueryRow(ctx, "SELECT count(*) FROM admin_applications WHERE account = $1 AND region = $2", account, s.cfg.Region).Scan(&n)
		if err != nil {
			return Application{}, fmt.Errorf("admin: count the applications: %w", err)
		}
		if n >= s.cfg.MaxApplications {
			return Application{}, ErrApplicationLimit
		}
		return s.insertApplication(ctx, tx, account, name, false)
	})
}

func (s *Server) buyerExists(ctx context.Context, q sqldb.Querier, account string) error {
	a, err := one(ctx, q, scanAccount, "SELECT "+accountColumns+" FROM admin_accounts WHERE id = $1", account)
	if err == ErrNotFound || err == nil && a.Kind != RoleBuyer {
		return &InvalidError{[]Fault{{"account_id", "must be the id of a buyer account"}}}
	}
	return err
}

func (s *Server) insertApplication(ctx context.Context, tx *sqldb.Tx, account, name string, market bool) (Application, error) {
	now := s.now().UTC().Truncate(time.Millisecond)
	a := Application{
		ID: ids.New(now), Account: account, Region: s.cfg.Region, Name: name, Market: market, Created: now,
		Key: AppKey{ID: ids.New(now), Key: randomHex(16), Reset: now}, Bindings: []Binding{},
	}
	_, err := tx.Exec(ctx, "INSERT INTO admin_applications (id, account, region, name, market, created) VALUES ($1, $2, $3, $4, $5, $6)",
		a.ID, a.Account, a.Region, a.Name, a.Market, sqldb.Ms(now))
	if sqldb.IsUnique(err) {
		return a, ErrNameTaken
	}
	if err != nil {
		return a, fmt.Errorf("admin: keep the application: %w", err)
	}
	_, err = tx.Exec(ctx, "INSERT INTO admin_app_keys (id, application, app_key, secret, created, reset) VALUES ($1, $2, $3, $4, $5, $5)",
		a.Key.ID, a.ID, a.Key.Key, s.box.Seal(appSecretPlace(a.Key.ID), randomHex(32)), sqldb.Ms(now))
	if err != nil {
		return a, fmt.Errorf("admin: keep the key pair: %w", err)
	}
	return a, nil
}

func appSecretPlace(key string) string { return "app_secret/" + key }

const applicationQuery = `SELECT a.id, a.account, a.region, a.name, a.market, a.created, k.id, k.app_key, k.reset
	FROM admin_applications a JOIN admin_app_keys k ON k.application = a.id`

func scanApplication(r scanner) (a Application, err error) {
	a.Bindings = []Binding{}
	err = r.Scan(&a.ID, &a.Account, &a.Region, &a.Name, &a.Market, sqldb.Instant{Dst: &a.Created}, &a.Key.ID, &a.Key.Key, sqldb.Instant{Dst: &a.Key.Reset})
	return a, err
}

// Application returns the application with the id and its bindings.
func (s *Server) Application(ctx context.Context, id string) (Application, error) {
	a, err := one(ctx, s.db, scanApplication, applicationQuery+" WHERE a.id = $1", id)
	if err != nil {
		return Application{}, err
	}
	list := []Application{a}
	if err := s.fillBindings(ctx, list); err != nil {
		return Application{}, err
	}
	return list[0], nil
}

// Applications lists the applications of an account, or all, with bindings.
func (s *Server) Applications(ctx context.Context, account string, p Page) ([]Application, error) {
	list, err := all(ctx, s.db, scanApplication, applicationQuery+" WHERE ($1 = '' OR a.id < $1) AND ($2 = '' OR a.account = $2) ORDER BY a.id DESC LIMIT $3", p.Cursor, account, p.limit())
	if err != nil {
		return nil, err
	}
	return list, s.fillBindings(ctx, list)
}

func (s *Server) fillBindings(ctx context.Context, list []Application) error {
	for i := range list {
		a := &list[i]
		if a.Market {
			products, err := s.apiProductsOf(ctx, a.Account)
			if err != nil {
				return err
			}
			for _, p := range products {
				a.Bindings = append(a.Bindings, Binding{Product: p, Default: true})
			}
			continue
		}
		manual, err := all(ctx, s.db, func(r scanner) (b Binding, err error) {
			err = r.Scan(&b.Product)
			return b, err
		}, "SELECT product FROM admin_bindings WHERE application = $1 ORDER BY product", a.ID)
		if err != nil {
			return err
		}
		a.Bindings = manual
	}
	return nil
}

// apiProductsOf returns the ids of the API products that an account has a
// subscription of which is not closed, in order.
func (s *Server) apiProductsOf(ctx context.Context, account string) ([]string, error) {
	subs, err := s.subscriptionsOf(ctx, account)
	if err != nil {
		return nil, err
	}
	api, err := s.apiProducts(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, sub := range subs {
		if sub.State != directory.SubscriptionClosed && api[sub.Product] {
			out = append(out, sub.Product)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// apiProducts returns the ids of all API products.
func (s *Server) apiProducts(ctx context.Context) (map[string]bool, error) {
	list, err := all(ctx, s.db, func(r scanner) (id string, err error) {
		err = r.Scan(&id)
		return id, err
	}, "SELECT id FROM admin_products WHERE kind = 'api'")
	if err != nil {
		return nil, fmt.Errorf("admin: list the API products: %w", err)
	}
	out := make(map[string]bool, len(list))
	for _, id := range list {
		out[id] = true
	}
	return out, nil
}

// Bind lets an own application call a product that its account has bought
// (AUTH-9). Binding twice changes nothing.
func (s *Server) Bind(ctx context.Context, application, product string) error {
	a, err := s.Application(ctx, application)
	if err != nil {
		return err
	}
	p, err := s.Product(ctx, product)
	if err != nil {
		return err
	}
	// The subscription is looked up before the change begins: billing's rows
	// are never read while the version row is held. One that closes meanwhile
	// makes the binding useless, not wrong: the gateway checks both.
	bought, err := s.apiProductsOf(ctx, a.Account)
	if err != nil {
		return err
	}
	switch {
	case !slices.Contains(bought, product) && p.Kind != directory.KindAPI:
		return ErrNotBindable
	case !slices.Contains(bought, product):
		return ErrNotSubscribed
	case a.Market:
		return nil // bound by the purchase
	}
	return s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO admin_bindings (application, product, created) VALUES ($1, $2, $3) ON CONFLICT (application, product) DO NOTHING",
			application, product, sqldb.Ms(s.now()))
		if sqldb.IsForeignKey(err) {
			return ErrNotFound // deleted meanwhile
		}
		return err
	})
}

// Unbind removes a manual binding. A default one stays (AUTH-11).
func (s *Server) Unbind(ctx context.Context, application, product string) error {
	a, err := s.Application(ctx, application)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(a.Bindings, func(b Binding) bool { return b.Product == product }) {
		return ErrNotFound
	}
	if a.Market {
		return ErrDefaultBinding
	}
	return s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
		_, err := tx.Exec(ctx, "DELETE FROM admin_bindings WHERE application = $1 AND product = $2", application, product)
		return err
	})
}

// DeleteApplication removes an own application with its key pair, AppCodes and
// bindings (AUTH-11).
func (s *Server) DeleteApplication(ctx context.Context, id string) error {
	return s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
		a, err := one(ctx, tx, scanApplication, applicationQuery+" WHERE a.id = $1", id)
		if err != nil {
			return err
		}
		if a.Market {
			return ErrDefaultApplication
		}
		for _, q := range []string{
			"DELETE FROM admin_bindings WHERE application = $1", "DELETE FROM admin_app_codes WHERE application = $1",
			"DELETE FROM admin_app_keys WHERE application = $1", "DELETE FROM admin_applications WHERE id = $1",
		} {
			if _, err := tx.Exec(ctx, q, id); err != nil {
				return fmt.Errorf("admin: delete the application: %w", err)
			}
		}
		return nil
	})
}

// RevealSecret returns the AppSecret in clear and says so in the audit log.
func (s *Server) RevealSecret(ctx context.Context, actor Actor, application string) (directory.Secret, error) {
	a, err := one(ctx, s.db, scanApplication, applicationQuery+" WHERE a.id = $1", application)
	if err != nil {
		return "", err
	}
	var sealed string
	if err := s.db.QueryRow(ctx, "SELECT secret FROM admin_app_keys WHERE id = $1", a.Key.ID).Scan(&sealed); err != nil {
		return "", fmt.Errorf("admin: read the secret: %w", err)
	}
	plain, err := s.box.Open(appSecretPlace(a.Key.ID), sealed)
	if err != nil {
		return "", err
	}
	s.audit(ctx, actor, "app_secret.reveal", slog.String("application", application), slog.String("app_key", a.Key.Key))
	return directory.Secret(plain), nil
}

// ResetSecret replaces the AppSecret; the old one ends at once.
func (s *Server) ResetSecret(ctx context.Context, actor Actor, application string) (directory.Secret, error) {
	secret := randomHex(32)
	err := s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
		a, err := one(ctx, tx, scanApplication, applicationQuery+" WHERE a.id = $1", application)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE admin_app_keys SET secret = $2, reset = $3 WHERE id = $1", a.Key.ID, s.box.Seal(appSecretPlace(a.Key.ID), secret), sqldb.Ms(s.now()))
		return err
	})
	if err != nil {
		return "", err
	}
	s.audit(ctx, actor, "app_secret.reset", slog.String("application", application))
	return directory.Secret(secret), nil
}
