package console

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"tollgate/admin"
)

// registerEntry adds the pages that need no session.
func (c *Console) registerEntry(mux *http.ServeMux) {
	page := func(pattern string, h handler) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+Base+path, func(w http.ResponseWriter, r *http.Request) {
			v := c.view(w, r)
			if err := r.ParseForm(); err != nil {
				v.fail(&Problem{Status: http.StatusBadRequest, Code: "MALFORMED"})
				return
			}
			if err := h(v); err != nil {
				v.fail(err)
			}
		})
	}
	page("GET /sign-in", func(v *view) error {
		open, err := c.admin.SetupOpen(v.ctx())
		if err != nil {
			return err
		}
		return v.show("signin", open)
	})
	page("POST /sign-in", c.signIn)
	page("GET /setup", func(v *view) error { return v.show("setup", nil) })
	page("POST /setup", func(v *view) error {
		f := v.r.PostForm
		_, err := c.admin.Setup(v.ctx(), address(v.r), strings.TrimSpace(f.Get("token")), f.Get("name"), f.Get("password"))
		if err != nil {
			return v.again("setup", nil, err)
		}
		return c.signIn(v)
	})
	page("POST /language", func(v *view) error {
		if lang := v.r.PostForm.Get("language"); slices.Contains(languages, lang) {
			c.setCookie(v.w, v.r, langCookie, lang, 365*24*3600)
		}
		http.Redirect(v.w, v.r, local(v.r.PostForm.Get("next")), http.StatusSeeOther)
		return nil
	})
}

// local is a path of the console, so that no link to the sign-in page can send
// anybody to another site.
func local(next string) string {
	if !strings.HasPrefix(next, Base+"/") || strings.ContainsAny(next, "\\\r\n") {
		return Base + "/"
	}
	return next
}

// again shows the form once more, with what is wrong and what was typed but for
// passwords.
func (v *view) again(page string, data any, err error) error {
	v.Error = problemOf(err)
	if v.Error.Status >= 500 {
		return err
	}
	return v.render(v.Error.Status, page, "layout", data)
}

func (c *Console) signIn(v *view) error {
	f := v.r.PostForm
	_, secret, err := c.admin.SignIn(v.ctx(), admin.SignInInput{
		Name: f.Get("name"), Password: f.Get("password"), Code: f.Get("code"), Address: address(v.r), Agent: v.r.UserAgent(),
	})
	if errors.Is(err, admin.ErrSignIn) || errors.Is(err, admin.ErrTooManyTries) {
		return v.again("signin", false, err)
	}
	if err != nil {
		return err
	}
	c.setCookie(v.w, v.r, cookieName, secret, 0)
	http.Redirect(v.w, v.r, local(f.Get("next")), http.StatusSeeOther)
	return nil
}

// signedIn are the pages of somebody who signed in.
func (c *Console) signedIn() map[string]handler {
	return map[string]handler{
		"GET /{$}":       home,
		"POST /sign-out": signOut,
		"POST /confirm":  confirm,

		"GET /account":                       account,
		"POST /account/password":             changePassword,
		"POST /account/totp":                 totp,
		"POST /account/sessions/{id}/end":    endSession,
		"GET /users":                         users,
		"POST /users":                        createUser,
		"POST /users/{id}":                   updateUser,
		"GET /products":                      products,
		"GET /products/{id}":                 product,
		"GET /buy/{id}":                      checkout,
		"POST /buy/{id}":                     buy,
		"GET /orders":                        orders,
		"GET /orders/{id}":                   order,
		"GET /packages/{id}":                 packagePage,
		"GET /live/packages":                 livePackages,
		"GET /live/packages/{id}":            livePackage,
		"GET /keys":                          keys,
		"POST /keys":                         createKey,
		"POST /keys/{id}":                    updateKey,
		"POST /keys/{id}/delete":             deleteKey,
		"GET /apps":                          apps,
		"POST /apps":                         createApp,
		"GET /apps/{id}":                     app,
		"POST /apps/{id}/secret":             revealSecret,
		"POST /apps/{id}/codes":              createCode,
		"POST /apps/{id}/codes/{code}":       deleteCode,
		"POST /apps/{id}/bindings/{product}": bind,
		"GET /usage":                         usagePage,
		"GET /live/usage":                    liveUsage,
		"GET /usage.csv":                     usageCSV,
		"GET /calls":                         calls,
		"GET /calls/{id}":                    callPage,
		"GET /balance":                       balance,
		"GET /accounts":                      accounts,
		"POST /accounts":                     createAccount,
		"GET /accounts/{id}":                 accountPage,
		"POST /accounts/{id}/top-ups":        topUp,
		"GET /operations":                    operations,
		"GET /live/operations":               liveOperations,
	}
}

