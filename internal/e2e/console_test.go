package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tollgate/internal/testkit/tollgate"
)

// person is somebody at a browser without script.
type person struct {
	t    *testing.T
	http *http.Client
	base string
	lang string
}

func newPerson(t *testing.T, n *tollgate.Node, lang string) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &person{t: t, http: &http.Client{Jar: jar, Timeout: 30 * time.Second}, base: strings.TrimSuffix(n.Demo.ConsoleURL, "/"), lang: lang}
}

// page is an answer of the console.
type page struct {
	status int
	header http.Header
	body   string
	path   string
	took   time.Duration
}

func (p *person) do(method, path string, form url.Values, header ...string) page {
	p.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.base+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Accept-Language", p.lang)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	began := time.Now()
	res, err := p.http.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return page{res.StatusCode, res.Header, string(text), res.Request.URL.Path, time.Since(began)}
}

func (p *person) get(path string) page { p.t.Helper(); return p.do("GET", path, nil) }

// post sends a form of a page.
func (p *person) post(path string, pairs ...string) page {
	p.t.Helper()
	form := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		form.Add(pairs[i], pairs[i+1])
	}
	return p.do("POST", path, form)
}

func (p *person) signIn(l tollgate.Login) {
	p.t.Helper()
	if got := p.post("/sign-in", "name", l.Name, "password", l.Password); got.status != 200 || got.path != "/console/" {
		p.t.Fatalf("sign in as %s: %d at %s\n%s", l.Name, got.status, got.path, got.body)
	}
}

// find returns what the pattern's group holds.
func find(t *testing.T, body, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no %s in\n%s", pattern, body)
	}
	return m[1]
}

var inline = regexp.MustCompile(`(?i)<style|\son[a-z]+=|\sstyle=|javascript:|<script(?: [^>]*)?>[^<]`)

