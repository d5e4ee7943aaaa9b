package admin

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// APIKey is a Bearer key for LLM products as lists show it (KEY-6).
type APIKey struct {
	ID          string     `json:"id"`
	Account     string     `json:"account_id"`
	Prefix      string     `json:"prefix" doc:"The first characters."`
	Suffix      string     `json:"suffix" doc:"The last characters."`
	Description string     `json:"description"`
	Products    []string   `json:"products" doc:"The products it may call; empty: all that the account has bought."`
	Enabled     bool       `json:"enabled"`
	Created     time.Time  `json:"created"`
	LastUsed    *time.Time `json:"last_used,omitempty" doc:"When it was last used, where that is known; it lags."`
}

// NewAPIKey is a key with its secret, which is shown this once (KEY-3).
type NewAPIKey struct {
	APIKey
	Secret string `json:"api_key" doc:"Send it as Authorization: Bearer. It is never shown again."`
}

// APIKeyInput is what an API key is made of.
type APIKeyInput struct {
	Account     string
	Description string
	Products    []string // allow-list (KEY-8)
}

// APIKeyPatch changes what is not nil.
type APIKeyPatch struct {
	Description *string
	Products    *[]string
	Enabled     *bool
}

const apiKeyPrefix = "sk-"

// maxAllowList bounds the allow-list of a key.
const maxAllowList = 256

func checkAPIKey(description string, products []string) error {
	var f faults
	checkText(&f, "body.description", description, 0, 255) // KEY-9
	f.check(len(products) <= maxAllowList, "body.products", fmt.Sprintf("must hold at most %d products", maxAllowList))
	for i, p := range products {
		at := "body.products[" + strconv.Itoa(i) + "]"
		f.check(ids.Valid(p), at, "must be the id of a product")
		f.check(!slices.Contains(products[:i], p), at, "is listed twice")
	}
	return f.err()
}

// checkAllowList adds a fault for a product that is not an LLM product. It need
// not be bought yet: the gateway asks for a subscription at each call.
func (s *Server) checkAllowList(ctx context.Context, q sqldb.Querier, products []string) error {
	var f faults
	for i, id := range products {
		var kind directory.Kind
		err := q.QueryRow(ctx, "SELECT kind FROM admin_products WHERE id = $1", id).Scan(&kind)
		if err != nil && err != sql.ErrNoRows {
			return fmt.Errorf("admin: look for a product: %w", err)
		}
		f.check(err == nil && kind == directory.KindLLM, "body.products["+strconv.Itoa(i)+"]", "must be the id of an LLM product")
	}
	return f.err()
}

// CreateAPIKey makes a key; an account holds at most Config.MaxAPIKeys (KEY-4).
func (s *Server) CreateAPIKey(ctx context.Context, in APIKeyInput) (NewAPIKey, error) {
	return s.createAPIKey(ctx, onceKey{}, in)
}

func (s *Server) createAPIKey(ctx context.Context, k onceKey, in APIKeyInput) (NewAPIKey, error) {
	if err := checkAPIKey(in.Description, in.Products); err != nil {
		return NewAPIKey{}, err
	}
	return once(ctx, s, visible, k, in, func(ctx context.Context, tx *sqldb.Tx) (NewAPIKey, error) {
		if err := s.buyerExists(ctx, tx, in.Account); err != nil {
			return NewAPIKey{}, err
		}
		if err := s.checkAllowList(ctx, tx, in.Products); err != nil {
			return NewAPIKey{}, err
		}
		var n int
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM admin_api_keys WHERE account = $1 AND deleted = 0", in.Account).Scan(&n); err != nil {
			return NewAPIKey{}, fmt.Errorf("admin: count the API keys: %w", err)
		}
		if n >= s.cfg.MaxAPIKeys {
			return NewAPIKey{}, ErrKeyLimit
		}
		now := s.now().UTC().Truncate(time.Millisecond)
		random := randomText()
		key := NewAPIKey{
			APIKey: APIKey{
				ID: ids.New(now), Account: in.Account, Prefix: apiKeyPrefix + random[:4], Suffix: random[len(random)-4:],
				Description: in.Description, Products: orEmpty(in.Products), Enabled: true, Created: now,
			},
			Secret: apiKeyPrefix + random,
		}
		_, err := tx.Exec(ctx, `INSERT INTO admin_api_keys (id, account, hash, prefix, suffix, description, products, enabled, created, deleted)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0)`,
			key.ID, key.Account, hex.EncodeToString(directory.Hash(s.pepper, key.Secret)), key.Prefix, key.Suffix, key.Description, sqldb.JSON(key.Products), true, sqldb.Ms(now))
		if err != nil {
			return NewAPIKey{}, fmt.Errorf("admin: keep the API key: %w", err)
		}
		return key, nil
	})
}