func signOut(v *view) error {
	if err := v.c.admin.EndSession(v.ctx(), v.User.ID, v.session.ID); err != nil && !errors.Is(err, admin.ErrNotFound) {
		return err
	}
	v.c.setCookie(v.w, v.r, cookieName, "", -1)
	return v.to("/sign-in")
}

// confirm takes the password again and repeats the post that asked for it,
// which carries nothing but its path.
func confirm(v *view) error {
	next := local(v.r.PostForm.Get("next"))
	if err := v.c.admin.Confirm(v.ctx(), v.session.ID, v.User.ID, v.r.PostForm.Get("password"), address(v.r)); err != nil {
		return v.again("confirm", next, err)
	}
	http.Redirect(v.w, v.r, next, http.StatusTemporaryRedirect)
	return nil
}

type accountData struct {
	Sessions []admin.Session
	Current  string
	Secret   string // of one-time codes, offered
	URI      string
}

func accountView(v *view) (d accountData, err error) {
	d.Current = v.session.ID
	if d.Sessions, err = v.c.admin.Sessions(v.ctx(), v.User.ID); err != nil {
		return d, err
	}
	if !v.User.TOTP {
		d.Secret, d.URI = v.c.admin.OfferTOTP(v.User)
	}
	return d, nil
}

func account(v *view) error {
	d, err := accountView(v)
	if err != nil {
		return err
	}
	return v.show("account", d)
}

func accountAgain(v *view, err error) error {
	d, other := accountView(v)
	if other != nil {
		return other
	}
	return v.again("account", d, err)
}

func changePassword(v *view) error {
	f := v.r.PostForm
	err := v.c.admin.ChangePassword(v.ctx(), v.session.ID, v.User.ID, f.Get("old"), f.Get("password"), address(v.r))
	if err != nil {
		return accountAgain(v, err)
	}
	return v.to("/account")
}

// totp turns one-time codes on, with a code that proves the device has the
// secret, or off, with the password.
func totp(v *view) error {
	f := v.r.PostForm
	err := v.c.admin.Confirm(v.ctx(), v.session.ID, v.User.ID, f.Get("password"), address(v.r))
	switch {
	case err != nil:
	case v.User.TOTP:
		err = v.c.admin.DisableTOTP(v.ctx(), v.User.ID)
	default:
		err = v.c.admin.EnableTOTP(v.ctx(), v.User.ID, f.Get("secret"), f.Get("code"))
	}
	if err != nil {
		return accountAgain(v, err)
	}
	return v.to("/account")
}

func endSession(v *view) error {
	if err := v.c.admin.EndSession(v.ctx(), v.User.ID, v.r.PathValue("id")); err != nil {
		return err
	}
	return v.to("/account")
}

// users shows the users of the actor's account; to an operator the operators,
// or those of one account.
func users(v *view) error {
	var d list[admin.User]
	if err := v.get("/users?limit=200"+accountQuery(v), &d); err != nil {
		return err
	}
	return v.show("users", d)
}

func accountQuery(v *view) string {
	if id := v.r.FormValue("account_id"); id != "" && v.Role == admin.RoleOperator {
		return at("&account_id=%s", id)
	}
	return ""
}

func createUser(v *view) error {
	f := v.r.PostForm
	in := map[string]any{"name": f.Get("name"), "password": f.Get("password"), "owner": f.Get("owner") != ""}
	if id := f.Get("account_id"); id != "" {
		in["account_id"] = id
	}
	if p := statements(f["deny"], f["allow"]); len(p) > 0 {
		in["policies"] = p
	}
	if err := v.call(http.MethodPost, "/users", in, nil); err != nil {
		var d list[admin.User]
		if other := v.get("/users?limit=200"+accountQuery(v), &d); other != nil {
			return other
		}
		return v.again("users", d, err)
	}
	if id := f.Get("account_id"); id != "" {
		return v.to(at("/users?account_id=%s", id))
	}
	return v.to("/users")
}

// statements makes a policy of the form's check boxes.
func statements(deny, allow []string) []admin.Statement {
	var out []admin.Statement
	if len(deny) > 0 {
		out = append(out, admin.Statement{Effect: admin.Deny, Actions: deny})
	}
	if len(allow) > 0 {
		out = append(out, admin.Statement{Effect: admin.Allow, Actions: allow})
	}
	return out
}

func updateUser(v *view) error {
	f, id := v.r.PostForm, v.r.PathValue("id")
	var err error
	switch f.Get("do") {
	case "delete":
		err = v.call(http.MethodDelete, at("/users/%s", id), nil, nil)
	case "disable", "enable":
		err = v.call(http.MethodPatch, at("/users/%s", id), map[string]any{"disabled": f.Get("do") == "disable"}, nil)
	}
	if err != nil {
		return err
	}
	if id := f.Get("account_id"); id != "" {
		return v.to(at("/users?account_id=%s", id))
	}
	return v.to("/users")
}
