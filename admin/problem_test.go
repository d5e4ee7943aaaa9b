package admin

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tollgate/internal/usage"
)

// TestEverySentinelHasARow walks the exported sentinel errors of the packages
// whose errors can reach the admin API, and fails for one that problem.go does
// not mention.
func TestEverySentinelHasARow(t *testing.T) {
	t.Parallel()
	rows := map[string]bool{}
	f, err := parser.ParseFile(token.NewFileSet(), "problem.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		kv, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		if name, ok := kv.Key.(*ast.Ident); !ok || name.Name != "err" {
			return true
		}
		switch e := kv.Value.(type) {
		case *ast.Ident:
			rows["admin."+e.Name] = true
		case *ast.SelectorExpr:
			rows[e.X.(*ast.Ident).Name+"."+e.Sel.Name] = true
		}
		return true
	})
	if len(rows) < 40 {
		t.Fatalf("found only %d rows in problem.go: has the table another form?", len(rows))
	}
	found := 0
	for name, dir := range map[string]string{
		"admin": ".", "seal": "seal", "billing": "../billing", "metering": "../metering", "quota": "../quota",
		"feed": "../internal/feed", "directory": "../internal/directory", "ids": "../internal/ids",
	} {
		for _, sentinel := range sentinels(t, dir) {
			found++
			if !rows[name+"."+sentinel] {
				t.Errorf("%s.%s has no row in problem.go: give it a status and a code", name, sentinel)
			}
		}
	}
	if found < 40 {
		t.Errorf("found only %d sentinels: are they declared in another way?", found)
	}
}

// sentinels returns the names of the exported variables Err… of a package.
func sentinels(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Go files in %s: %v", dir, err)
	}
	var out []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if strings.HasPrefix(name.Name, "Err") {
						out = append(out, name.Name)
					}
				}
			}
		}
	}
	return out
}

// TestProblemRows holds what every row must be, whatever wraps the error.
func TestProblemRows(t *testing.T) {
	t.Parallel()
	titles := map[string]string{}
	for _, row := range problemRows {
		p, known := problemOf(t.Context(), fmt.Errorf("while testing: %w", row.err))
		if !known || p.Code == "" || p.Title == "" || p.Detail == "" || p.Status < 400 {
			t.Errorf("%v becomes %+v", row.err, p)
		}
		if p.Status >= 500 && p.Code == "INTERNAL" && p.Detail != internalDetail {
			t.Errorf("%v shows %q", row.err, p.Detail)
		}
		if strings.Contains(p.Detail, "while testing") {
			t.Errorf("%v shows what wraps it", row.err)
		}
		for _, prefix := range []string{"admin: ", "quota: ", "metering: ", "billing: "} {
			if strings.HasPrefix(p.Detail, prefix) {
				t.Errorf("detail %q begins with a package", p.Detail)
			}
		}
		if was, ok := titles[p.Code]; ok && was != p.Title {
			t.Errorf("code %s has the titles %q and %q", p.Code, was, p.Title)
		}
		titles[p.Code] = p.Title
	}
}

func TestRequestsThatCannotBe(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{MaxBody: 4096})
	op := h.operator
	h.call(op, http.MethodGet, "/nothing", nil).want(404, "NO_SUCH_PATH")
	h.call("", http.MethodGet, "/../../etc/passwd", nil)
	if a := h.call(op, http.MethodPut, "/accounts", nil).want(405, "METHOD_NOT_ALLOWED"); !strings.Contains(a.header.Get("Allow"), "POST") {
		t.Errorf("Allow is %q", a.header.Get("Allow"))
	}
	h.call(op, http.MethodPost, "/accounts", nil).want(400, "MALFORMED")
	h.call(op, http.MethodPost, "/accounts", `{"kind":"buyer","name":`).want(400, "MALFORMED")
	h.call(op, http.MethodPost, "/accounts", `{"kind":"buyer","name":"x"}`, "Content-Type", "text/xml").want(415, "UNSUPPORTED_MEDIA_TYPE")
	h.call(op, http.MethodPost, "/accounts", `{"kind":"buyer","name":"`+strings.Repeat("x", 5000)+`"}`).want(413, "BODY_TOO_LARGE")
	h.call(op, http.MethodPost, "/accounts", `{"kind":"buyer","name":"x","more":1}`).want(422, "INVALID")
	h.call(op, http.MethodPost, "/accounts", `{"Kind":"buyer","Name":"x"}`).want(422, "INVALID")
	h.call(op, http.MethodPost, "/accounts", `{"kind":"operator","name":"x"}`).want(422, "INVALID")
	h.call(op, http.MethodGet, "/accounts?lmit=3", nil).want(422, "INVALID")
	h.call(op, http.MethodGet, "/accounts?limit=0", nil).want(422, "INVALID")
	h.call(op, http.MethodGet, "/accounts?limit=501", nil).want(422, "INVALID")
	h.call(op, http.MethodGet, "/orders?cursor=rubbish", nil).want(422, "INVALID")
	h.call(op, http.MethodGet, "/usage/requests/zz", nil).want(404, "NOT_FOUND")
	h.call(op, http.MethodPost, "/accounts", `{"kind":"buyer","name":"x"}`, "Idempotency-Key", strings.Repeat("k", 256)).want(422, "INVALID")
}

