package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"tollgate/gateway/upstream"
	"tollgate/internal/directory"
)

// directoryTable is a directory snapshot compiled for look-ups. It is immutable
// and swapped whole; a call keeps the table it began with.
type directoryTable struct {
	version int64
	pepper  []byte

	infer    map[string]*product // by infer id
	paths    map[string]*product // API products by path prefix, or host and path prefix
	hosts    bool                // some product is tied to a host
	products map[string]*product

	accounts map[string]*account
	apiKeys  map[[32]byte]*apiKey
	appKeys  map[string]*appKey
	appCodes map[[32]byte]*appCode
}

// product is a product as the hot path needs it.
type product struct {
	directory.Product
	llm      bool
	models   map[string]string // name -> upstream name
	list     []byte            // the answer of GET …/models
	upstream []*target
	metrics  *productMetrics
}

// target is an upstream with the headers set on each request to it.
type target struct {
	*upstream.Target
	headers []directory.KV
	weight  int
}

// account is a buyer with what it may call.
type account struct {
	id   string
	subs map[string][]*subscription // by product id, earliest first
	llm  []*product                 // subscribed LLM products, in order of subscription
}

type subscription struct {
	directory.Subscription
	account *account
}

type apiKey struct {
	id      string
	account *account
	allow   map[string]bool // product ids; nil: all
}

type application struct {
	id      string
	account *account
	bound   map[string]bool // product ids
}

type appKey struct {
	id     string
	app    *application
	secret []byte
}

type appCode struct {
	id  string
	app *application
}

