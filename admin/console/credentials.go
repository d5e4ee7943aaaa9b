package console

import (
	"net/http"
)

type keysData struct {
	list[keyWire]
	Products []productWire // LLM products, for the allow-list
	Names    map[string]string
	Made     *keyWire // just made: its secret is shown this once
	Base     string   // where it is used
}

func keysView(v *view) (d keysData, err error) {
	if err := v.get("/api-keys?limit=100", &d.list); err != nil {
		return d, err
	}
	var l list[productWire]
	if _, err := v.maybe("/products?limit=500", &l); err != nil {
		return d, err
	}
	d.Names = map[string]string{}
	for _, p := range l.Items {
		d.Names[p.ID] = p.Name
		if p.Kind == "llm" {
			d.Products = append(d.Products, p)
		}
	}
	return d, nil
}

func keys(v *view) error {
	d, err := keysView(v)
	if err != nil {
		return err
	}
	return v.show("keys", d)
}

// createKey shows the key on the answer itself: it is in no other page.
func createKey(v *view) error {
	in := map[string]any{"description": v.r.PostForm.Get("description")}
	product := v.r.PostForm.Get("product")
	if product != "" {
		in["products"] = []string{product}
	}
	var k keyWire
	err := v.call(http.MethodPost, "/api-keys", in, &k)
	d, other := keysView(v)
	if other != nil {
		return other
	}
	if err != nil {
		return v.again("keys", d, err)
	}
	d.Made = &k
	for _, p := range d.Products {
		if p.ID == product || product == "" && d.Base == "" {
			d.Base = p.BaseURL
		}
	}
	return v.show("keys", d)
}

func updateKey(v *view) error {
	in := map[string]any{"enabled": v.r.PostForm.Get("enabled") == "true"}
	if err := v.call(http.MethodPatch, at("/api-keys/%s", v.r.PathValue("id")), in, nil); err != nil {
		return err
	}
	return v.to("/keys")
}

func deleteKey(v *view) error {
	if err := v.call(http.MethodDelete, at("/api-keys/%s", v.r.PathValue("id")), nil, nil); err != nil {
		return err
	}
	return v.to("/keys")
}

func apps(v *view) error {
	var l list[applicationWire]
	if err := v.get("/applications?limit=100", &l); err != nil {
		return err
	}
	return v.show("apps", l)
}

func createApp(v *view) error {
	var a applicationWire
	if err := v.call(http.MethodPost, "/applications", map[string]any{"name": v.r.PostForm.Get("name")}, &a); err != nil {
		var l list[applicationWire]
		if other := v.get("/applications?limit=100", &l); other != nil {
			return other
		}
		return v.again("apps", l, err)
	}
	return v.to(at("/apps/%s", a.ID))
}

type codeWire struct {
	ID     string `json:"id"`
	Masked string `json:"masked"`
	Code   string `json:"app_code"`
}

type appData struct {
	App      applicationWire
	Codes    []codeWire
	Products []productWire // API products, to bind
	Names    map[string]string
	Secret   string // just revealed
	Code     string // just made
}

func appView(v *view) (d appData, err error) {
	id := v.r.PathValue("id")
	if err := v.get(at("/applications/%s", id), &d.App); err != nil {
		return d, err
	}
	var codes list[codeWire]
	if _, err := v.maybe(at("/applications/%s/app-codes", id), &codes); err != nil {
		return d, err
	}
	d.Codes = codes.Items
	var l list[productWire]
	if _, err := v.maybe("/products?limit=500", &l); err != nil {
		return d, err
	}
	d.Names = map[string]string{}
	for _, p := range l.Items {
		d.Names[p.ID] = p.Name
		if p.Kind == "api" {
			d.Products = append(d.Products, p)
		}
	}
	return d, nil
}

func app(v *view) error {
	d, err := appView(v)
	if err != nil {
		return err
	}
	return v.show("app", d)
}

// revealSecret shows the AppSecret on the answer; the API writes it into the
// audit trail and asks for a password entered lately.
func revealSecret(v *view) error {
	var out struct {
		Secret string `json:"app_secret"`
	}
	if err := v.call(http.MethodPost, at("/applications/%s/secret/reveal", v.r.PathValue("id")), nil, &out); err != nil {
		return err
	}
	d, err := appView(v)
	if err != nil {
		return err
	}
	d.Secret = out.Secret
	return v.show("app", d)
}

func createCode(v *view) error {
	var out codeWire
	err := v.call(http.MethodPost, at("/applications/%s/app-codes", v.r.PathValue("id")), map[string]any{}, &out)
	d, other := appView(v)
	if other != nil {
		return other
	}
	if err != nil {
		return v.again("app", d, err)
	}
	d.Code = out.Code
	return v.show("app", d)
}

func deleteCode(v *view) error {
	id := v.r.PathValue("id")
	if err := v.call(http.MethodDelete, at("/applications/%s/app-codes/%s", id, v.r.PathValue("code")), nil, nil); err != nil {
		return err
	}
	return v.to(at("/apps/%s", id))
}

// bind binds a product to an application or, with do=unbind, takes it away.
func bind(v *view) error {
	id, product := v.r.PathValue("id"), v.r.PathValue("product")
	if p := v.r.PostForm.Get("product"); p != "" {
		product = p
	}
	method := http.MethodPut
	if v.r.PostForm.Get("do") == "unbind" {
		method = http.MethodDelete
	}
	if err := v.call(method, at("/applications/%s/bindings/%s", id, product), nil, nil); err != nil {
		d, other := appView(v)
		if other != nil {
			return other
		}
		return v.again("app", d, err)
	}
	return v.to(at("/apps/%s", id))
}

// KeyLimit is KEY-4's figure as this deployment has it.
func (v *view) KeyLimit() int { return v.c.admin.Limits().APIKeys }
