package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"tollgate/admin"
	"tollgate/admin/console"
	"tollgate/bench"
	"tollgate/billing"
	"tollgate/internal/config"
	"tollgate/internal/directory"
	"tollgate/internal/lot"
	"tollgate/internal/money"
	"tollgate/internal/usage"
)

// Demo is demo.json: where the demo marketplace answers and what a client needs
// to call its products (design section 5).
type Demo struct {
	GatewayURL      string  `json:"gateway_url"`
	AdminURL        string  `json:"admin_url"`
	GatewayHTTPSURL string  `json:"gateway_https_url"`
	OperatorToken   string  `json:"operator_token"`
	BuyerToken      string  `json:"buyer_token"`
	SellerToken     string  `json:"seller_token"`
	LLM             DemoLLM `json:"llm"`
	LLMTokens       DemoLLM `json:"llm_tokens"`
	API             DemoAPI `json:"api"`
	MockUpstreamURL string  `json:"mock_upstream_url"`
	ConsoleURL      string  `json:"console_url"`

	OperatorLogin DemoLogin `json:"operator_login"`
	BuyerLogin    DemoLogin `json:"buyer_login"`
	SellerLogin   DemoLogin `json:"seller_login"`
}

// DemoLogin signs somebody in to the console.
type DemoLogin struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// DemoLLM is an LLM product of the demo.
type DemoLLM struct {
	ProductID      string `json:"product_id"`
	BaseURL        string `json:"base_url"`
	APIKey         string `json:"api_key"`
	Model          string `json:"model"`
	SubscriptionID string `json:"subscription_id"`
	Unit           string `json:"unit"`
}

// DemoAPI is the API product of the demo.
type DemoAPI struct {
	ProductID      string `json:"product_id"`
	URL            string `json:"url"`
	HTTPSURL       string `json:"https_url"`
	AppKey         string `json:"app_key"`
	AppSecret      string `json:"app_secret"`
	AppCode        string `json:"app_code"`
	SubscriptionID string `json:"subscription_id"`
}

const (
	demoFile   = "demo.json"
	demoModel  = "demo-chat"
	demoPath   = "/demo/weather"
	demoSeller = "Demo seller"
	demoBuyer  = "Demo buyer"
	// demoNote marks the demo's own credentials, so that lost ones are replaced
	// instead of piling up.
	demoNote = "made by serve --demo"
)

// demoMoney is the buyer's first balance.
const demoMoney = money.Amount(10_000_000_000) // 10 000 yuan

// demoUnits is the default size of a demo package.
const demoUnits = 10_000

