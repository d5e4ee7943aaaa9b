package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"tollgate/internal/ids"
)

type requestIDKey struct{}

// requestID returns the id of the request ctx belongs to, or "".
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// ServeHTTP answers /api/v1 and /feed/v1. Every answer carries X-Request-Id.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := ids.NewRequest(s.now()).String()
	r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
	h := w.Header()
	h.Set("X-Request-Id", id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store") // answers hold secrets and balances
	tw := &trackingWriter{ResponseWriter: w}
	defer s.recover(tw, r)

	handler, pattern := s.mux.Handler(r)
	if pattern == "" {
		s.noRoute(tw, r, handler)
		return
	}
	s.mux.ServeHTTP(tw, r)
}

// trackingWriter remembers whether the answer has begun.
type trackingWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *trackingWriter) WriteHeader(status int) {
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *trackingWriter) Write(b []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *trackingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// recover answers 500 after a panic in a handler, unless the answer has begun:
// then the connection is cut, so that the client does not take half an answer
// for a whole one.
func (s *Server) recover(w *trackingWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	s.failures.Add(1)
	s.log.ErrorContext(r.Context(), "panic in a handler", "request_id", requestID(r.Context()),
		"method", r.Method, "route", r.Pattern, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	s.writeProblem(w, newProblem(r.Context(), 500, "INTERNAL", "Internal error", internalDetail))
}

// noRoute turns the router's plain-text 404 and 405 into problems.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request, handler http.Handler) {
	probe := &statusProbe{header: http.Header{}}
	handler.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		allow := probe.header.Get("Allow")
		w.Header().Set("Allow", allow)
		s.writeProblem(w, statusProblem(r.Context(), 405, "this path answers "+allow+"; see /api/v1/openapi.json"))
		return
	}
	s.writeProblem(w, statusProblem(r.Context(), 404, "there is nothing at this path; see /api/v1/openapi.json"))
}

// statusProbe keeps the status and headers of an answer and drops its body.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }

// writeProblem sends p.
func (s *Server) writeProblem(w http.ResponseWriter, p *Problem) {
	for k, v := range p.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p) // the client is gone: there is nobody to tell
}

// problem turns the error of a handler into its wire form. What is not in the
// table is logged here, once, and hidden from the client.
func (s *Server) problem(ctx context.Context, err error) *Problem {
	p, known := problemOf(ctx, err)
	if !known {
		if errors.Is(err, context.Canceled) {
			return p // the client left; nobody reads the answer
		}
		s.failures.Add(1)
		s.log.LogAttrs(ctx, slog.LevelError, "admin request failed", slog.String("request_id", p.RequestID), slog.String("error", err.Error()))
	}
	return p
}

// bearer returns the token of the Authorization header, or "".
func bearer(header string) string {
	kind, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(kind, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
