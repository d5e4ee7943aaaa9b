package console

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"tollgate/admin"
)

// pack is a subscription with what is left of it.
type pack struct {
	subscriptionWire
	Name  string
	Quota *quotaWire // nil: may not be seen, or the store is away
	Bars  map[string][]Bar
	Days  string // how long it lasts at today's pace; "" unknown
}

type homeData struct {
	Packs   []pack
	Balance string // "" when it may not be seen
	Steps   []step
	Sales   []orderWire
	Names   map[string]string
	Ops     *operationsData
}

// step is a line of the checklist that ends with the first 2xx call.
type step struct {
	Key, Path string
	Done      bool
}

func home(v *view) error {
	switch v.Role {
	case admin.RoleOperator:
		d, err := operationsView(v)
		if err != nil {
			return err
		}
		return v.show("operations", d)
	case admin.RoleSeller:
		return sellerHome(v)
	}
	var d homeData
	var err error
	if d.Packs, err = packs(v); err != nil {
		return err
	}
	var b balanceWire
	if _, err := v.maybe(at("/accounts/%s/balance", v.actor.Account), &b); err != nil {
		return err
	}
	d.Balance = b.Available
	var keys list[keyWire]
	var used figuresWire
	if _, err := v.maybe("/api-keys?limit=1", &keys); err != nil {
		return err
	}
	from := v.c.now().UTC().Add(-90 * 24 * time.Hour).Format(time.RFC3339)
	if _, err := v.maybe("/usage?from="+from, &used); err != nil {
		return err
	}
	done := used.Total.Counted > 0
	isAPI := slices.ContainsFunc(d.Packs, func(p pack) bool { return p.Access != nil && p.Access.AppKey != "" })
	d.Steps = []step{
		{"step.buy", "/products", len(d.Packs) > 0},
		{"step.key", "/keys", len(keys.Items) > 0 || isAPI},
		{"step.call", "/usage", done},
	}
	if done {
		d.Steps = nil
	}
	return v.show("home", d)
}

func sellerHome(v *view) error {
	var d homeData
	var sales list[orderWire]
	if _, err := v.maybe("/orders?limit=20", &sales); err != nil {
		return err
	}
	d.Sales = sales.Items
	var err error
	if d.Names, err = productNames(v); err != nil {
		return err
	}
	return v.show("seller", d)
}

// productNames are the names of the products the user may see, by id.
func productNames(v *view) (map[string]string, error) {
	var l list[productWire]
	if _, err := v.maybe("/products?limit=500", &l); err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, p := range l.Items {
		names[p.ID] = p.Name
	}
	return names, nil
}

// maxPacks bounds how many packages one page asks the quota store about.
const maxPacks = 50