// seedDemo makes the demo marketplace through the same services everybody
// uses. Each step looks for what is there already, so a second start, or one
// after a crash half-way, makes nothing twice.
func (a *App) seedDemo(ctx context.Context) error {
	d, err := readDemo(filepath.Join(a.cfg.Data, demoFile))
	if err != nil {
		return err
	}
	a.demo = d
	upstream, err := a.demoUpstream(d.MockUpstreamURL)
	if err != nil {
		return err
	}
	d.MockUpstreamURL = upstream
	s := a.control.server
	if err := a.demoToken(ctx, &d.OperatorToken, admin.TokenInput{Role: admin.RoleOperator}); err != nil {
		return err
	}
	seller, err := a.demoAccount(ctx, admin.RoleSeller, demoSeller, &d.SellerToken)
	if err != nil {
		return err
	}
	buyer, err := a.demoAccount(ctx, admin.RoleBuyer, demoBuyer, &d.BuyerToken)
	if err != nil {
		return err
	}
	for _, l := range []struct {
		login   *DemoLogin
		name    string
		account string
	}{{&d.OperatorLogin, "operator", ""}, {&d.BuyerLogin, "buyer", buyer.ID}, {&d.SellerLogin, "seller", seller.ID}} {
		if err := a.demoLogin(ctx, l.login, l.name, l.account); err != nil {
			return err
		}
	}
	_, err = a.control.billing.TopUp(ctx, billing.TopUpInput{
		Account: buyer.ID, Amount: demoMoney, Receipt: demoNote, Actor: "demo", IdempotencyKey: "demo-top-up",
	})
	if err != nil {
		return fmt.Errorf("top up: %w", err)
	}
	llm := func(name string) admin.ProductInput {
		return admin.ProductInput{
			Seller: seller.ID, Kind: directory.KindLLM, Name: name, Models: []directory.Model{{Name: demoModel}},
			Upstreams: []directory.Upstream{{URL: upstream + "/v1", Weight: 1}}, ForwardMock: true, Publish: true,
		}
	}
	if err := a.demoLLM(ctx, &d.LLM, seller, buyer, llm("Demo chat, by call"), usage.Call, directory.ModePerCall); err != nil {
		return err
	}
	if err := a.demoLLM(ctx, &d.LLMTokens, seller, buyer, llm("Demo chat, by token"), usage.Token, directory.ModeUsedUpStop); err != nil {
		return err
	}
	p, err := a.demoProduct(ctx, d.API.ProductID, admin.ProductInput{
		Seller: seller.ID, Kind: directory.KindAPI, Name: "Demo weather", Path: demoPath, SimpleAuth: true,
		Upstreams: []directory.Upstream{{URL: upstream, Weight: 1}}, ForwardMock: true, Publish: true,
	})
	if err != nil {
		return err
	}
	d.API.ProductID = p.ID
	if d.API.SubscriptionID, err = a.demoPackage(ctx, seller, buyer, p, usage.Call, directory.ModePerCall); err != nil {
		return err
	}
	// The first snapshot after a purchase makes MARKETPLACE_APP (AUTH-7).
	if _, err := s.BuildSnapshot(ctx); err != nil {
		return err
	}
	return a.demoApplication(ctx, buyer)
}

// demoUpstream starts the built-in mock upstream, at the port it had before
// where that is free, or returns the one that was asked for.
func (a *App) demoUpstream(before string) (string, error) {
	if u := a.opts.DemoUpstream; u != "" {
		if p, err := url.Parse(u); err != nil || p.Host == "" {
			return "", fmt.Errorf("--demo-upstream %q is not an address: write it as in http://127.0.0.1:9000", u)
		}
		return strings.TrimRight(u, "/"), nil
	}
	mock := bench.NewUpstream(bench.UpstreamConfig{})
	a.closers = append(a.closers, mock.Close)
	if u, err := url.Parse(before); err == nil && u.Hostname() == "127.0.0.1" {
		if at, err := mock.Start(u.Host); err == nil {
			return at, nil
		}
	}
	at, err := mock.Start(net.JoinHostPort("127.0.0.1", "0"))
	if err != nil {
		return "", fmt.Errorf("mock upstream: %w", err)
	}
	return at, nil
}

func (a *App) demoAccount(ctx context.Context, kind admin.Role, name string, token *string) (admin.Account, error) {
	s := a.control.server
	acc, err := s.AccountByName(ctx, name)
	if errors.Is(err, admin.ErrNotFound) {
		acc, err = s.CreateAccount(ctx, admin.AccountInput{Kind: kind, Name: name})
	}
	if err != nil {
		return acc, fmt.Errorf("account %s: %w", name, err)
	}
	return acc, a.demoToken(ctx, token, admin.TokenInput{Role: kind, Account: acc.ID})
}

// demoToken keeps a token that still works and makes one otherwise.
func (a *App) demoToken(ctx context.Context, token *string, in admin.TokenInput) error {
	s := a.control.server
	if *token != "" {
		if _, err := s.Authenticate(ctx, *token); err == nil {
			return nil
		}
	}
	in.Description = demoNote
	t, err := s.CreateToken(ctx, in)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	*token = t.Secret
	return nil
}

