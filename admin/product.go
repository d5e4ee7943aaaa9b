package admin

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/directory"
	"tollgate/internal/ids"
	"tollgate/internal/sqldb"
)

// Product is a product as its seller and the operator see it.
type Product struct {
	ID          string
	Seller      string
	Kind        directory.Kind
	Name        string
	Description string
	InferID     string // LLM-1
	Models      []directory.Model
	Host, Path  string
	Methods     []string
	StripPath   bool
	SimpleAuth  bool // AUTH-6
	Upstreams   []directory.Upstream
	Traffic     directory.Traffic
	// OnDisconnect is "drain" or "cancel".
	OnDisconnect  string
	BillEstimates bool
	Metering      Metering
	ForwardMock   bool
	Published     bool
	Revision      int64
	Created       time.Time
	Updated       time.Time
}

// ETag is the revision as If-Match takes it.
func (p *Product) ETag() string { return `"` + strconv.FormatInt(p.Revision, 10) + `"` }

// ProductInput is what a product is made of. The fields of the other kind stay
// empty.
type ProductInput struct {
	Seller        string
	Kind          directory.Kind
	Name          string
	Description   string
	Models        []directory.Model
	Host, Path    string
	Methods       []string
	StripPath     bool
	SimpleAuth    bool
	Upstreams     []directory.Upstream // ids are given by CreateProduct
	Traffic       directory.Traffic
	OnDisconnect  string // default "drain"
	BillEstimates bool
	Metering      Metering
	ForwardMock   bool // an operator's choice only
	Publish       bool // publish at once
}

// ProductPatch changes what is not nil. An upstream that carries the id of one
// the product has is changed in place; a header whose value is Masked keeps the
// value it has.
type ProductPatch struct {
	Name          *string
	Description   *string
	Models        *[]directory.Model
	Host, Path    *string
	Methods       *[]string
	StripPath     *bool
	SimpleAuth    *bool
	Upstreams     *[]directory.Upstream
	Traffic       *directory.Traffic // replaces all of it
	OnDisconnect  *string
	BillEstimates *bool
	Items         *[]directory.Item
	Parameters    *string
	Objects       *string
	ForwardMock   *bool
}

// check returns every fault of p, and brings upstream addresses and an empty
// OnDisconnect into their normal form. trusted is the operator's hand.
func (s *Server) checkProduct(p *Product, trusted bool) error {
	var f faults
	checkText(&f, "body.name", p.Name, 1, 128)
	checkText(&f, "body.description", p.Description, 0, 4096)
	switch p.Kind {
	case directory.KindAPI:
		f.check(len(p.Models) == 0, "body.models", "belongs to LLM products only")
		f.check(len(p.Metering.Items) == 0, "body.billing_items", "belongs to LLM products only: calls of an API product are counted")
		f.check(p.Metering.Parameters == "", "body.parameters", "belongs to LLM products only")
		f.check(p.Metering.Objects == "", "body.objects", "belongs to LLM products only")
		checkHost(&f, "body.host", p.Host)
		checkPath(&f, "body.path", p.Host, p.Path)
		checkMethods(&f, "body.methods", p.Methods)
	case directory.KindLLM:
		f.check(p.Host == "" && p.Path == "", "body.path", "belongs to API products only: an LLM product answers at /v1/infers/{infer_id}/v1")
		f.check(len(p.Methods) == 0, "body.methods", "belongs to API products only")
		f.check(!p.StripPath, "body.strip_path", "belongs to API products only")
		f.check(!p.SimpleAuth, "body.simple_auth", "belongs to API products only: LLM products are called with API keys (AUTH-14)")
		checkModels(&f, "body.models", p.Models)
		p.Metering.check(&f)
	default:
		f.add("body.kind", "must be api or llm")
	}
	if p.OnDisconnect == "" {
		p.OnDisconnect = "drain"
	}
	f.check(p.OnDisconnect == "drain" || p.OnDisconnect == "cancel", "body.on_disconnect", "must be drain or cancel")
	f.check(len(p.Upstreams) <= maxUpstreams, "body.upstreams", fmt.Sprintf("must hold at most %d upstreams", maxUpstreams))
	for i := range p.Upstreams {
		u := &p.Upstreams[i]
		at := "body.upstreams[" + strconv.Itoa(i) + "]"
		u.URL = checkUpstreamURL(&f, at+".url", u.URL, trusted, s.cfg.PublicUpstreamsOnly)
		f.check(u.Weight >= 0 && u.Weight <= 1000, at+".weight", "must be from 0 (drained) to 1000")
		f.check(len(u.Headers) <= maxUpstreamHeaders, at+".headers", fmt.Sprintf("must hold at most %d headers", maxUpstreamHeaders))
		for j, h := range u.Headers {
			at := at + ".headers[" + strconv.Itoa(j) + "]"
			checkHeader(&f, at, h)
			twice := slices.ContainsFunc(u.Headers[:j], func(o directory.KV) bool { return strings.EqualFold(o.Name, h.Name) })
			f.check(!twice, at+".name", "is listed twice")
		}
		checkUpstreamExtras(&f, at, p, u, trusted)
	}
	for _, fault := range p.Traffic.Faults() {
		f.add("body.traffic."+fault.Field, fault.Text)
	}
	f.check(p.Kind == directory.KindLLM || !p.Traffic.MapModelBack, "body.traffic.map_model_back", "belongs to LLM products only")
	return f.err()
}

