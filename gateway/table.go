package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tidwall/gjson"

	"tollgate/gateway/upstream"
	"tollgate/internal/apisign"
	"tollgate/internal/directory"
	"tollgate/internal/meter"
	"tollgate/internal/receipt"
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
	// API keys are what a directory may hold a million of. They lie in one slice,
	// their names in one text, and the map to them holds no pointers: so the
	// garbage collector has three things to look at in place of millions.
	apiKeys   map[[32]byte]uint32 // place in keyRows
	keyRows   []apiKey
	keyCache  *keyCache[apiKey]  // of apiKeys
	codeCache *keyCache[appCode] // of appCodes
	appKeys   map[string]*appKey
	appCodes  map[[32]byte]*appCode
}

// product is a product as the hot path needs it.
type product struct {
	directory.Product
	llm      bool
	models   map[string]string // name -> upstream name
	upstream []*target         // in the order of the group's members
	group    *upstream.Group
	retry    retry
	retries  *retries
	renames  bool // an upstream knows a model by a name of its own
	checks   *checks
	metrics  *productMetrics
	limits   limited
	plan     *meter.Plan
	rules    *[numFamilies]*meter.Rules // of the families, without rules for single paths
}

// retries counts a product's. They outlive directory swaps that leave the
// product's upstreams as they are.
type retries struct {
	made   atomic.Int64
	denied atomic.Int64 // the budget or the call's time did not allow
}

// target is an upstream with the headers set on each request to it.
type target struct {
	*upstream.Member
	id        string
	models    map[string]string // name -> this upstream's name, where it has one
	names     []string          // of those headers, in lower case
	lines     []byte            // the headers as they stand in a request
	setsType  bool              // Content-Type is among them
	setsAgent bool              // User-Agent is
}

// sets reports whether t has a constant header of that name, which replaces the
// client's.
func (t *target) sets(name []byte) bool {
	for _, n := range t.names {
		if equalFold(name, n) {
			return true
		}
	}
	return false
}

// setHeaders makes the constant headers of t, the upstream's own credentials
// among them.
func (t *target) setHeaders(headers []directory.KV) error {
	for _, h := range headers {
		if h.Name == "" || !isToken([]byte(h.Name)) {
			return fmt.Errorf("upstream header %q: the name is not a header name", h.Name)
		}
		for _, c := range []byte(h.Value) {
			if c < ' ' && c != '\t' || c == 0x7f {
				return fmt.Errorf("upstream header %s: its value holds a control character", h.Name)
			}
		}
		name := strings.ToLower(h.Name)
		switch k := classify([]byte(name)); {
		case name == "content-type":
			t.setsType = true
		case name == "user-agent":
			t.setsAgent = true
		case k != plain && k != credential && k != apiKeyField && k != mock:
			return fmt.Errorf("upstream header %s is the gateway's to set: remove it", h.Name)
		}
		t.names = append(t.names, name)
		t.lines = append(t.lines, h.Name+": "+h.Value+"\r\n"...)
	}
	return nil
}

// account is a buyer with what it may call.
type account struct {
	id   string
	subs map[string][]*subscription // by product id, earliest first
	llm  []*product                 // subscribed LLM products, in order of subscription

	receipts *receipt.Key // signs receipts; nil: the account wants none in headers
}

type subscription struct {
	directory.Subscription
	account *account
	limits  limited
}

type apiKey struct {
	id      string
	account *account
	allow   map[string]bool // product ids; nil: all
	limits  limited
}