const apiKeyColumns = "id, account, prefix, suffix, description, products, enabled, created"

func scanAPIKey(r scanner) (k APIKey, err error) {
	err = r.Scan(&k.ID, &k.Account, &k.Prefix, &k.Suffix, &k.Description, sqldb.JSON(&k.Products), &k.Enabled, sqldb.Instant{Dst: &k.Created})
	return k, err
}

// APIKey returns the key with the id, unless it was deleted.
func (s *Server) APIKey(ctx context.Context, id string) (APIKey, error) {
	k, err := one(ctx, s.db, scanAPIKey, "SELECT "+apiKeyColumns+" FROM admin_api_keys WHERE id = $1 AND deleted = 0", id)
	if err != nil {
		return APIKey{}, err
	}
	s.fillLastUsed(ctx, []*APIKey{&k})
	return k, nil
}

// APIKeys lists the keys of an account, or all, without the deleted.
func (s *Server) APIKeys(ctx context.Context, account string, p Page) ([]APIKey, error) {
	list, err := all(ctx, s.db, scanAPIKey, "SELECT "+apiKeyColumns+" FROM admin_api_keys WHERE deleted = 0 AND ($1 = '' OR id < $1) AND ($2 = '' OR account = $2) ORDER BY id DESC LIMIT $3", p.Cursor, account, p.limit())
	if err != nil {
		return nil, err
	}
	keys := make([]*APIKey, len(list))
	for i := range list {
		keys[i] = &list[i]
	}
	s.fillLastUsed(ctx, keys)
	return list, nil
}

// fillLastUsed adds when keys were last used. The usage store being away is no
// reason to hide the keys.
func (s *Server) fillLastUsed(ctx context.Context, keys []*APIKey) {
	if s.deps.LastUsed == nil || len(keys) == 0 {
		return
	}
	list := make([]string, len(keys))
	for i, k := range keys {
		list[i] = k.ID
	}
	used, err := s.deps.LastUsed.LastUsed(ctx, list)
	if err != nil {
		s.log.WarnContext(ctx, "when API keys were last used is not known", "request_id", requestID(ctx), "error", err)
		return
	}
	for _, k := range keys {
		if t, ok := used[k.ID]; ok {
			k.LastUsed = &t
		}
	}
}

// UpdateAPIKey changes a key. Disabling takes effect within 5 s (KEY-7).
func (s *Server) UpdateAPIKey(ctx context.Context, id string, patch APIKeyPatch) (APIKey, error) {
	var k APIKey
	err := s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		k, err = one(ctx, tx, scanAPIKey, "SELECT "+apiKeyColumns+" FROM admin_api_keys WHERE id = $1 AND deleted = 0", id)
		if err != nil {
			return err
		}
		set(&k.Description, patch.Description)
		set(&k.Products, patch.Products)
		set(&k.Enabled, patch.Enabled)
		if err := checkAPIKey(k.Description, k.Products); err != nil {
			return err
		}
		if patch.Products != nil {
			if err := s.checkAllowList(ctx, tx, k.Products); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, "UPDATE admin_api_keys SET description = $2, products = $3, enabled = $4 WHERE id = $1", id, k.Description, sqldb.JSON(orEmpty(k.Products)), k.Enabled)
		return err
	})
	if err != nil {
		return APIKey{}, err
	}
	s.fillLastUsed(ctx, []*APIKey{&k})
	return k, nil
}

// DeleteAPIKey ends a key for good (KEY-7) and forgets its hash.
func (s *Server) DeleteAPIKey(ctx context.Context, id string) error {
	return s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) error {
		return deleted(tx.Exec(ctx, "UPDATE admin_api_keys SET hash = 'deleted ' || id, enabled = FALSE, deleted = $2 WHERE id = $1 AND deleted = 0", id, sqldb.Ms(s.now())))
	})
}

// deleted turns "no row" into ErrNotFound.
func deleted(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return err
}
