package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"tollgate/admin/seal"
	"tollgate/billing"
	"tollgate/billing/notify"
	"tollgate/internal/directory"
	"tollgate/internal/jobs"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/sqldb"
	"tollgate/internal/testkit/postgres"
	"tollgate/internal/usage"
	"tollgate/metering/embedded"
)

func TestMain(m *testing.M) { postgres.Main(m) }

// onBoth runs a test on SQLite and on PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, h *harness)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newHarness(t, sqldb.Options{Dir: t.TempDir()}, Config{}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newHarness(t, sqldb.Options{URL: postgres.URL(t)}, Config{}))
	})
}

// harness is an admin role on real stores, with an operator, two sellers and
// two buyers. Every answer is checked against the OpenAPI document.
type harness struct {
	*Server
	t        *testing.T
	clock    *clock
	logs     *logs
	lots     *lotStore
	usage    *embedded.Store
	billing  *billing.Service
	router   routers.Router
	notices  *notify.Service
	operator string // token
	sellers  [2]party
	buyers   [2]party
}

// party is an account with a token.
type party struct{ id, token string }

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// logs keeps every log line.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// lotStore is a quota store that keeps the grants it is given and shows them as
// balances, of which the test says what was used.
type lotStore struct {
	mu     sync.Mutex
	grants []lot.Grant
	used   map[string]int64 // by lot
	over   usage.Units
	err    error
}

func (l *lotStore) ApplyGrant(_ context.Context, g lot.Grant) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grants = append(l.grants, g)
	return nil
}

func (l *lotStore) Read(_ context.Context, subscription string) (lot.Balance, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := lot.Balance{Subscription: subscription, AsOf: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Overrun: l.over}
	for _, g := range l.grants {
		if g.Subscription == subscription {
			b.Lots = append(b.Lots, lot.State{
				Grant: g, State: "active", PeriodFrom: g.Effective, PeriodTo: g.Expires,
				Granted: g.Amount, Leased: 2, Used: l.used[g.ID], Remaining: g.Amount - 2 - l.used[g.ID],
			})
		}
	}
	return b, l.err
}

func newHarness(t *testing.T, o sqldb.Options, cfg Config) *harness {
	t.Helper()
	h := &harness{t: t, clock: &clock{now: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)}, logs: &logs{}, lots: &lotStore{used: map[string]int64{}}}
	h.open(o, cfg)
	h.seed()
	return h
}

