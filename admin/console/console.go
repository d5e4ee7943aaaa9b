package console

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tollgate/admin"
)

// Base is where the console lies on the admin port.
const Base = "/console"

const (
	cookieName = "tollgate_session"
	langCookie = "tollgate_language"
	maxForm    = 64 << 10
)

//go:embed templates static words
var files embed.FS

// Options are what a Console works with.
type Options struct {
	Admin *admin.Server
	// SecureCookies keeps the session's cookie to https. "auto" does so unless
	// the browser came to this very machine (localhost, 127.0.0.1, ::1) by
	// plain http; "on" and "off" say so outright. Default "auto".
	SecureCookies string
	Log           *slog.Logger     // default: discards
	Now           func() time.Time // default time.Now
}

// Console answers everything below /console. It is safe for concurrent use.
type Console struct {
	admin  *admin.Server
	secure string
	log    *slog.Logger
	now    func() time.Time
	pages  map[string]*template.Template
	words  map[string]map[string]string
	http   http.Handler
}

// New returns a Console. Its templates and words are checked here, so a build
// that is not whole does not start.
func New(o Options) (*Console, error) {
	c := &Console{admin: o.Admin, secure: o.SecureCookies, log: o.Log, now: o.Now}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	var err error
	if c.words, err = loadWords(); err != nil {
		return nil, err
	}
	if c.pages, err = loadPages(); err != nil {
		return nil, err
	}
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "this form was sent from another site; open the console and send it from there", http.StatusForbidden)
	}))
	c.http = guard.Handler(c.routes())
	return c, nil
}

// ServeHTTP sets what protects every answer and runs the page.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store") // pages hold balances and, once, secrets
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	c.http.ServeHTTP(w, r)
}

func (c *Console) routes() *http.ServeMux {
	mux := http.NewServeMux()
	static, err := fs.Sub(files, "static")
	if err != nil {
		panic(err) // the folder is embedded
	}
	assets := http.StripPrefix(Base+"/static/", http.FileServerFS(static))
	mux.HandleFunc("GET "+Base+"/static/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=86400")
		assets.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET "+Base, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, Base+"/", http.StatusSeeOther)
	})
	c.registerEntry(mux)
	for pattern, h := range c.signedIn() {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+Base+path, func(w http.ResponseWriter, r *http.Request) { c.serve(w, r, h) })
	}
	return mux
}

// handler makes the answer of a page for somebody who signed in.
type handler func(v *view) error

// serve finds out who asks, runs h, and shows its error.
func (c *Console) serve(w http.ResponseWriter, r *http.Request, h handler) {
	v := c.view(w, r)
	var secret string
	if cookie, err := r.Cookie(cookieName); err == nil {
		secret = cookie.Value
	}
	// What the page asks for by itself does not keep a session alive.
	live := strings.HasPrefix(r.URL.Path, Base+"/live/")
	actor, user, session, err := c.admin.Resume(r.Context(), secret, !live)
	switch {
	case errors.Is(err, admin.ErrUnauthenticated) && live:
		// The page that polls learns that it is over by going there itself.
		w.Header().Set("HX-Redirect", Base+"/sign-in")
		w.WriteHeader(http.StatusUnauthorized)
		return
	case errors.Is(err, admin.ErrUnauthenticated):
		c.toSignIn(w, r)
		return
	case err != nil:
		v.fail(err)
		return
	}
	v.actor, v.User, v.session, v.Role = actor, user, session, actor.Role
	if err := r.ParseForm(); err != nil {
		v.fail(&Problem{Status: http.StatusBadRequest, Code: "MALFORMED"})
		return
	}
	if err := h(v); err != nil {
		v.fail(err)
	}
}

func (c *Console) toSignIn(w http.ResponseWriter, r *http.Request) {
	to := Base + "/sign-in"
	if r.Method == http.MethodGet && r.URL.Path != Base+"/" {
		to += "?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// view is one request and what its page shows.
type view struct {
	c       *Console
	w       http.ResponseWriter
	r       *http.Request
	actor   admin.Actor
	session admin.Session

	Lang  string
	User  admin.User
	Role  admin.Role
	Page  string // name of the template
	Data  any
	Error *Problem // shown above the form it belongs to
	Form  url.Values
	Once  string // Idempotency-Key of the page's form
}

func (c *Console) view(w http.ResponseWriter, r *http.Request) *view {
	return &view{c: c, w: w, r: r, Lang: c.language(r), Form: r.Form, Once: randomKey()}
}

func randomKey() string {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		panic("console: no randomness: " + err.Error())
	}
	return hex.EncodeToString(b)
}

// show renders a page.
func (v *view) show(page string, data any) error {
	return v.render(http.StatusOK, page, "layout", data)
}

// fragment renders a part of a page alone, with an ETag: a page that asks again
// for what has not changed gets 304.
func (v *view) fragment(page, name string, data any) error {
	body, err := v.execute(page, name, data)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	tag := `"` + hex.EncodeToString(sum[:12]) + `"`
	h := v.w.Header()
	h.Set("ETag", tag)
	h.Set("Cache-Control", "private, no-cache")
	h.Set("Vary", "Cookie, HX-Request")
	if v.r.Header.Get("If-None-Match") == tag {
		v.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	_, _ = v.w.Write(body)
	return nil
}

func (v *view) render(status int, page, name string, data any) error {
	body, err := v.execute(page, name, data)
	if err != nil {
		return err
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = v.w.Write(body) // the browser is gone: there is nobody to tell
	return nil
}

func (v *view) execute(page, name string, data any) ([]byte, error) {
	v.Page, v.Data, v.Form = page, data, v.r.Form
	t := v.c.pages[page]
	if t == nil {
		return nil, fmt.Errorf("console: no page %s", page)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, name, v); err != nil {
		return nil, fmt.Errorf("console: render %s: %w", page, err)
	}
	return b.Bytes(), nil
}

// fail shows an error as a page that says what to do.
func (v *view) fail(err error) {
	p := problemOf(err)
	if p.Status >= 500 {
		v.c.log.Error("console page failed", "path", v.r.URL.Path, "code", p.Code, "error", err)
	}
	if p.Code == "CONFIRM" {
		_ = v.render(http.StatusForbidden, "confirm", "layout", v.r.URL.Path)
		return
	}
	v.Error = p
	if err := v.render(p.Status, "error", "layout", nil); err != nil {
		v.c.log.Error("console error page failed", "error", err)
		http.Error(v.w, "internal error", http.StatusInternalServerError)
	}
}

// to sends the browser on after a post.
func (v *view) to(path string) error {
	http.Redirect(v.w, v.r, Base+path, http.StatusSeeOther)
	return nil
}

// isSecure tells whether the session's cookie is kept to https.
func (c *Console) isSecure(r *http.Request) bool {
	switch c.secure {
	case "on":
		return true
	case "off":
		return false
	}
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host != "localhost" && (ip == nil || !ip.IsLoopback())
}

func (c *Console) setCookie(w http.ResponseWriter, r *http.Request, name, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Value: value, Path: Base, MaxAge: age, HttpOnly: true, Secure: c.isSecure(r), SameSite: http.SameSiteLaxMode,
	})
}

// address is whom tries to sign in are counted by.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func (v *view) ctx() context.Context { return v.r.Context() }