// compile builds the table of s. Targets of the previous table are kept where
// their URL is unchanged, so that a swap does not cost connections; the ones no
// longer used are returned in dropped. Faulty products are left out and
// reported together: one bad row must not stop the others.
func (g *Gateway) compile(s *directory.Snapshot, old *directoryTable) (t *directoryTable, dropped []*upstream.Target, err error) {
	t = &directoryTable{
		version:  s.Version,
		pepper:   bytes.Clone(s.Pepper),
		infer:    make(map[string]*product),
		paths:    make(map[string]*product),
		products: make(map[string]*product, len(s.Products)),
		accounts: make(map[string]*account),
		apiKeys:  make(map[[32]byte]*apiKey, len(s.APIKeys)),
		appKeys:  make(map[string]*appKey, len(s.AppKeys)),
		appCodes: make(map[[32]byte]*appCode, len(s.AppCodes)),
	}
	kept := make(map[string]*upstream.Target)
	if old != nil {
		for _, p := range old.products {
			for i, u := range p.upstream {
				kept[p.Upstreams[i].URL] = u.Target
			}
		}
	}
	used := make(map[*upstream.Target]bool)
	var errs []error
	for i := range s.Products {
		p, perr := g.compileProduct(&s.Products[i], kept, used)
		if perr == nil {
			perr = t.addRoute(p)
		}
		if perr != nil {
			errs = append(errs, fmt.Errorf("product %s: %w", s.Products[i].ID, perr))
			continue
		}
		t.products[p.ID] = p
	}
	acc := func(id string) *account {
		a := t.accounts[id]
		if a == nil {
			a = &account{id: id, subs: make(map[string][]*subscription)}
			t.accounts[id] = a
		}
		return a
	}
	subs := slices.Clone(s.Subscriptions)
	slices.SortStableFunc(subs, func(a, b directory.Subscription) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	for _, sub := range subs {
		p := t.products[sub.Product]
		if p == nil || len(sub.Units) == 0 || sub.State == directory.SubscriptionClosed {
			continue
		}
		a := acc(sub.Account)
		if p.llm && len(a.subs[p.ID]) == 0 {
			a.llm = append(a.llm, p)
		}
		a.subs[p.ID] = append(a.subs[p.ID], &subscription{Subscription: sub, account: a})
	}
	for _, k := range s.APIKeys {
		if len(k.Hash) != 32 {
			errs = append(errs, fmt.Errorf("API key %s: its hash has %d bytes, want 32", k.ID, len(k.Hash)))
			continue
		}
		t.apiKeys[[32]byte(k.Hash)] = &apiKey{id: k.ID, account: acc(k.Account), allow: set(k.Products)}
	}
	apps := make(map[string]*application, len(s.Applications))
	for _, a := range s.Applications {
		bound := set(a.Bound)
		if bound == nil {
			bound = map[string]bool{}
		}
		apps[a.ID] = &application{id: a.ID, account: acc(a.Account), bound: bound}
	}
	for _, k := range s.AppKeys {
		if app := apps[k.Application]; app != nil {
			t.appKeys[k.Key] = &appKey{id: k.ID, app: app, secret: []byte(k.Secret.Reveal())}
		}
	}
	for _, c := range s.AppCodes {
		if app := apps[c.Application]; app != nil && len(c.Hash) == 32 {
			t.appCodes[[32]byte(c.Hash)] = &appCode{id: c.ID, app: app}
		}
	}
	for _, u := range kept {
		if !used[u] {
			dropped = append(dropped, u)
		}
	}
	return t, dropped, errors.Join(errs...)
}

func set(ids []string) map[string]bool {
	if len(ids) == 0 {
		return nil
	}
	m := make(map[string]bool, len(ids))
	for _, id := range ids {
		m[id] = true
	}
	return m
}

func (g *Gateway) compileProduct(d *directory.Product, kept map[string]*upstream.Target, used map[*upstream.Target]bool) (*product, error) {
	p := &product{Product: *d, llm: d.Kind == directory.KindLLM}
	for _, u := range d.Upstreams {
		t := kept[u.URL]
		if t == nil {
			var err error
			if t, err = upstream.NewTarget(u.URL, g.upstreamConfig()); err != nil {
				return nil, err
			}
			kept[u.URL] = t
		}
		used[t] = true
		p.upstream = append(p.upstream, &target{Target: t, headers: u.Headers, weight: u.Weight})
	}
	if p.llm {
		p.models = make(map[string]string, len(d.Models))
		p.list = append(p.list, `{"object":"list","data":[`...)
		for i, m := range d.Models {
			name := m.Upstream
			if name == "" {
				name = m.Name
			}
			p.models[m.Name] = name
			if i > 0 {
				p.list = append(p.list, ',')
			}
			p.list = appendModel(p.list, m.Name, d.Seller)
		}
		p.list = append(p.list, "]}"...)
	}
	api := ""
	if !p.llm {
		api = d.Path
	}
	p.metrics = g.metrics.product(d.ID, api)
	return p, nil
}

// appendModel appends one model object of the OpenAI models list.
func appendModel(dst []byte, name, owner string) []byte {
	dst = append(dst, `{"id":`...)
	dst = gjson.AppendJSONString(dst, name)
	dst = append(dst, `,"object":"model","created":0,"owned_by":`...)
	dst = gjson.AppendJSONString(dst, owner)
	return append(dst, '}')
}

func (t *directoryTable) addRoute(p *product) error {
	if p.llm {
		if p.InferID == "" {
			return errors.New("an LLM product needs an infer id")
		}
		if t.infer[p.InferID] != nil {
			return fmt.Errorf("infer id %s is taken by product %s", p.InferID, t.infer[p.InferID].ID)
		}
		t.infer[p.InferID] = p
		return nil
	}
	path := strings.TrimRight(p.Path, "/")
	if path == "" || path[0] != '/' || path == "/v1" || strings.HasPrefix(path, "/v1/") {
		return fmt.Errorf("path %q: use a path that begins with / and is not below /v1", p.Path)
	}
	key := path
	if p.Host != "" {
		key = strings.ToLower(p.Host) + path
		t.hosts = true
	}
	if t.paths[key] != nil {
		return fmt.Errorf("path %q is taken by product %s", key, t.paths[key].ID)
	}
	p.Path = path
	t.paths[key] = p
	return nil
}

// matchPath finds the API product that owns path: the longest published prefix
// that ends at a segment boundary, products tied to the host first.
func (t *directoryTable) matchPath(host, path []byte) *product {
	if t.hosts {
		if i := bytes.LastIndexByte(host, ':'); i > 0 && bytes.IndexByte(host[i:], ']') < 0 {
			host = host[:i]
		}
		key := append(append(make([]byte, 0, len(host)+len(path)), bytes.ToLower(host)...), path...)
		if p := longest(t.paths, key, len(host)); p != nil {
			return p
		}
	}
	return longest(t.paths, path, 0)
}

func longest(m map[string]*product, key []byte, least int) *product {
	for len(key) > least+1 {
		if p := m[string(key)]; p != nil {
			return p
		}
		i := bytes.LastIndexByte(key, '/')
		if i < least {
			return nil
		}
		key = key[:i]
	}
	return nil
}