// demoLogin keeps a login that demo.json remembers and makes one otherwise; a
// lost password is replaced.
func (a *App) demoLogin(ctx context.Context, d *DemoLogin, name, account string) error {
	s := a.control.server
	u, err := s.UserByName(ctx, name)
	if err == nil && d.Name == name && d.Password != "" {
		return nil
	}
	secret := rand.Text()
	switch {
	case errors.Is(err, admin.ErrNotFound):
		_, err = s.CreateUser(ctx, admin.UserInput{Account: account, Name: name, Password: secret, Owner: true})
	case err == nil && u.Account == account:
		_, err = s.UpdateUser(ctx, u.ID, admin.UserPatch{Password: &secret})
	case err == nil:
		err = admin.ErrNameTaken
	}
	if err != nil {
		return fmt.Errorf("login %s: %w", name, err)
	}
	d.Name, d.Password = name, secret
	return nil
}

// demoProduct returns the demo product with that id, or else of that name, with
// its upstream at today's address.
func (a *App) demoProduct(ctx context.Context, id string, in admin.ProductInput) (admin.Product, error) {
	s := a.control.server
	list, err := s.Products(ctx, admin.ProductFilter{Seller: in.Seller}, admin.Page{Limit: 100})
	if err != nil {
		return admin.Product{}, err
	}
	for _, p := range list {
		if p.ID != id && (id != "" || p.Name != in.Name) {
			continue
		}
		if p, err = s.Product(ctx, p.ID); err != nil { // with its upstreams
			return p, err
		}
		if len(p.Upstreams) == 1 && p.Upstreams[0].URL == in.Upstreams[0].URL {
			return p, nil
		}
		return s.UpdateProduct(ctx, p.ID, p.Revision, admin.ProductPatch{Upstreams: &in.Upstreams})
	}
	p, err := s.CreateProduct(ctx, in)
	if err != nil {
		return p, fmt.Errorf("product %s: %w", in.Name, err)
	}
	return p, nil
}

// demoPackage buys one package of the product and returns its subscription.
func (a *App) demoPackage(ctx context.Context, seller, buyer admin.Account, p admin.Product, unit usage.Unit, mode directory.Mode) (string, error) {
	b := a.control.billing
	specs, _, err := b.Specs(ctx, billing.SpecFilter{Product: p.ID})
	if err != nil {
		return "", err
	}
	var spec billing.Spec
	if len(specs) > 0 {
		spec = specs[0]
	} else {
		units := a.opts.DemoUnits
		if units <= 0 {
			units = demoUnits
		}
		spec, err = b.CreateSpec(ctx, billing.SpecInput{
			Product: p.ID, Seller: seller.ID, Name: fmt.Sprintf("%d %ss", units, unit), Mode: mode,
			Quotas: []billing.Quota{{Unit: unit, Amount: units}}, Price: 99_000_000,
			Validity: billing.Validity{Months: 12}, Reset: lot.Never, Actor: "demo",
		})
		if err != nil {
			return "", fmt.Errorf("spec of %s: %w", p.Name, err)
		}
	}
	order, err := b.Purchase(ctx, billing.PurchaseInput{
		Account: buyer.ID, Spec: spec.ID, Quantity: 1, Actor: "demo", IdempotencyKey: "demo-" + p.ID,
	})
	if err != nil {
		return "", fmt.Errorf("purchase of %s: %w", p.Name, err)
	}
	return order.Subscription, nil
}

func (a *App) demoLLM(ctx context.Context, d *DemoLLM, seller, buyer admin.Account, in admin.ProductInput, unit usage.Unit, mode directory.Mode) error {
	p, err := a.demoProduct(ctx, d.ProductID, in)
	if err != nil {
		return err
	}
	d.ProductID = p.ID
	d.Model, d.Unit = demoModel, unit.String()
	d.BaseURL = a.info().GatewayURL + "/v1/infers/" + p.InferID + "/v1"
	if d.SubscriptionID, err = a.demoPackage(ctx, seller, buyer, p, unit, mode); err != nil {
		return err
	}
	// The key is bound to its product, so that at /v1 the key alone decides
	// between the two products of one model name.
	d.APIKey, err = a.demoKey(ctx, buyer, p, d.APIKey)
	return err
}

