package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// BasePath is the root of the API.
const BasePath = "/api/v1"

// route is one operation of the API.
type route struct {
	method, path string // path below BasePath
	id           string // operation id in the document
	tag          string
	summary      string
	roles        []Role // who may call it; the handler narrows it to what is theirs
	status       int    // default 200, or 204 without a body
}

var (
	anyRole      = []Role{RoleOperator, RoleSeller, RoleBuyer}
	operatorOnly = []Role{RoleOperator}
	sellerSide   = []Role{RoleOperator, RoleSeller}
	buyerSide    = []Role{RoleOperator, RoleBuyer}
	buyerOnly    = []Role{RoleBuyer}
)

const rolesKey = "tollgate.roles"

type actorKey struct{}

// handle registers an operation. Before h runs, the token is checked, then the
// role, then the input; its error becomes a problem.
func handle[I, O any](s *Server, r route, h func(ctx context.Context, a Actor, in *I) (*O, error)) {
	s.routes = append(s.routes, r)
	op := huma.Operation{
		Method: r.method, Path: BasePath + r.path, OperationID: r.id, Tags: []string{r.tag}, Summary: r.summary,
		DefaultStatus: r.status, MaxBodyBytes: s.cfg.MaxBody, BodyReadTimeout: 10 * time.Second,
		Security: []map[string][]string{{"bearer": {}}},
		Metadata: map[string]any{rolesKey: r.roles},
	}
	names := make([]string, len(r.roles))
	for i, role := range r.roles {
		names[i] = string(role)
	}
	op.Description = "Roles: " + strings.Join(names, ", ") + ". Action: " + action(r.id) + "."
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		a, _ := ctx.Value(actorKey{}).(Actor)
		out, err := h(ctx, a, in)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return out, nil
	})
}

// authorise is the middleware of every operation: who is it, and may that role
// call this?
func (s *Server) authorise(ctx huma.Context, next func(huma.Context)) {
	actor, err := s.actorOf(ctx.Context(), ctx.Header("Authorization"))
	if err == nil {
		if roles, _ := ctx.Operation().Metadata[rolesKey].([]Role); !slices.Contains(roles, actor.Role) {
			err = ErrForbidden
		} else {
			err = s.permit(actor, ctx.Operation().OperationID)
		}
	}
	if err != nil {
		_, w := humago.Unwrap(ctx)
		s.writeProblem(w, s.problem(ctx.Context(), err))
		return
	}
	next(huma.WithValue(ctx, actorKey{}, actor))
}

// buildAPI registers every operation and renders the OpenAPI document once.
func (s *Server) buildAPI() error {
	installProblems()
	s.mux = http.NewServeMux()
	cfg := huma.DefaultConfig("Tollgate admin API", "1.0.0")
	cfg.Info.Description = "Runs the marketplace: products, packages, orders, applications, keys, quota and usage. " +
		"Errors are problems (RFC 9457) with a stable `code`. Lists are newest first; pass `next` of an answer as `cursor` for the following part. " +
		"Creations take an `Idempotency-Key` header: the same key and input within a day gives the same answer and changes nothing."
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "", "", "" // served by us, see below
	cfg.CreateHooks = nil                                       // no $schema members in answers
	cfg.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}
	cfg.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	cfg.RejectUnknownQueryParameters = true
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer": {Type: "http", Scheme: "bearer", Description: "A token of an operator (tgo_), a seller (tgs_) or a buyer (tgb_)."},
	}
	s.api = humago.New(s.mux, cfg)
	s.api.UseMiddleware(s.authorise)
	s.registerIdentity()
	s.registerUsers()
	s.registerProducts()
	s.registerGoods()
	s.registerOrders()
	s.registerSubscriptions()
	s.registerAlerts()
	s.registerRepurchases()
	s.registerAgencies()
	s.registerMessages()
	s.registerReceivers()
	s.registerJobs()
	s.registerUsage()
	s.registerUpstreams()
	s.registerApplications()
	s.registerAPIKeys()
	s.registerPolicies()

	// Every answer carries the request id.
	for _, item := range s.api.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op == nil {
				continue
			}
			for _, res := range op.Responses {
				if res.Headers == nil {
					res.Headers = map[string]*huma.Param{}
				}
				res.Headers["X-Request-Id"] = &huma.Param{Description: "Identifies the request.", Schema: &huma.Schema{Type: "string"}}
			}
		}
	}
	var err error
	if s.document, err = json.MarshalIndent(s.api.OpenAPI(), "", " "); err != nil {
		return fmt.Errorf("admin: render the OpenAPI document: %w", err)
	}
	s.mux.HandleFunc("GET "+BasePath+"/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.document)
	})
	s.registerFeed()
	return nil
}

// schemaName names types in the document: without the prefix that tells our
// wire forms from our domain types, and in one case.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	name = strings.ReplaceAll(name, "Wire", "")
	var b strings.Builder
	upper := true
	for _, r := range name {
		if r == '-' || r == '_' {
			upper = true
			continue
		}
		if upper {
			r = unicode.ToUpper(r)
		}
		upper = false
		b.WriteRune(r)
	}
	return b.String()
}

// list is a part of a list.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"Pass it as cursor for the following part; absent at the end."`
}

type body[T any] struct{ Body T }

func reply[T any](v T) *body[T] { return &body[T]{v} }

type none struct{}

// ByID is the part of an input that names one thing. It is exported, as the two
// below, because huma looks into exported embedded fields only.
type ByID struct {
	ID string `path:"id" maxLength:"64" doc:"Its id."`
}

// Paged is the part of an input that asks for a part of a list.
type Paged struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"How many at most."`
	Cursor string `query:"cursor" maxLength:"128" doc:"The next of the part before."`
}

// page asks for one more than is wanted: its presence says that there is a
// following part.
func (p Paged) page() Page { return Page{Cursor: p.Cursor, Limit: p.Limit + 1} }

// part cuts what page asked too much and converts the rest.
func part[T, W any](p Paged, items []T, id func(*T) string, wire func(*T) W) *body[list[W]] {
	out := list[W]{Items: make([]W, 0, len(items))}
	if len(items) > p.Limit {
		items = items[:p.Limit]
		out.Next = id(&items[p.Limit-1])
	}
	for i := range items {
		out.Items = append(out.Items, wire(&items[i]))
	}
	return reply(out)
}

func same[T any](v *T) T { return *v }

// Repeatable is the part of an input that lets a creation be repeated safely
// (ORDER-15).
type Repeatable struct {
	Key string `header:"Idempotency-Key" maxLength:"255" doc:"Makes the request repeatable: choose a random text, and send the same one when you repeat it."`
}

func (r Repeatable) once(a Actor, operation string) onceKey {
	return onceKey{Scope: a.scope(), Key: r.Key, Operation: operation}
}

// forAccount resolves whose thing a request is about: the actor's own account,
// or the one that an operator names. given may be empty for a buyer or seller.
func forAccount(a Actor, location, given string) (string, error) {
	switch {
	case a.Role == RoleOperator && given == "":
		return "", &InvalidError{[]Fault{{location, "must name the account, since an operator has none of its own"}}}
	case a.Role == RoleOperator:
		return given, nil
	case given != "" && given != a.Account:
		return "", ErrNotFound
	}
	return a.Account, nil
}

// listAccount is forAccount for lists: an operator may leave it out for all.
func listAccount(a Actor, given string) (string, error) {
	if a.Role == RoleOperator {
		return given, nil
	}
	return forAccount(a, "", given)
}