type application struct {
	id      string
	account *account
	bound   map[string]bool // product ids
	limits  limited
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
// their URL and settings are unchanged, and what is known of their health where
// the whole product's are, so that a swap does not cost connections; the ones no
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
		apiKeys:  make(map[[32]byte]uint32, len(s.APIKeys)),
		keyCache: newKeyCache[apiKey](len(s.APIKeys)), codeCache: newKeyCache[appCode](len(s.AppCodes)),
		appKeys:  make(map[string]*appKey, len(s.AppKeys)),
		appCodes: make(map[[32]byte]*appCode, len(s.AppCodes)),
	}
	kept := make(map[string]*upstream.Target)
	if old != nil {
		for _, p := range old.products {
			for _, u := range p.upstream {
				kept[u.Key()] = u.Target
			}
		}
	}
	before := func(id string) *product {
		if old == nil {
			return nil
		}
		return old.products[id]
	}
	used := make(map[*upstream.Target]bool)
	var errs []error
	var pace directory.Pacer
	for i := range s.Products {
		pace.Step()
		p, perr := g.compileProduct(&s.Products[i], kept, before(s.Products[i].ID))
		if perr == nil && t.products[p.ID] != nil {
			perr = errors.New("its id is taken by another product")
		}
		if perr == nil {
			perr = t.addRoute(p)
		}
		if perr != nil {
			errs = append(errs, fmt.Errorf("product %s: %w", s.Products[i].ID, perr))
			continue
		}
		api := ""
		if !p.llm {
			api = p.Path
		}
		p.metrics = g.metrics.product(p.ID, api)
		t.products[p.ID] = p
		for _, u := range p.upstream {
			used[u.Target] = true
		}
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
		pace.Step()
		p := t.products[sub.Product]
		if p == nil || len(sub.Units) == 0 || sub.State == directory.SubscriptionClosed {
			continue
		}
		a := acc(sub.Account)
		if p.llm && len(a.subs[p.ID]) == 0 {
			a.llm = append(a.llm, p)
		}
		base := ruleOf(p.each()).Over(g.cfg.Limits.Subscription)
		limits, lerr := compileLimits(sub.Policy, &base, false)
		if lerr != nil {
			errs = append(errs, fmt.Errorf("subscription %s: %w", sub.ID, lerr))
			continue
		}
		a.subs[p.ID] = append(a.subs[p.ID], &subscription{Subscription: sub, account: a, limits: limits})
	}
	credential := func(p *directory.Policy) (limited, error) {
		return compileLimits(p, &g.cfg.Limits.Credential, g.limits.Fair())
	}
	errs = append(errs, t.addKeys(s, acc, credential)...)
	errs = append(errs, t.addCredentials(s, acc, credential)...)
	for _, u := range kept {
		if !used[u] {
			dropped = append(dropped, u)
		}
	}
	return t, dropped, errors.Join(errs...)
}

// keyOf returns the API key with that hash, nil when there is none.
func (t *directoryTable) keyOf(hash [32]byte) *apiKey {
	if i, ok := t.apiKeys[hash]; ok {
		return &t.keyRows[i]
	}
	return nil
}

// addKeys adds API keys, and returns the faults of the rows left out.
func (t *directoryTable) addKeys(s *directory.Snapshot, acc func(id string) *account, limits func(*directory.Policy) (limited, error)) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	size := 0
	for i := range s.APIKeys {
		size += len(s.APIKeys[i].ID)
	}
	var names strings.Builder
	names.Grow(size)
	t.keyRows = make([]apiKey, 0, len(s.APIKeys))
	var pace directory.Pacer
	for i := range s.APIKeys {
		pace.Step()
		k := &s.APIKeys[i]
		l, err := limits(k.Policy)
		switch {
		case err != nil:
			fault("API key %s: %w", k.ID, err)
			continue
		case len(k.Hash) != 32:
			fault("API key %s: its hash has %d bytes, want 32", k.ID, len(k.Hash))
			continue
		}
		if old := t.keyOf([32]byte(k.Hash)); old != nil {
			fault("API key %s: it is the same as %s", k.ID, old.id)
			continue
		}
		at := names.Len()
		names.WriteString(k.ID)
		t.apiKeys[[32]byte(k.Hash)] = uint32(len(t.keyRows))
		t.keyRows = append(t.keyRows, apiKey{id: names.String()[at:], account: acc(k.Account), allow: set(k.Products), limits: l})
	}
	return faults
}

