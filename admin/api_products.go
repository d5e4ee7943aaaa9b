package admin

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"tollgate/internal/directory"
)

type wireHeader struct {
	Name  string `json:"name" minLength:"1" maxLength:"128"`
	Value string `json:"value" maxLength:"8192" doc:"Stored sealed and shown as ***. In a change, *** keeps the value there is."`
}

type wireUpstream struct {
	ID      string       `json:"id,omitempty" maxLength:"64" doc:"Given by the server; send it in a change to keep an upstream."`
	URL     string       `json:"url" minLength:"1" maxLength:"2048" example:"https://backend.example.com/base"`
	Weight  *int         `json:"weight,omitempty" minimum:"0" maximum:"1000" doc:"Share of the calls, 0 to 1000; 0 drains it. Default 1."`
	Headers []wireHeader `json:"headers,omitempty" maxItems:"32" doc:"Sent with each call, the upstream's own credentials among them."`
	Models  []wireModel  `json:"models,omitempty" maxItems:"256" doc:"Models of the product that this upstream knows by another name than the product says."`

	TLS *directory.UpstreamTLS `json:"tls,omitempty" doc:"For https."`
}

type wireModel struct {
	Name     string `json:"name" minLength:"1" maxLength:"128" doc:"What callers send as model."`
	Upstream string `json:"upstream,omitempty" maxLength:"128" doc:"What the upstream is sent; default: the same."`
}