func TestUnknownErrorsAreHidden(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	sub := h.buy(0, h.apiProduct(0, "/broken").spec)
	h.lots.err = errors.New("dial tcp 10.1.2.3:6379: password hunter2 refused")
	a := h.call(h.operator, http.MethodGet, "/subscriptions/"+sub+"/quota", nil).want(500, "INTERNAL")
	if strings.Contains(string(a.raw), "6379") {
		t.Errorf("the answer shows %s", a.raw)
	}
	if logged := h.logs.String(); !strings.Contains(logged, "request_id="+a.header.Get("X-Request-Id")) || !strings.Contains(logged, "10.1.2.3:6379") {
		t.Error("the log does not tell what happened under the request id")
	}
	if h.Failures() != 1 {
		t.Errorf("%d failures are counted", h.Failures())
	}
	h.lots.err = context.DeadlineExceeded
	h.call(h.operator, http.MethodGet, "/subscriptions/"+sub+"/quota", nil).want(503, "UNAVAILABLE")
	h.lots.err = nil

	// Parts that this process does not have.
	h.deps.Quota, h.deps.Usage, h.deps.Reconciler, h.deps.Rebuilder = nil, nil, nil, nil
	for _, path := range []string{"/subscriptions/" + sub + "/quota", "/subscriptions/" + sub + "/usage", "/usage/requests/" + strings.Repeat("0", 32), "/reconciliation", "/quota/store"} {
		h.call(h.operator, http.MethodGet, path, nil).want(503, "UNAVAILABLE")
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	h.mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("secret of the panic") })
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/panic", nil))
	a := &answer{t: t, call: "GET /panic", status: w.Code, header: w.Header(), raw: w.Body.Bytes()}
	a.checkEveryAnswer()
	if a.want(500, "INTERNAL"); strings.Contains(string(a.raw), "secret of the panic") {
		t.Errorf("answer %s", a.raw)
	}
	if !strings.Contains(h.logs.String(), "secret of the panic") {
		t.Error("the panic is not in the log")
	}

	// Half an answer must not look whole.
	h.mux.HandleFunc("GET /late", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		panic("late")
	})
	srv := httptest.NewServer(h)
	defer srv.Close()
	res, err := http.Get(srv.URL + "/late")
	if err == nil {
		res.Body.Close()
		if res.ContentLength == 0 {
			t.Error("a broken answer looks whole")
		}
	}
}