// open starts the server on a database, as a process would.
func (h *harness) open(o sqldb.Options, cfg Config) {
	h.t.Helper()
	ctx := h.t.Context()
	db, err := sqldb.Open(ctx, o)
	h.ok(err)
	h.t.Cleanup(func() { db.Close() })
	h.notices, err = notify.New(ctx, notify.Options{DB: db, Now: h.clock.Now})
	h.ok(err)
	runner, err := jobs.New(ctx, jobs.Options{DB: db, Now: h.clock.Now})
	h.ok(err)
	h.billing, err = billing.New(ctx, billing.Options{
		DB: db, Lots: h.lots, Now: h.clock.Now, Notices: h.notices, Quota: h.lots,
		Hooks: billing.Hooks{Changed: Touch, Committed: func() { h.Wake() }},
	})
	h.ok(err)
	h.usage, err = embedded.Open(ctx, filepath.Join(h.t.TempDir(), "usage.db"), embedded.Options{})
	h.ok(err)
	h.t.Cleanup(func() { h.usage.Close() })
	box, err := seal.New(bytes.Repeat([]byte{7}, seal.KeySize))
	h.ok(err)
	if cfg.FeedSecret == "" {
		cfg.FeedSecret = "the feed secret of the tests"
	}
	h.Server, err = New(ctx, cfg, Deps{
		DB: db, Box: box, Billing: h.billing, Quota: h.lots, Usage: h.usage, UsageSink: h.usage,
		Reconciler: reconciler{}, Rebuilder: rebuilder{}, Messages: h.notices, Jobs: runner, Rating: buckets{}, Now: h.clock.Now, Log: slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	h.ok(err)
	h.router = documentRouter(h.t, h.document)
}

// documentRouter reads the OpenAPI document, which is the same for every server
// of these tests, once.
func documentRouter(t *testing.T, document []byte) routers.Router {
	t.Helper()
	shared.once.Do(func() {
		shared.document = document
		doc, err := openapi3.NewLoader().LoadFromData(document)
		if err != nil {
			shared.err = fmt.Errorf("load the OpenAPI document: %w", err)
			return
		}
		if shared.router, err = legacy.NewRouter(doc); err != nil {
			shared.err = fmt.Errorf("the OpenAPI document is not valid: %w", err)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	if !bytes.Equal(document, shared.document) {
		t.Fatal("two servers have different OpenAPI documents")
	}
	return shared.router
}

var shared struct {
	once     sync.Once
	document []byte
	router   routers.Router
	err      error
}

// rebuilder is a quota store of which one lot is missing.
type rebuilder struct{}

func (rebuilder) QuotaStore() QuotaStore { return QuotaStore{Whole: true, Generation: 7} }

func (rebuilder) Rebuild(_ context.Context, dry bool) (QuotaRebuild, error) {
	return QuotaRebuild{DryRun: dry, Lots: 3, MissingLots: 1}, nil
}

type reconciler struct{}

func (reconciler) Explain(_ context.Context, subscription string) (Explanation, error) {
	return Explanation{Subscription: subscription}, nil
}

func (reconciler) Reconcile(context.Context) (Reconciliation, error) {
	return Reconciliation{
		AsOf: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Complete: true, Drift: 1,
		Subscriptions: []ReconciliationLine{{Subscription: "S", Unit: usage.Call, Journal: 3, Quota: 3, Usage: 2, Drift: -1}},
	}, nil
}

func (h *harness) seed() {
	h.t.Helper()
	ctx := h.t.Context()
	token, made, err := h.BootstrapOperator(ctx)
	h.ok(err)
	if !made {
		h.t.Fatal("the first start made no operator token")
	}
	h.operator = token.Secret
	party := func(kind Role, name string) party {
		a, err := h.CreateAccount(ctx, AccountInput{Kind: kind, Name: name})
		h.ok(err)
		token, err := h.CreateToken(ctx, TokenInput{Account: a.ID, Role: kind})
		h.ok(err)
		return struct{ id, token string }{a.ID, token.Secret}
	}
	for i := range 2 {
		h.sellers[i] = party(RoleSeller, fmt.Sprintf("seller %d", i))
		h.buyers[i] = party(RoleBuyer, fmt.Sprintf("buyer %d", i))
	}
}

func (h *harness) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// answer is an answer of the API.
type answer struct {
	t      *testing.T
	call   string
	status int
	header http.Header
	raw    []byte
}

// call makes a request with a token and a JSON body, and checks the answer
// against the document. Extra are header names and values.
func (h *harness) call(token, method, path string, body any, extra ...string) *answer {
	h.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		h.ok(err)
		reader = bytes.NewReader(raw)
	}
	r := httptest.NewRequestWithContext(h.t.Context(), method, BasePath+path, reader)
	if reader != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(extra); i += 2 {
		r.Header.Set(extra[i], extra[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	a := &answer{t: h.t, call: method + " " + path, status: w.Code, header: w.Header(), raw: w.Body.Bytes()}
	a.checkEveryAnswer()
	h.checkDocument(r, a)
	return a
}

// checkEveryAnswer holds what is true of every answer.
func (a *answer) checkEveryAnswer() {
	a.t.Helper()
	id := a.header.Get("X-Request-Id")
	if len(id) != 32 {
		a.t.Errorf("%s: X-Request-Id is %q", a.call, id)
	}
	if a.status < 400 {
		return
	}
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		a.t.Errorf("%s: %d with Content-Type %q: %s", a.call, a.status, ct, a.raw)
	}
	p := a.problem()
	if p.RequestID != id || p.Status != a.status || p.Code == "" || p.Title == "" || p.Detail == "" || p.Type != "urn:tollgate:problem:"+p.Code {
		a.t.Errorf("%s: incomplete problem %s", a.call, a.raw)
	}
}

// checkDocument checks the answer against the OpenAPI document.
func (h *harness) checkDocument(r *http.Request, a *answer) {
	h.t.Helper()
	route, params, err := h.router.FindRoute(r)
	if err != nil {
		if a.status != 404 && a.status != 405 && !strings.HasSuffix(r.URL.Path, "/openapi.json") {
			h.t.Errorf("%s: answered %d, but is not in the document: %v", a.call, a.status, err)
		}
		return
	}
	err = openapi3filter.ValidateResponse(h.t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.raw)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	})
	if err != nil {
		h.t.Errorf("%s: %d %s does not fit the document: %v", a.call, a.status, a.raw, err)
	}
}

func (a *answer) problem() Problem {
	a.t.Helper()
	var p Problem
	if err := json.Unmarshal(a.raw, &p); err != nil {
		a.t.Fatalf("%s: %s is no problem: %v", a.call, a.raw, err)
	}
	return p
}

// want fails unless the answer has the status, and for a problem the code.
func (a *answer) want(status int, code ...string) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s = %d %s, want %d", a.call, a.status, a.raw, status)
	}
	if len(code) > 0 && a.problem().Code != code[0] {
		a.t.Fatalf("%s = %s, want code %s", a.call, a.raw, code[0])
	}
	return a
}

// into reads the answer's JSON.
func (a *answer) into(v any) *answer {
	a.t.Helper()
	if err := json.Unmarshal(a.raw, v); err != nil {
		a.t.Fatalf("%s: %s: %v", a.call, a.raw, err)
	}
	return a
}

// text returns a text member of the answer, by a path such as key.app_key.
func (a *answer) text(path string) string {
	a.t.Helper()
	var v any
	a.into(&v)
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			a.t.Fatalf("%s: no %s in %s", a.call, path, a.raw)
		}
		v = m[name]
	}
	s, ok := v.(string)
	if !ok {
		a.t.Fatalf("%s: no text %s in %s", a.call, path, a.raw)
	}
	return s
}