// addCredentials adds applications and what belongs to them, and
// returns the faults of the rows left out.
func (t *directoryTable) addCredentials(s *directory.Snapshot, acc func(id string) *account, limits func(*directory.Policy) (limited, error)) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, k := range s.ReceiptKeys {
		if k.Secret == "" {
			fault("receipt key %s: its secret must not be empty", k.ID)
			continue
		}
		acc(k.Account).receipts = receipt.NewKey(k.ID, k.Secret.Reveal())
	}
	apps := make(map[string]*application, len(s.Applications))
	for _, a := range s.Applications {
		l, err := limits(a.Policy)
		if err != nil {
			fault("application %s: %w", a.ID, err)
			continue
		}
		apps[a.ID] = &application{id: a.ID, account: acc(a.Account), bound: set(a.Bound), limits: l}
	}
	for _, k := range s.AppKeys {
		app := apps[k.Application]
		switch {
		case app == nil:
			fault("AppKey %s: there is no application %s", k.ID, k.Application)
		case k.Key == "" || k.Secret == "":
			// Anybody could sign with an empty secret.
			fault("AppKey %s: key and secret must not be empty", k.ID)
		case t.appKeys[k.Key] != nil:
			fault("AppKey %s: its key is taken by %s", k.ID, t.appKeys[k.Key].id)
		default:
			t.appKeys[k.Key] = &appKey{id: k.ID, app: app, secret: []byte(k.Secret.Reveal())}
		}
	}
	for _, c := range s.AppCodes {
		app := apps[c.Application]
		switch {
		case app == nil:
			fault("AppCode %s: there is no application %s", c.ID, c.Application)
		case len(c.Hash) != 32:
			fault("AppCode %s: its hash has %d bytes, want 32", c.ID, len(c.Hash))
		case t.appCodes[[32]byte(c.Hash)] != nil:
			fault("AppCode %s: it is the same as %s", c.ID, t.appCodes[[32]byte(c.Hash)].id)
		default:
			t.appCodes[[32]byte(c.Hash)] = &appCode{id: c.ID, app: app}
		}
	}
	return faults
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

// each returns the limits of each of p's subscriptions.
func (p *product) each() directory.Limits {
	if p.Policy == nil {
		return directory.Limits{}
	}
	return p.Policy.Each
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
	if path == "" || path[0] != '/' || path == "/v1" || strings.HasPrefix(path, "/v1/") || path == "/healthz" || path == "/readyz" {
		return fmt.Errorf("path %q: use a path that begins with / and is neither below /v1 nor one of the gateway itself", p.Path)
	}
	if apisign.CheckPath([]byte(path)) != nil || strings.ContainsAny(path, "?#% ") || strings.Contains(path, "//") {
		return fmt.Errorf("path %q: use one without dot segments, escapes, double slashes, query and fragment", p.Path)
	}
	if strings.ContainsAny(p.Host, "/:@ ") {
		return fmt.Errorf("host %q: give the name alone, without scheme, port and path", p.Host)
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
// that ends at a segment boundary, products tied to the host first. It reports
// false when the path, read as a lenient upstream would, belongs to another
// product: the caller may be allowed the one and get the other.
func (t *directoryTable) matchPath(host, path []byte) (p *product, ok bool) {
	if t.hosts {
		if i := bytes.LastIndexByte(host, ':'); i > 0 && bytes.IndexByte(host[i:], ']') < 0 {
			host = host[:i]
		}
		host = bytes.ToLower(host)
	}
	if p = t.match(host, path); p == nil {
		return nil, true
	}
	if bytes.IndexByte(path, '%') >= 0 || bytes.Contains(path, doubleSlash) {
		return p, t.match(host, merged(path)) == p
	}
	return p, true
}

var doubleSlash = []byte("//")

// merged returns path decoded, with one slash for several.
func merged(path []byte) []byte {
	out := unescape(path)
	n := 0
	for _, c := range out {
		if c != '/' || n == 0 || out[n-1] != '/' {
			out[n] = c
			n++
		}
	}
	return out[:n]
}

func (t *directoryTable) match(host, path []byte) *product {
	if t.hosts {
		key := append(append(make([]byte, 0, len(host)+len(path)), host...), path...)
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