// demoPolicy lifts the limit of calls at once from the demo's credentials: they
// are there to be tried out, and loaded.
var demoPolicy = directory.Policy{Limits: directory.Limits{Concurrency: -1}}

// demoKey returns the demo's API key of a product: the one demo.json remembers
// while it is still there, a new one in place of a lost one otherwise.
func (a *App) demoKey(ctx context.Context, buyer admin.Account, p admin.Product, before string) (string, error) {
	s := a.control.server
	keys, err := s.APIKeys(ctx, buyer.ID, admin.Page{Limit: 100})
	if err != nil {
		return "", err
	}
	for _, k := range keys {
		if k.Description != demoNote || len(k.Products) != 1 || k.Products[0] != p.ID {
			continue
		}
		if before != "" && strings.HasPrefix(before, k.Prefix) && strings.HasSuffix(before, k.Suffix) {
			return before, nil
		}
		if err := s.DeleteAPIKey(ctx, k.ID); err != nil {
			return "", err
		}
	}
	k, err := s.CreateAPIKey(ctx, admin.APIKeyInput{Account: buyer.ID, Description: demoNote, Products: []string{p.ID}})
	if err != nil {
		return "", fmt.Errorf("API key: %w", err)
	}
	if err := s.SetPolicy(ctx, admin.PolicyAPIKey, k.ID, demoPolicy); err != nil {
		return "", fmt.Errorf("API key: %w", err)
	}
	return k.Secret, nil
}

// demoApplication fills in AppKey, AppSecret and AppCode of MARKETPLACE_APP.
func (a *App) demoApplication(ctx context.Context, buyer admin.Account) error {
	s, d := a.control.server, &a.demo.API
	app, err := s.MarketApplication(ctx, buyer.ID)
	if err != nil {
		return fmt.Errorf("%s: %w", admin.MarketplaceApp, err)
	}
	if err := s.SetPolicy(ctx, admin.PolicyApplication, app.ID, demoPolicy); err != nil {
		return fmt.Errorf("%s: %w", admin.MarketplaceApp, err)
	}
	d.AppKey = app.Key.Key
	secret, err := s.RevealSecret(ctx, admin.Actor{Role: admin.RoleOperator}, app.ID)
	if err != nil {
		return err
	}
	d.AppSecret = secret.Reveal()
	codes, err := s.AppCodes(ctx, app.ID)
	if err != nil {
		return err
	}
	if len(codes) > 0 && d.AppCode != "" {
		return nil
	}
	for _, c := range codes {
		if err := s.DeleteAppCode(ctx, app.ID, c.ID); err != nil {
			return err
		}
	}
	code, err := s.CreateAppCode(ctx, app.ID, "")
	if err != nil {
		return fmt.Errorf("AppCode: %w", err)
	}
	d.AppCode = code.Code
	return nil
}

// writeDemo completes demo.json with today's addresses and writes it.
func (a *App) writeDemo(_ context.Context, info Info) (*Demo, error) {
	if a.cfg.Role == config.RoleGateway {
		return nil, errors.New("--demo needs the admin role: start it with --role all or --role admin")
	}
	d := a.demo
	d.GatewayURL, d.AdminURL, d.GatewayHTTPSURL = info.GatewayURL, info.AdminURL, info.GatewayHTTPSURL
	d.ConsoleURL = info.AdminURL + console.Base + "/"
	d.API.URL, d.API.HTTPSURL = info.GatewayURL+demoPath, ""
	if info.GatewayHTTPSURL != "" {
		d.API.HTTPSURL = info.GatewayHTTPSURL + demoPath
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(a.cfg.Data, demoFile), append(text, '\n')); err != nil {
		return nil, fmt.Errorf("write demo.json: %w", err)
	}
	return d, nil
}

// readDemo reads what an earlier start wrote; nothing is fine.
func readDemo(path string) (*Demo, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Demo{}, nil
	}
	if err != nil {
		return nil, err
	}
	var d Demo
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, hint(fmt.Errorf("%s is damaged: %w", path, err), "remove it; new credentials are made then")
	}
	return &d, nil
}