// TestConsoleWithoutScript signs in as each role, reads every page in both
// languages, buys, makes a key, calls with it and sees the count, all with
// plain forms.
func TestConsoleWithoutScript(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	sub := n.Demo.LLM.SubscriptionID
	spec, product := "", ""

	buyer := newPerson(t, n, "en")
	if got := buyer.get("/keys"); got.path != "/console/sign-in" {
		t.Errorf("a page without a session led to %s", got.path)
	}
	if got := buyer.post("/sign-in", "name", n.Demo.BuyerLogin.Name, "password", "wrong"); got.status != 401 || !strings.Contains(got.body, "SIGN_IN") {
		t.Errorf("a wrong password: %d", got.status)
	}
	buyer.signIn(n.Demo.BuyerLogin)
	product = find(t, buyer.get("/packages/"+sub).body, `href="/console/products/([^"]+)"`)
	spec = find(t, buyer.get("/products/"+product).body, `href="/console/buy/([^"]+)"`)

	// Double click: the same form twice is one order (ORDER-15).
	once := find(t, buyer.get("/buy/"+spec).body, `name="once" value="([^"]+)"`)
	first := buyer.post("/buy/"+spec, "once", once, "quantity", "1")
	if again := buyer.post("/buy/"+spec, "once", once, "quantity", "1"); first.status != 200 || !strings.HasPrefix(first.path, "/console/orders/") || again.path != first.path {
		t.Errorf("bought twice: %d %s and %s", first.status, first.path, again.path)
	}
	if got := buyer.post("/buy/"+spec, "once", "another", "quantity", "0"); got.status != 422 || !strings.Contains(got.body, `role="alert"`) {
		t.Errorf("a quantity of 0: %d", got.status)
	}
	order := strings.TrimPrefix(first.path, "/console/orders/")

	// From another site, nothing is taken.
	if got := buyer.do("POST", "/keys", url.Values{"description": {"evil"}}, "Sec-Fetch-Site", "cross-site"); got.status != 403 {
		t.Errorf("a post from another site: %d", got.status)
	}
	made := buyer.post("/keys", "once", "make-key", "description", "by hand", "product", product)
	key := find(t, made.body, `id="new-key">(sk-[0-9A-Za-z]+)<`)
	if body := buyer.get("/keys").body; strings.Contains(body, key) || strings.Contains(body, "evil") || !strings.Contains(body, "by hand") {
		t.Error("the list must show the key's description and not its secret")
	}
	before := used(t, buyer, sub)
	r, err := http.NewRequestWithContext(t.Context(), "POST", n.Demo.LLM.BaseURL+"/chat/completions", strings.NewReader(`{"model":"`+n.Demo.LLM.Model+`","messages":[{"role":"user","content":"Hi"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+key)
	id := callUntilAccepted(t, r)
	waitFor(t, "the call on the package's page", func() error {
		if got := used(t, buyer, sub); got != before+1 {
			return fmt.Errorf("used %d, before %d", got, before)
		}
		return nil
	})
	var call page
	waitFor(t, "the call in the request log", func() error {
		if call = buyer.get("/calls/" + id); call.status != 200 {
			return fmt.Errorf("status %d", call.status)
		}
		return nil
	})
	if !strings.Contains(call.body, "This call was charged.") || !strings.Contains(call.body, "METER-2") {
		t.Errorf("why this charge is not told:\n%s", call.body)
	}
	if csv := buyer.get("/usage.csv?range=7d&group=key"); !strings.HasPrefix(csv.body, "\xef\xbb\xbf") || !strings.Contains(csv.body, "by hand") {
		t.Errorf("the CSV file is %q", csv.body)
	}
	// Unchanged parts are not sent again.
	part := buyer.get("/live/packages/" + sub)
	if tag := part.header.Get("ETag"); tag == "" || strings.Contains(part.body, "<html") {
		t.Error("a part of a page must come alone, with an ETag")
	} else if got := buyer.do("GET", "/live/packages/"+sub, nil, "If-None-Match", tag); got.status != 304 && got.body == part.body {
		t.Errorf("asked again with its ETag: %d", got.status)
	}
	apps := buyer.get("/apps").body
	app := find(t, apps, `href="/console/apps/([^"]+)">`)
	if got := buyer.post("/apps/" + app + "/secret"); !strings.Contains(got.body, ">"+n.Demo.API.AppSecret+"<") {
		t.Errorf("the secret is not revealed: %d", got.status)
	}
	if strings.Contains(buyer.get("/apps/"+app).body, n.Demo.API.AppSecret) {
		t.Error("the secret stays on the page")
	}

	// A sub-user who is denied buying sees why, and keeps what it may see.
	if got := buyer.post("/users", "once", "sub", "name", "clerk", "password", "a long password", "deny", "marketplace:order:create"); got.status != 200 {
		t.Fatalf("make a sub-user: %d\n%s", got.status, got.body)
	}
	clerk := newPerson(t, n, "en")
	clerk.signIn(tollgate.Login{Name: "clerk", Password: "a long password"})
	if got := clerk.post("/buy/"+spec, "once", "clerk", "quantity", "1"); got.status != 403 || !strings.Contains(got.body, "DENIED") {
		t.Errorf("a denied purchase: %d", got.status)
	}
	if got := clerk.get("/keys"); got.status != 403 {
		t.Errorf("keys to a sub-user: %d", got.status)
	}
	if got := clerk.get("/"); got.status != 200 || !strings.Contains(got.body, "not shown to you") {
		t.Errorf("home of a sub-user: %d", got.status)
	}

	buyerPages := []string{"/", "/products", "/products/" + product, "/buy/" + spec, "/orders", "/orders/" + order, "/packages/" + sub, "/keys", "/apps", "/apps/" + app, "/usage", "/usage?group=key&range=7d", "/calls", "/calls/" + id, "/balance", "/users", "/account"}
	for _, who := range []struct {
		login tollgate.Login
		pages []string
	}{
		{n.Demo.BuyerLogin, buyerPages},
		{n.Demo.SellerLogin, []string{"/", "/products", "/products/" + product, "/usage", "/calls", "/users", "/account"}},
		{n.Demo.OperatorLogin, []string{"/", "/accounts", "/products", "/orders", "/usage", "/calls", "/users", "/account"}},
	} {
		for _, lang := range []string{"en", "zh"} {
			p := newPerson(t, n, lang)
			p.signIn(who.login)
			for _, path := range who.pages {
				got := p.get(path)
				switch {
				case got.status != 200:
					t.Errorf("%s %s: %d\n%s", who.login.Name, path, got.status, got.body)
				case len(got.body) > 200<<10:
					t.Errorf("%s %s: %d bytes", who.login.Name, path, len(got.body))
				case inline.MatchString(got.body):
					t.Errorf("%s %s: inline script or style: %s", who.login.Name, path, inline.FindString(got.body))
				case !strings.Contains(got.header.Get("Content-Security-Policy"), "default-src 'none'"):
					t.Errorf("%s %s: no content security policy", who.login.Name, path)
				case (lang == "zh") != strings.Contains(got.body, `<html lang="zh-CN">`):
					t.Errorf("%s %s: not in %s", who.login.Name, path, lang)
				}
				if keys := regexp.MustCompile(`>[a-z]+\.[a-z-]+<`).FindString(got.body); keys != "" {
					t.Errorf("%s %s: a text is missing: %s", who.login.Name, path, keys)
				}
				t.Logf("%-9s %s %-45s %6d bytes %v", who.login.Name, lang, path, len(got.body), got.took.Round(time.Millisecond))
			}
		}
	}

	// The operator tops up; the buyer sees it at once.
	op := newPerson(t, n, "en")
	op.signIn(n.Demo.OperatorLogin)
	var me struct {
		Account string `json:"account_id"`
	}
	adminGet(t, n, n.Demo.BuyerToken, "/me", &me)
	had := find(t, buyer.get("/balance").body, `<strong>¥ ([0-9.]+)<`)
	for range 2 {
		op.post("/accounts/"+me.Account+"/top-ups", "once", "same form", "amount", "100", "receipt", "cash")
	}
	now := find(t, buyer.get("/balance").body, `<strong>¥ ([0-9.]+)<`)
	a, _ := strconv.ParseFloat(had, 64)
	b, _ := strconv.ParseFloat(now, 64)
	if b-a < 99.9 || b-a > 100.1 {
		t.Errorf("balance %s after a top-up of 100 sent twice, was %s", now, had)
	}
	if got := buyer.get("/accounts"); got.status != 403 {
		t.Errorf("accounts to a buyer: %d", got.status)
	}
	buyer.post("/sign-out")
	if got := buyer.get("/keys"); got.path != "/console/sign-in" {
		t.Error("still signed in")
	}
	if log := n.Process().Output(); strings.Contains(log, n.Demo.BuyerLogin.Password) || strings.Contains(log, key) {
		t.Error("a secret is in the log")
	}
}

// used is what the package's page says was used.
func used(t *testing.T, p *person, sub string) int64 {
	t.Helper()
	text := find(t, p.get("/live/packages/"+sub).body, ` used ([0-9,]+)`)
	n, err := strconv.ParseInt(strings.ReplaceAll(text, ",", ""), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func adminGet(t *testing.T, n *tollgate.Node, token, path string, out any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", n.Demo.AdminURL+"/api/v1"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		t.Fatal(err)
	}
}