// servable reports whether a product has an upstream to send calls to.
func servable(p *Product) bool {
	return slices.ContainsFunc(p.Upstreams, func(u directory.Upstream) bool { return u.Weight > 0 })
}

// CreateProduct makes a product, by the operator's hand.
func (s *Server) CreateProduct(ctx context.Context, in ProductInput) (Product, error) {
	return s.createProduct(ctx, onceKey{}, in, true)
}

func (s *Server) createProduct(ctx context.Context, k onceKey, in ProductInput, trusted bool) (Product, error) {
	now := s.now().UTC().Truncate(time.Millisecond)
	p := Product{
		ID: ids.New(now), Seller: in.Seller, Kind: in.Kind, Name: in.Name, Description: in.Description,
		Models: orEmpty(in.Models), Host: in.Host, Path: in.Path, Methods: orEmpty(in.Methods),
		StripPath: in.StripPath, SimpleAuth: in.SimpleAuth, Upstreams: slices.Clone(in.Upstreams), Traffic: in.Traffic,
		OnDisconnect: in.OnDisconnect, BillEstimates: in.BillEstimates, Metering: in.Metering, ForwardMock: in.ForwardMock,
		Published: in.Publish, Revision: 1, Created: now, Updated: now,
	}
	if p.Kind == directory.KindLLM {
		p.InferID = ids.UUID()
	}
	for i := range p.Upstreams {
		u := &p.Upstreams[i]
		u.ID = ids.New(now)
		for j, h := range u.Headers {
			if h.Value == Masked {
				return Product{}, &InvalidError{[]Fault{{"body.upstreams[" + strconv.Itoa(i) + "].headers[" + strconv.Itoa(j) + "].value", "must be the value itself, not a mask"}}}
			}
		}
	}
	if err := s.checkProduct(&p, trusted); err != nil {
		return Product{}, err
	}
	if p.Published && !servable(&p) {
		return Product{}, ErrNotPublishable
	}
	return once(ctx, s, visible, k, in, func(ctx context.Context, tx *sqldb.Tx) (Product, error) {
		a, err := one(ctx, tx, scanAccount, "SELECT "+accountColumns+" FROM admin_accounts WHERE id = $1", p.Seller)
		if err != nil || a.Kind != RoleSeller {
			return Product{}, &InvalidError{[]Fault{{"body.seller_id", "must be the id of a seller account"}}}
		}
		if err := s.claimRoute(ctx, tx, &p); err != nil {
			return Product{}, err
		}
		return p, s.insertProduct(ctx, tx, &p)
	})
}

// claimRoute makes sure that no other product owns the route of p. The caller
// holds the version row, so nobody claims one meanwhile.
func (s *Server) claimRoute(ctx context.Context, tx *sqldb.Tx, p *Product) error {
	if p.Kind != directory.KindAPI {
		return nil
	}
	type route struct{ host, path string }
	taken, err := all(ctx, tx, func(r scanner) (o route, err error) {
		err = r.Scan(&o.host, &o.path)
		return o, err
	}, "SELECT host, path FROM admin_products WHERE kind = 'api' AND id <> $1 AND ($2 = '' OR host = '' OR host = $2)", p.ID, p.Host)
	if err != nil {
		return fmt.Errorf("admin: look for a product at the path: %w", err)
	}
	for _, o := range taken {
		if overlaps(p.Host, p.Path, o.host, o.path) {
			return ErrRouteTaken
		}
	}
	return nil
}