// goods is a product on sale with one package.
type goods struct {
	product Product
	spec    string
}

// apiProduct makes a published API product of a seller at a path.
func (h *harness) apiProduct(seller int, path string) goods {
	h.t.Helper()
	p, err := h.CreateProduct(h.t.Context(), ProductInput{
		Seller: h.sellers[seller].id, Kind: directory.KindAPI, Name: "API at " + path, Path: path, SimpleAuth: true, Publish: true,
		Upstreams: []directory.Upstream{{URL: "http://127.0.0.1:9/base", Weight: 1, Headers: []directory.KV{{Name: "X-Upstream-Key", Value: "upstream-secret-value"}}}},
	})
	h.ok(err)
	return goods{p, h.spec(&p, directory.ModePerCall, usage.Call, 100, "1.00")}
}

// llmProduct makes a published LLM product of a seller.
func (h *harness) llmProduct(seller int) goods {
	h.t.Helper()
	p, err := h.CreateProduct(h.t.Context(), ProductInput{
		Seller: h.sellers[seller].id, Kind: directory.KindLLM, Name: "LLM", Models: []directory.Model{{Name: "m", Upstream: "m-upstream"}}, Publish: true,
		Upstreams: []directory.Upstream{{URL: "https://models.example.com/v1", Weight: 1}},
	})
	h.ok(err)
	return goods{p, h.spec(&p, directory.ModeUsedUpStop, usage.Token, 1000, "2.00")}
}

func (h *harness) spec(p *Product, mode directory.Mode, unit usage.Unit, amount int64, price string) string {
	h.t.Helper()
	spec, err := h.CreateSpec(h.t.Context(), billing.SpecInput{
		Product: p.ID, Seller: p.Seller, Name: "package", Mode: mode, Quotas: []billing.Quota{{Unit: unit, Amount: amount}}, Price: money.MustParse(price),
	})
	h.ok(err)
	return spec.ID
}

// buy tops a buyer up and buys one package; it returns the subscription.
func (h *harness) buy(buyer int, spec string) string {
	h.t.Helper()
	ctx := h.t.Context()
	_, err := h.TopUp(ctx, billing.TopUpInput{Account: h.buyers[buyer].id, Amount: money.MustParse("100")})
	h.ok(err)
	order, err := h.Purchase(ctx, billing.PurchaseInput{Account: h.buyers[buyer].id, Spec: spec, Quantity: 1})
	h.ok(err)
	return order.Subscription
}

// snapshot builds a snapshot and fails unless its version is above since.
func (h *harness) snapshot(since int64) *directory.Snapshot {
	h.t.Helper()
	snap, err := h.BuildSnapshot(h.t.Context())
	h.ok(err)
	if snap.Version <= since {
		h.t.Fatalf("the directory is still at version %d", snap.Version)
	}
	return snap
}

func sqliteOptions(t *testing.T) sqldb.Options { return sqldb.Options{Dir: t.TempDir()} }