// TestSecretsDoNotLeak runs what makes and uses secrets and looks for each of
// them where it must not be: the log, every later answer, the database.
func TestSecretsDoNotLeak(t *testing.T) {
	t.Parallel()
	h := newHarness(t, sqliteOptions(t), Config{})
	buyer, seller := h.buyers[0], h.sellers[0]
	g := h.apiProduct(0, "/leak")
	h.buy(0, g.spec)
	market, err := h.MarketApplication(t.Context(), buyer.id)
	h.ok(err)
	code := strings.Repeat("aB3+", 20)
	secrets := map[string]string{
		"operator token": h.operator, "buyer token": buyer.token, "upstream header": "upstream-secret-value", "AppCode": code,
		"API key":    h.call(buyer.token, http.MethodPost, "/api-keys", map[string]any{}, "Idempotency-Key", "k").want(201).text("api_key"),
		"token":      h.call(h.operator, http.MethodPost, "/tokens", map[string]any{"role": "operator"}, "Idempotency-Key", "k").want(201).text("token"),
		"AppSecret":  h.call(buyer.token, http.MethodPost, "/applications/"+market.ID+"/secret/reveal", nil).want(200).text("app_secret"),
		"pepper":     fmt.Sprintf("%x", h.pepper),
		"feedsecret": feedSecret,
	}
	h.call(buyer.token, http.MethodPost, "/applications/"+market.ID+"/app-codes", map[string]any{"app_code": code}).want(201)

	var later []*answer
	for _, path := range []string{
		"/me", "/accounts", "/tokens", "/products", "/products/" + g.product.ID, "/orders", "/subscriptions", "/applications",
		"/applications/" + market.ID, "/applications/" + market.ID + "/app-codes", "/api-keys", "/reconciliation",
	} {
		later = append(later, h.call(h.operator, http.MethodGet, path, nil).want(200))
	}
	// Errors of inputs that hold them.
	later = append(later,
		h.call(buyer.token, http.MethodPost, "/applications/"+market.ID+"/app-codes", map[string]any{"app_code": code}).want(409),
		h.call(buyer.token, http.MethodPost, "/applications/"+market.ID+"/app-codes", map[string]any{"app_code": code + " upstream-secret-value"}).want(422),
		h.call(seller.token, http.MethodPost, "/products", map[string]any{"kind": "api", "name": "n", "path": "/x", "upstreams": []any{map[string]any{"url": "https://u:upstream-secret-value@a.example.com"}}}).want(422),
		h.call(seller.token, http.MethodPost, "/products", map[string]any{"kind": "api", "name": 7, "path": "/x", "upstreams": "upstream-secret-value"}).want(422),
		h.call(seller.token, http.MethodPost, "/products", `{"upstreams": upstream-secret-value`).want(400),
		h.call(buyer.token+h.operator, http.MethodGet, "/me", nil).want(401),
	)
	for name, secret := range secrets {
		if strings.Contains(h.logs.String(), secret) {
			t.Errorf("%s is in the log", name)
		}
		for _, a := range later {
			if strings.Contains(string(a.raw), secret) {
				t.Errorf("%s is in the answer of %s: %s", name, a.call, a.raw)
			}
		}
	}

	// The database holds none of them in clear.
	tables, err := all(t.Context(), h.db, func(r scanner) (name string, err error) { err = r.Scan(&name); return name, err },
		"SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'admin%'")
	h.ok(err)
	if !slices.Contains(tables, "admin_idempotency") {
		t.Fatalf("tables %v", tables)
	}
	for _, table := range tables {
		rows, err := h.db.Query(t.Context(), "SELECT * FROM "+table)
		h.ok(err)
		columns, err := rows.Columns()
		h.ok(err)
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = &values[i]
			}
			h.ok(rows.Scan(values...))
			for name, secret := range secrets {
				if strings.Contains(fmt.Sprint(values...), secret) {
					t.Errorf("%s is in table %s", name, table)
				}
			}
		}
		h.ok(rows.Err())
		rows.Close()
	}
}

func TestQuotaIsTheContractsShape(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		g := h.apiProduct(0, "/quota")
		sub := h.buy(0, g.spec)
		h.buy(0, g.spec) // stacked (PKG-9)
		h.lots.used[h.lots.grants[0].ID] = 7
		h.lots.over[usage.Call] = 3
		var got struct {
			Unit                                              string
			Granted, Used, Leased, Remaining, Lapsed, Overrun int64
			AsOf                                              string `json:"as_of"`
			Lots                                              []struct {
				ID        string
				Unit      string
				State     string
				Granted   int64
				Remaining int64
			}
		}
		h.call(h.buyers[0].token, http.MethodGet, "/subscriptions/"+sub+"/quota", nil).want(200).into(&got)
		if got.Unit != "call" || got.Granted != 200 || got.Used != 7 || got.Leased != 4 || got.Remaining != 189 || got.Lapsed != 0 || got.Overrun != 3 ||
			got.AsOf != "2026-11-01T00:00:00Z" || len(got.Lots) != 2 || got.Lots[0].Remaining != 91 {
			t.Errorf("quota is %+v", got)
		}
		if got.Granted != got.Remaining+got.Leased+got.Used+got.Lapsed {
			t.Errorf("granted is not the sum of its parts: %+v", got)
		}

		// Several billing items: the first is on top, another by ?unit=.
		p := h.llmProduct(0).product
		spec := h.call(h.sellers[0].token, http.MethodPost, "/products/"+p.ID+"/specs", map[string]any{
			"name": "both", "mode": "used_up_stop", "price": "0",
			"quotas": []any{map[string]any{"unit": "output_token", "amount": 50}, map[string]any{"unit": "input_token", "amount": 30}},
		}).want(201).text("id")
		two := h.buy(0, spec)
		for unit, want := range map[string]int64{"": 30, "?unit=output_token": 50, "?unit=image": 0} {
			h.call(h.buyers[0].token, http.MethodGet, "/subscriptions/"+two+"/quota"+unit, nil).want(200).into(&got)
			if got.Granted != want {
				t.Errorf("%q: granted %d, want %d", unit, got.Granted, want)
			}
		}
		h.call(h.buyers[0].token, http.MethodGet, "/subscriptions/"+two+"/quota?unit=calls", nil).want(422, "INVALID")
	})
}