// UpdateProduct changes a product that still has the given revision, by the
// operator's hand. Revision 0 means any.
func (s *Server) UpdateProduct(ctx context.Context, id string, revision int64, patch ProductPatch) (Product, error) {
	return s.updateProduct(ctx, id, revision, true, func(p *Product) error { return patch.apply(p) })
}

// SetPublished publishes or withdraws a product.
func (s *Server) SetPublished(ctx context.Context, id string, published bool) (Product, error) {
	return s.updateProduct(ctx, id, 0, true, func(p *Product) error {
		p.Published = published
		return nil
	})
}

func (s *Server) updateProduct(ctx context.Context, id string, revision int64, trusted bool, edit func(*Product) error) (Product, error) {
	var p Product
	err := s.change(ctx, visible, func(ctx context.Context, tx *sqldb.Tx) (err error) {
		if p, err = s.readProduct(ctx, tx, id); err != nil {
			return err
		}
		if revision != 0 && revision != p.Revision {
			return ErrStale
		}
		if err := edit(&p); err != nil {
			return err
		}
		if err := s.checkProduct(&p, trusted); err != nil {
			return err
		}
		if p.Published && !servable(&p) {
			return ErrNotPublishable
		}
		if err := s.claimRoute(ctx, tx, &p); err != nil {
			return err
		}
		p.Revision++
		p.Updated = s.now().UTC().Truncate(time.Millisecond)
		return s.replaceProduct(ctx, tx, &p)
	})
	if err != nil {
		return Product{}, err
	}
	return p, nil
}

// apply edits p.
func (c *ProductPatch) apply(p *Product) error {
	set(&p.Name, c.Name)
	set(&p.Description, c.Description)
	set(&p.Models, c.Models)
	set(&p.Host, c.Host)
	set(&p.Path, c.Path)
	set(&p.Methods, c.Methods)
	set(&p.StripPath, c.StripPath)
	set(&p.SimpleAuth, c.SimpleAuth)
	set(&p.OnDisconnect, c.OnDisconnect)
	set(&p.BillEstimates, c.BillEstimates)
	set(&p.Metering.Items, c.Items)
	set(&p.Metering.Parameters, c.Parameters)
	set(&p.Metering.Objects, c.Objects)
	set(&p.ForwardMock, c.ForwardMock)
	set(&p.Traffic, c.Traffic)
	if c.Upstreams == nil {
		return nil
	}
	var f faults
	next := make([]directory.Upstream, len(*c.Upstreams))
	for i, u := range *c.Upstreams {
		at := "body.upstreams[" + strconv.Itoa(i) + "]"
		u.Headers = slices.Clone(u.Headers)
		var old directory.Upstream
		if u.ID == "" {
			u.ID = ids.New(p.Updated.Add(time.Millisecond))
		} else if n := slices.IndexFunc(p.Upstreams, func(o directory.Upstream) bool { return o.ID == u.ID }); n >= 0 {
			old = p.Upstreams[n]
			f.check(!slices.ContainsFunc(next[:i], func(o directory.Upstream) bool { return o.ID == u.ID }), at+".id", "is listed twice")
		} else {
			f.add(at+".id", "is not an upstream of this product; leave it out for a new one")
		}
		for j := range u.Headers {
			h := &u.Headers[j]
			if h.Value != Masked {
				continue
			}
			n := slices.IndexFunc(old.Headers, func(o directory.KV) bool { return strings.EqualFold(o.Name, h.Name) })
			if n < 0 {
				f.add(at+".headers["+strconv.Itoa(j)+"].value", "is a mask, but there is no such header to keep; send the value itself")
				continue
			}
			// A kept secret goes only where it went before: somebody who may
			// edit but not read must not be able to send it elsewhere.
			if u.URL != old.URL || u.TLS != old.TLS {
				f.add(at+".headers["+strconv.Itoa(j)+"].value", "must be sent again when the url or tls changes")
				continue
			}
			h.Value = old.Headers[n].Value
		}
		next[i] = u
	}
	p.Upstreams = next
	return f.err()
}

func set[T any](dst *T, v *T) {
	if v != nil {
		*dst = *v
	}
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return slices.Clone(list)
}
