package admin

import (
	"context"
	"encoding/json"
	"fmt"

	"tollgate/internal/directory"
	"tollgate/internal/sqldb"
)

const productColumns = "id, seller, kind, name, description, infer_id, models, host, path, methods, strip_path, simple_auth, on_disconnect, bill_estimates, forward_mock, published, revision, created, updated, metering, traffic"

func scanProduct(r scanner) (p Product, err error) {
	err = r.Scan(&p.ID, &p.Seller, &p.Kind, &p.Name, &p.Description, &p.InferID, sqldb.JSON(&p.Models), &p.Host, &p.Path, sqldb.JSON(&p.Methods),
		&p.StripPath, &p.SimpleAuth, &p.OnDisconnect, &p.BillEstimates, &p.ForwardMock, &p.Published, &p.Revision,
		sqldb.Instant{Dst: &p.Created}, sqldb.Instant{Dst: &p.Updated}, sqldb.JSON(&p.Metering), sqldb.JSON(&p.Traffic))
	return p, err
}

func (s *Server) insertProduct(ctx context.Context, tx *sqldb.Tx, p *Product) error {
	_, err := tx.Exec(ctx, "INSERT INTO admin_products ("+productColumns+") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)",
		p.ID, p.Seller, string(p.Kind), p.Name, p.Description, p.InferID, sqldb.JSON(p.Models), p.Host, p.Path, sqldb.JSON(p.Methods),
		p.StripPath, p.SimpleAuth, p.OnDisconnect, p.BillEstimates, p.ForwardMock, p.Published, p.Revision, sqldb.Ms(p.Created), sqldb.Ms(p.Updated),
		sqldb.JSON(p.Metering), sqldb.JSON(p.Traffic))
	if err != nil {
		return fmt.Errorf("admin: keep the product: %w", err)
	}
	return s.insertUpstreams(ctx, tx, p)
}

func (s *Server) replaceProduct(ctx context.Context, tx *sqldb.Tx, p *Product) error {
	_, err := tx.Exec(ctx, `UPDATE admin_products SET name = $2, description = $3, models = $4, host = $5, path = $6, methods = $7, strip_path = $8,
		simple_auth = $9, on_disconnect = $10, bill_estimates = $11, forward_mock = $12, published = $13, revision = $14, updated = $15, metering = $16, traffic = $17 WHERE id = $1`,
		p.ID, p.Name, p.Description, sqldb.JSON(p.Models), p.Host, p.Path, sqldb.JSON(p.Methods), p.StripPath,
		p.SimpleAuth, p.OnDisconnect, p.BillEstimates, p.ForwardMock, p.Published, p.Revision, sqldb.Ms(p.Updated), sqldb.JSON(p.Metering), sqldb.JSON(p.Traffic))
	if err != nil {
		return fmt.Errorf("admin: change the product: %w", err)
	}
	if _, err := tx.Exec(ctx, "DELETE FROM admin_upstreams WHERE product = $1", p.ID); err != nil {
		return fmt.Errorf("admin: replace the upstreams: %w", err)
	}
	return s.insertUpstreams(ctx, tx, p)
}

func headersPlace(upstream string) string { return "upstream_headers/" + upstream }

func (s *Server) insertUpstreams(ctx context.Context, tx *sqldb.Tx, p *Product) error {
	for i, u := range p.Upstreams {
		headers, err := json.Marshal(orEmpty(u.Headers))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO admin_upstreams (id, product, position, url, weight, headers, settings) VALUES ($1, $2, $3, $4, $5, $6, $7)",
			u.ID, p.ID, i, u.URL, u.Weight, s.box.Seal(headersPlace(u.ID), string(headers)), sqldb.JSON(upstreamSettings{u.Models, u.TLS}))
		if err != nil {
			return fmt.Errorf("admin: keep an upstream: %w", err)
		}
	}
	return nil
}

// ownedUpstream is an upstream with the product it belongs to.
type ownedUpstream struct {
	product string
	directory.Upstream
}

// upstreamSettings is what is kept of an upstream in one column.
type upstreamSettings struct {
	Models []directory.Model     `json:"models,omitempty"`
	TLS    directory.UpstreamTLS `json:"tls,omitzero"`
}

const upstreamColumns = "product, id, url, weight, headers, settings"

func (s *Server) scanUpstream(r scanner) (u ownedUpstream, err error) {
	var sealed string
	var more upstreamSettings
	if err := r.Scan(&u.product, &u.ID, &u.URL, &u.Weight, &sealed, sqldb.JSON(&more)); err != nil {
		return u, err
	}
	u.Models, u.TLS = more.Models, more.TLS
	plain, err := s.box.Open(headersPlace(u.ID), sealed)
	if err != nil {
		return u, fmt.Errorf("admin: open the headers of upstream %s: %w", u.ID, err)
	}
	return u, json.Unmarshal([]byte(plain), &u.Headers)
}

func (s *Server) readProduct(ctx context.Context, q sqldb.Querier, id string) (Product, error) {
	p, err := one(ctx, q, scanProduct, "SELECT "+productColumns+" FROM admin_products WHERE id = $1", id)
	if err != nil {
		return Product{}, err
	}
	owned, err := all(ctx, q, s.scanUpstream, "SELECT "+upstreamColumns+" FROM admin_upstreams WHERE product = $1 ORDER BY position", id)
	if err != nil {
		return Product{}, err
	}
	for _, u := range owned {
		p.Upstreams = append(p.Upstreams, u.Upstream)
	}
	return p, nil
}

// Product returns the product with the id, its upstreams' secrets in clear.
func (s *Server) Product(ctx context.Context, id string) (Product, error) {
	return s.readProduct(ctx, s.db, id)
}

// ProductFilter says which products a list holds.
type ProductFilter struct {
	Seller        string // empty: all
	PublishedOnly bool
	Kind          directory.Kind // empty: both
}

// Products lists products without their upstreams.
func (s *Server) Products(ctx context.Context, f ProductFilter, p Page) ([]Product, error) {
	return all(ctx, s.db, scanProduct, "SELECT "+productColumns+` FROM admin_products
		WHERE ($1 = '' OR id < $1) AND ($2 = '' OR seller = $2) AND ($3 = '' OR kind = $3) AND (published OR NOT $4) ORDER BY id DESC LIMIT $5`,
		p.Cursor, f.Seller, string(f.Kind), f.PublishedOnly, p.limit())
}
