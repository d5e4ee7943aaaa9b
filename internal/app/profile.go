package app

import (
	"net/http"
	"net/http/pprof"
)

// profilePath is where the profiles are found; net/http/pprof knows no other.
const profilePath = "/debug/pprof/"

// profile serves the profiles of net/http/pprof. They are registered here and
// nowhere else: without admin.profile the paths do not exist.
func profile(mux *http.ServeMux) {
	mux.HandleFunc("GET "+profilePath, pprof.Index)
	mux.HandleFunc("GET "+profilePath+"cmdline", pprof.Cmdline)
	mux.HandleFunc("GET "+profilePath+"profile", pprof.Profile)
	mux.HandleFunc("GET "+profilePath+"symbol", pprof.Symbol)
	mux.HandleFunc("POST "+profilePath+"symbol", pprof.Symbol)
	mux.HandleFunc("GET "+profilePath+"trace", pprof.Trace)
}