func packs(v *view) ([]pack, error) {
	var subs list[subscriptionWire]
	if _, err := v.maybe("/subscriptions?limit="+strconv.Itoa(maxPacks), &subs); err != nil {
		return nil, err
	}
	names, err := productNames(v)
	if err != nil {
		return nil, err
	}
	out := make([]pack, 0, len(subs.Items))
	for _, sub := range subs.Items {
		p := pack{subscriptionWire: sub, Name: names[sub.Product]}
		if err := p.fill(v); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// fill adds what is left and how long it lasts.
func (p *pack) fill(v *view) error {
	if p.Name == "" {
		p.Name = p.Product
	}
	var q quotaWire
	ok, err := v.maybe(at("/subscriptions/%s/quota", p.ID), &q)
	if err != nil || !ok {
		return err
	}
	p.Quota, p.Bars = &q, map[string][]Bar{}
	for _, u := range q.Units {
		var left []int64
		for _, l := range q.Lots {
			if l.Unit == u.Unit && (l.State == "active" || l.State == "pending") {
				left = append(left, l.Remaining+l.Leased)
			}
		}
		p.Bars[u.Unit] = stacked(left, max(u.Granted-u.Lapsed, 1))
	}
	p.Days, err = runway(v, p)
	return err
}

// runway is how many days the first billing item lasts, from the faster to the
// slower pace of the last day and the last week; "" where nothing was used or
// it may not be seen.
func runway(v *view, p *pack) (string, error) {
	if len(p.Quota.Units) == 0 {
		return "", nil
	}
	u := p.Quota.Units[0]
	var least, most int64
	for _, days := range []int64{1, 7} {
		var f figuresWire
		from := v.c.now().UTC().Add(-time.Duration(days) * 24 * time.Hour).Truncate(time.Hour).Format(time.RFC3339)
		ok, err := v.maybe(at("/usage?subscription_id=%s&from="+from, p.ID), &f)
		if err != nil || !ok {
			return "", err
		}
		used := f.Total.Charged[u.Unit]
		if used == 0 {
			continue
		}
		lasts := (u.Remaining + u.Leased) / max(used/days, 1)
		if least == 0 && most == 0 {
			least, most = lasts, lasts
		}
		least, most = min(least, lasts), max(most, lasts)
	}
	switch {
	case most == 0 && least == 0:
		return "", nil
	case least == most:
		return v.T("runway", v.N(least)), nil
	}
	return v.T("runway.range", v.N(least), v.N(most)), nil
}

func livePackages(v *view) error {
	list, err := packs(v)
	if err != nil {
		return err
	}
	return v.fragment("home", "packages", homeData{Packs: list})
}

func onePack(v *view) (p pack, err error) {
	if err := v.get(at("/subscriptions/%s", v.r.PathValue("id")), &p.subscriptionWire); err != nil {
		return p, err
	}
	var product productWire
	if _, err := v.maybe(at("/products/%s", p.Product), &product); err != nil {
		return p, err
	}
	p.Name = product.Name
	return p, p.fill(v)
}

func packagePage(v *view) error {
	p, err := onePack(v)
	if err != nil {
		return err
	}
	return v.show("package", p)
}

func livePackage(v *view) error {
	p, err := onePack(v)
	if err != nil {
		return err
	}
	return v.fragment("package", "quota", p)
}

type productData struct {
	Product productWire
	Specs   []offer
}

// offer is a package on sale with what one unit costs.
type offer struct {
	specWire
	Unit string // price of 1,000 calls or 1M tokens; "" when it has no single price
	Per  string // key of the words for how many that is
}

// price fills in the price of a package's unit, exactly, in millionths of a
// yuan, rounded half up for the eye only.
func (o *offer) price() {
	if len(o.Quotas) != 1 || o.Quotas[0].Amount <= 0 {
		return
	}
	q := o.Quotas[0]
	per := int64(1000)
	o.Per = "per.thousand"
	if q.Unit == "token" || q.Unit == "input_token" || q.Unit == "output_token" || q.Unit == "character" {
		per, o.Per = 1_000_000, "per.million"
	}
	o.Unit = unitPrice(o.Price, q.Amount, per)
}

func products(v *view) error {
	var l list[productWire]
	if err := v.get("/products?limit=50"+cursor(v), &l); err != nil {
		return err
	}
	return v.show("products", l)
}

// cursor passes on which part of a list the address asks for.
func cursor(v *view) string {
	if c := v.r.Form.Get("cursor"); c != "" {
		return at("&cursor=%s", c)
	}
	return ""
}

func product(v *view) error {
	var d productData
	id := v.r.PathValue("id")
	if err := v.get(at("/products/%s", id), &d.Product); err != nil {
		return err
	}
	var specs list[specWire]
	if err := v.get(at("/products/%s/specs?limit=100", id), &specs); err != nil {
		return err
	}
	for _, sp := range specs.Items {
		o := offer{specWire: sp}
		o.price()
		d.Specs = append(d.Specs, o)
	}
	return v.show("product", d)
}

type checkoutData struct {
	Offer   offer
	Product productWire
	Balance string
}

func checkoutView(v *view) (d checkoutData, err error) {
	if err := v.get(at("/specs/%s", v.r.PathValue("id")), &d.Offer.specWire); err != nil {
		return d, err
	}
	d.Offer.price()
	if err := v.get(at("/products/%s", d.Offer.Product), &d.Product); err != nil {
		return d, err
	}
	var b balanceWire
	_, err = v.maybe(at("/accounts/%s/balance", v.actor.Account), &b)
	d.Balance = b.Available
	return d, err
}

func checkout(v *view) error {
	d, err := checkoutView(v)
	if err != nil {
		return err
	}
	return v.show("checkout", d)
}

// buy places the order of a form. The form's key makes a double click, a
// repeated post and the way back one order (ORDER-15).
func buy(v *view) error {
	n, err := strconv.ParseInt(v.r.PostForm.Get("quantity"), 10, 64)
	if err != nil {
		n = 0 // the API says what is wrong
	}
	var o orderWire
	err = v.call(http.MethodPost, "/orders", map[string]any{"spec_id": v.r.PathValue("id"), "quantity": n}, &o)
	if err != nil {
		d, other := checkoutView(v)
		if other != nil {
			return other
		}
		return v.again("checkout", d, err)
	}
	return v.to(at("/orders/%s", o.ID))
}

type ordersData struct {
	list[orderWire]
	Names map[string]string
}

func orders(v *view) error {
	var d ordersData
	if err := v.get("/orders?limit=50"+cursor(v), &d.list); err != nil {
		return err
	}
	var err error
	if d.Names, err = productNames(v); err != nil {
		return err
	}
	return v.show("orders", d)
}

func order(v *view) error {
	var o orderWire
	if err := v.get(at("/orders/%s", v.r.PathValue("id")), &o); err != nil {
		return err
	}
	return v.show("order", o)
}

func balance(v *view) error {
	var d struct {
		list[entryWire]
		Available string
	}
	var b balanceWire
	if err := v.get(at("/accounts/%s/balance", v.actor.Account), &b); err != nil {
		return err
	}
	d.Available = b.Available
	if err := v.get(at("/accounts/%s/statement?limit=50", v.actor.Account)+cursor(v), &d.list); err != nil {
		return err
	}
	return v.show("balance", d)
}
