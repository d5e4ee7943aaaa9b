package app

import (
	"errors"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tollgate/admin/console"
	"tollgate/internal/ids"
)

// adminHandler serves the admin port: health, metrics, and with the admin role
// its API.
func (a *App) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := a.ready(r); err != nil {
			answer(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		answer(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.reg, promhttp.HandlerOpts{Registry: a.reg}))
	if a.cfg.Admin.Profile {
		profile(mux)
	}
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", ids.NewRequest(a.now()).String())
		mux.ServeHTTP(w, r)
	})
	if a.control == nil {
		return own
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == "/healthz", path == "/readyz", path == "/metrics", a.cfg.Admin.Profile && strings.HasPrefix(path, profilePath):
			own(w, r)
		case path == console.Base, strings.HasPrefix(path, console.Base+"/"):
			a.control.console.ServeHTTP(w, r)
		case path == "/":
			http.Redirect(w, r, console.Base+"/", http.StatusSeeOther)
		default:
			a.control.server.ServeHTTP(w, r) // it numbers its requests itself
		}
	})
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

// ready reports whether this process can do its work.
func (a *App) ready(r *http.Request) error {
	if a.leaving.Load() {
		return errors.New("shutting down")
	}
	if a.node != nil {
		if err := a.node.gateway.Ready(); err != nil {
			return err
		}
		if err := a.node.journal.CanAdmit(); err != nil {
			return err
		}
		if err := a.node.storeReady(); err != nil {
			return err
		}
	}
	if a.control != nil {
		if err := a.control.db.Ping(r.Context()); err != nil {
			return err
		}
		return a.control.ready()
	}
	return nil
}
