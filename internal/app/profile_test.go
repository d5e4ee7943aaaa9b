package app

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/internal/config"
)

// TestProfile: the profiles are there when they were asked for, and only then.
func TestProfile(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		cfg := config.Default()
		cfg.Admin.Profile = on
		h := (&App{cfg: cfg, reg: prometheus.NewRegistry(), now: time.Now}).adminHandler()
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline"} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, strings.NewReader("")))
			if got := w.Code == http.StatusOK; got != on {
				t.Errorf("profile %v: %s answers %d", on, path, w.Code)
			}
		}
	}
}