type wireProduct struct {
	ID            string         `json:"id"`
	Seller        string         `json:"seller_id"`
	Kind          directory.Kind `json:"kind" enum:"api,llm"`
	Name          string         `json:"name"`
	Description   string         `json:"description"`
	InferID       string         `json:"infer_id,omitempty" doc:"Addresses an LLM product (LLM-1)."`
	Models        []wireModel    `json:"models,omitempty"`
	Host          string         `json:"host,omitempty"`
	Path          string         `json:"path,omitempty"`
	Methods       []string       `json:"methods,omitempty"`
	StripPath     bool           `json:"strip_path"`
	SimpleAuth    bool           `json:"simple_auth" doc:"Whether AppCodes are taken (AUTH-6)."`
	BaseURL       string         `json:"base_url" doc:"Where callers reach it."`
	OnDisconnect  string         `json:"on_disconnect" enum:"drain,cancel"`
	BillEstimates bool           `json:"bill_estimates"`
	Items         []wireItem     `json:"billing_items,omitempty"`
	Parameters    string         `json:"parameters,omitempty"`
	Objects       string         `json:"objects,omitempty"`
	ForwardMock   bool           `json:"forward_mock"`
	Published     bool           `json:"published"`
	Upstreams     []wireUpstream `json:"upstreams,omitempty" doc:"Shown to the seller and the operator, one product at a time."`

	Traffic *directory.Traffic `json:"traffic,omitempty" doc:"How calls are spread over the upstreams, bounded and tried again. Shown to the seller and the operator."`

	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// baseURL is where callers reach p (LLM-2, API-10).
func (s *Server) baseURL(p *Product) string {
	switch {
	case p.Kind == directory.KindLLM:
		return s.cfg.GatewayURL + "/v1/infers/" + p.InferID + "/v1"
	case p.Host == "":
		return s.cfg.GatewayURL + p.Path
	}
	scheme, _, ok := strings.Cut(s.cfg.GatewayURL, "://")
	if !ok {
		scheme = "https"
	}
	return scheme + "://" + p.Host + p.Path
}

// wireProduct shows p; secrets of upstreams are masked. A buyer does not see
// upstreams at all.
func (s *Server) wireProduct(a Actor, p *Product) wireProduct {
	w := wireProduct{
		ID: p.ID, Seller: p.Seller, Kind: p.Kind, Name: p.Name, Description: p.Description, InferID: p.InferID,
		Host: p.Host, Path: p.Path, Methods: p.Methods, StripPath: p.StripPath, SimpleAuth: p.SimpleAuth, BaseURL: s.baseURL(p),
		OnDisconnect: p.OnDisconnect, BillEstimates: p.BillEstimates, Items: wireItems(p.Metering.Items), Parameters: p.Metering.Parameters, Objects: p.Metering.Objects,
		ForwardMock: p.ForwardMock, Published: p.Published,
		Created: p.Created, Updated: p.Updated,
	}
	for _, m := range p.Models {
		if a.Role == RoleBuyer {
			m.Upstream = "" // the seller's own business
		}
		w.Models = append(w.Models, wireModel(m))
	}
	if a.Role == RoleBuyer {
		return w
	}
	for _, u := range p.Upstreams {
		wu := wireUpstream{ID: u.ID, URL: u.URL, Weight: &u.Weight}
		for _, h := range u.Headers {
			wu.Headers = append(wu.Headers, wireHeader{Name: h.Name, Value: Masked})
		}
		for _, m := range u.Models {
			wu.Models = append(wu.Models, wireModel(m))
		}
		if u.TLS != (directory.UpstreamTLS{}) {
			wu.TLS = &u.TLS
		}
		w.Upstreams = append(w.Upstreams, wu)
	}
	w.Traffic = &p.Traffic
	return w
}

func readUpstreams(in []wireUpstream) []directory.Upstream {
	out := make([]directory.Upstream, 0, len(in))
	for _, u := range in {
		d := directory.Upstream{ID: u.ID, URL: u.URL, Weight: 1}
		if u.Weight != nil {
			d.Weight = *u.Weight
		}
		if u.TLS != nil {
			d.TLS = *u.TLS
		}
		if len(u.Models) > 0 {
			d.Models = readModels(u.Models)
		}
		for _, h := range u.Headers {
			d.Headers = append(d.Headers, directory.KV(h))
		}
		out = append(out, d)
	}
	return out
}

// orZero is what p points to, or the zero value.
func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func readModels(in []wireModel) []directory.Model {
	out := make([]directory.Model, 0, len(in))
	for _, m := range in {
		out = append(out, directory.Model(m))
	}
	return out
}

type productCreate struct {
	Seller      string         `json:"seller_id,omitempty" maxLength:"64" doc:"For operators; a seller's own account otherwise."`
	Kind        directory.Kind `json:"kind" enum:"api,llm"`
	Name        string         `json:"name" minLength:"1" maxLength:"128"`
	Description string         `json:"description,omitempty" maxLength:"4096"`
	Models      []wireModel    `json:"models,omitempty" doc:"LLM products: at least one."`
	Host        string         `json:"host,omitempty" maxLength:"253" doc:"API products: the only host it answers at; default: every host."`
	Path        string         `json:"path,omitempty" maxLength:"512" doc:"API products: the path it owns, and everything below."`
	Methods     []string       `json:"methods,omitempty" doc:"API products: what it answers; default: every method."`
	StripPath   bool           `json:"strip_path,omitempty" doc:"API products: the upstream gets what follows the path."`
	SimpleAuth  bool           `json:"simple_auth,omitempty" doc:"API products: take AppCodes too."`
	Upstreams   []wireUpstream `json:"upstreams,omitempty" maxItems:"32"`

	Traffic *directory.Traffic `json:"traffic,omitempty" doc:"How calls are spread over the upstreams, bounded and tried again. What is left out takes its default."`

	OnDisconnect  string     `json:"on_disconnect,omitempty" enum:"drain,cancel" doc:"What to do when a client leaves mid-stream: read on and bill the upstream's figures (drain, the default), or stop and bill what was counted (cancel)."`
	BillEstimates bool       `json:"bill_estimates,omitempty" doc:"Bill counted amounts where the upstream reports no usage (LLM-37)."`
	Items         []wireItem `json:"billing_items,omitempty" maxItems:"12" doc:"LLM products: where amounts stand that the gateway does not find by itself (EXT-3)."`
	Parameters    string     `json:"parameters,omitempty" enum:"vllm" doc:"LLM products: check the parameters of chat and completion requests as vLLM does (LLM-12 to LLM-26); default: leave it to the upstream."`
	Objects       string     `json:"objects,omitempty" enum:"shared" doc:"LLM products: shared lets callers list the files, batches and stored responses of the upstream's account, which all of them share; say so when it belongs to a single buyer. Default: objects are served by id, lists are refused."`
	ForwardMock   bool       `json:"forward_mock,omitempty" doc:"Operators only: let X-Mock-* headers through."`
}

type productPatch struct {
	Name          *string            `json:"name,omitempty"`
	Description   *string            `json:"description,omitempty"`
	Models        *[]wireModel       `json:"models,omitempty"`
	Host          *string            `json:"host,omitempty"`
	Path          *string            `json:"path,omitempty"`
	Methods       *[]string          `json:"methods,omitempty"`
	StripPath     *bool              `json:"strip_path,omitempty"`
	SimpleAuth    *bool              `json:"simple_auth,omitempty"`
	Upstreams     *[]wireUpstream    `json:"upstreams,omitempty" doc:"Replaces all of them; one with an id stays the same upstream."`
	Traffic       *directory.Traffic `json:"traffic,omitempty" doc:"Replaces all of it: send what you read, with your changes."`
	OnDisconnect  *string            `json:"on_disconnect,omitempty" enum:"drain,cancel"`
	BillEstimates *bool              `json:"bill_estimates,omitempty"`
	Items         *[]wireItem        `json:"billing_items,omitempty" maxItems:"12" doc:"Replaces all of them."`
	Parameters    *string            `json:"parameters,omitempty" enum:"vllm," doc:"Empty: not checked."`
	Objects       *string            `json:"objects,omitempty" enum:"shared," doc:"Empty: lists are refused."`
	ForwardMock   *bool              `json:"forward_mock,omitempty" doc:"Operators only."`
}

func (c *productPatch) patch() ProductPatch {
	p := ProductPatch{
		Name: c.Name, Description: c.Description, Host: c.Host, Path: c.Path, Methods: c.Methods, StripPath: c.StripPath,
		SimpleAuth: c.SimpleAuth, OnDisconnect: c.OnDisconnect, BillEstimates: c.BillEstimates, ForwardMock: c.ForwardMock, Traffic: c.Traffic,
	}
	if c.Items != nil {
		items := readItems(*c.Items)
		p.Items = &items
	}
	p.Parameters, p.Objects = c.Parameters, c.Objects
	if c.Models != nil {
		m := readModels(*c.Models)
		p.Models = &m
	}
	if c.Upstreams != nil {
		u := readUpstreams(*c.Upstreams)
		p.Upstreams = &u
	}
	return p
}

type productAnswer struct {
	ETag string `header:"ETag" doc:"Send it in If-Match to change the product."`
	Body wireProduct
}

// mayForwardMock keeps a switch for demonstrations in the operator's hand.
func mayForwardMock(a Actor, on bool) error {
	if on && a.Role != RoleOperator {
		return &InvalidError{[]Fault{{"body.forward_mock", "is for operators only"}}}
	}
	return nil
}

// productFor returns a product that the actor may see: its own, or, to a buyer,
// a published one and one it has bought.
func (s *Server) productFor(ctx context.Context, a Actor, id string) (Product, error) {
	p, err := s.Product(ctx, id)
	if err != nil {
		return Product{}, err
	}
	if a.Role == RoleBuyer && !p.Published {
		subs, err := s.subscriptionsOf(ctx, a.Account)
		if err != nil {
			return Product{}, err
		}
		for _, sub := range subs {
			if sub.Product == id {
				return p, nil
			}
		}
		return Product{}, ErrNotFound
	}
	if a.Role == RoleSeller && !a.owns(p.Seller) {
		return Product{}, ErrNotFound
	}
	return p, nil
}

func (s *Server) answerProduct(a Actor, p *Product) *productAnswer {
	return &productAnswer{ETag: p.ETag(), Body: s.wireProduct(a, p)}
}

func (s *Server) registerProducts() {
	const tag = "Products"
	handle(s, route{method: http.MethodPost, path: "/products", id: "create-product", tag: tag, summary: "Make a product, not published yet", roles: sellerSide, status: 201},
		func(ctx context.Context, a Actor, in *struct {
			Repeatable
			Body productCreate
		},
		) (*productAnswer, error) {
			b := &in.Body
			seller, err := forAccount(a, "body.seller_id", b.Seller)
			if err != nil {
				return nil, err
			}
			if err := mayForwardMock(a, b.ForwardMock); err != nil {
				return nil, err
			}
			p, err := s.createProduct(ctx, in.once(a, "create-product"), ProductInput{
				Seller: seller, Kind: b.Kind, Name: b.Name, Description: b.Description, Models: readModels(b.Models), Host: b.Host, Path: b.Path,
				Methods: b.Methods, StripPath: b.StripPath, SimpleAuth: b.SimpleAuth, Upstreams: readUpstreams(b.Upstreams),
				OnDisconnect: b.OnDisconnect, BillEstimates: b.BillEstimates, Metering: Metering{readItems(b.Items), b.Parameters, b.Objects}, ForwardMock: b.ForwardMock, Traffic: orZero(b.Traffic),
			}, a.Role == RoleOperator)
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "product.create", slog.String("id", p.ID))
			return s.answerProduct(a, &p), nil
		})

	handle(s, route{method: http.MethodGet, path: "/products", id: "list-products", tag: tag, summary: "List products: a seller's own, to a buyer the published", roles: anyRole},
		func(ctx context.Context, a Actor, in *struct {
			Paged
			Kind   directory.Kind `query:"kind" enum:"api,llm" doc:"Only these."`
			Seller string         `query:"seller_id" maxLength:"64" doc:"Only those of this seller."`
		},
		) (*body[list[wireProduct]], error) {
			f := ProductFilter{Kind: in.Kind, Seller: in.Seller, PublishedOnly: a.Role == RoleBuyer}
			if a.Role == RoleSeller {
				seller, err := forAccount(a, "", in.Seller)
				if err != nil {
					return nil, err
				}
				f.Seller = seller
			}
			items, err := s.Products(ctx, f, in.page())
			if err != nil {
				return nil, err
			}
			return part(in.Paged, items, func(p *Product) string { return p.ID }, func(p *Product) wireProduct { return s.wireProduct(a, p) }), nil
		})

	handle(s, route{method: http.MethodGet, path: "/products/{id}", id: "get-product", tag: tag, summary: "Show a product", roles: anyRole},
		func(ctx context.Context, a Actor, in *ByID) (*productAnswer, error) {
			p, err := s.productFor(ctx, a, in.ID)
			if err != nil {
				return nil, err
			}
			return s.answerProduct(a, &p), nil
		})

	handle(s, route{method: http.MethodPatch, path: "/products/{id}", id: "update-product", tag: tag, summary: "Change a product", roles: sellerSide},
		func(ctx context.Context, a Actor, in *struct {
			ByID
			IfMatch string `header:"If-Match" maxLength:"128" doc:"The ETag you read, or * for any."`
			Body    productPatch
		},
		) (*productAnswer, error) {
			if _, err := s.productFor(ctx, a, in.ID); err != nil {
				return nil, err
			}
			if err := mayForwardMock(a, in.Body.ForwardMock != nil && *in.Body.ForwardMock); err != nil {
				return nil, err
			}
			if in.IfMatch == "" {
				return nil, ErrIfMatchRequired
			}
			patch := in.Body.patch()
			p, err := s.updateProduct(ctx, in.ID, 0, a.Role == RoleOperator, func(p *Product) error {
				if !ifMatch(in.IfMatch, p.ETag()) {
					return ErrStale
				}
				return patch.apply(p)
			})
			if err != nil {
				return nil, err
			}
			s.audit(ctx, a, "product.update", slog.String("id", p.ID), slog.Int64("revision", p.Revision))
			return s.answerProduct(a, &p), nil
		})

	for _, action := range []struct {
		name, summary string
		published     bool
	}{
		{"publish", "Publish a product: gateways serve it within seconds", true},
		{"unpublish", "Withdraw a product: gateways stop serving it within seconds", false},
	} {
		handle(s, route{method: http.MethodPost, path: "/products/{id}/" + action.name, id: action.name + "-product", tag: tag, summary: action.summary, roles: sellerSide},
			func(ctx context.Context, a Actor, in *ByID) (*productAnswer, error) {
				if _, err := s.productFor(ctx, a, in.ID); err != nil {
					return nil, err
				}
				p, err := s.SetPublished(ctx, in.ID, action.published)
				if err != nil {
					return nil, err
				}
				s.audit(ctx, a, "product."+action.name, slog.String("id", p.ID))
				return s.answerProduct(a, &p), nil
			})
	}
}

// ifMatch reports whether a list of entity tags names etag (RFC 9110, 13.1.1).
// The comparison is strong: a weak tag never matches.
func ifMatch(header, etag string) bool {
	for tag := range strings.SplitSeq(header, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == etag {
			return true
		}
	}
	return false
}
