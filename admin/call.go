package admin

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"time"
)

type insideKey struct{}

// Answer is what an operation answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Call runs an operation of the API in this process, as somebody who is
// authenticated already: roles, policies, validation, idempotency, audit and
// problems are those of the API, and no connection is made. target is the path
// below BasePath with its query, body is JSON or empty. The console does
// everything this way, so whatever it can do the API can.
func (s *Server) Call(ctx context.Context, a Actor, method, target string, header http.Header, body []byte) Answer {
	ctx = context.WithValue(ctx, insideKey{}, a)
	r, err := http.NewRequestWithContext(ctx, method, BasePath+target, bytes.NewReader(body))
	if err != nil {
		return Answer{Status: http.StatusBadRequest}
	}
	for k, v := range header {
		r.Header[k] = v
	}
	if len(body) > 0 {
		r.Header.Set("Content-Type", "application/json")
	}
	r.RequestURI = BasePath + target
	w := &bufferWriter{header: http.Header{}, status: http.StatusOK}
	s.ServeHTTP(w, r)
	return Answer{Status: w.status, Header: w.header, Body: w.body.Bytes()}
}

// bufferWriter keeps an answer.
type bufferWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *bufferWriter) Header() http.Header         { return w.header }
func (w *bufferWriter) WriteHeader(status int)      { w.status = status }
func (w *bufferWriter) Write(b []byte) (int, error) { return w.body.Write(b) }

// SetReadDeadline does nothing: there is no connection.
func (w *bufferWriter) SetReadDeadline(time.Time) error { return nil }

// actorOf returns who makes a request: the one Call was given, or the owner of
// the token.
func (s *Server) actorOf(ctx context.Context, authorization string) (Actor, error) {
	if a, ok := ctx.Value(insideKey{}).(Actor); ok {
		return a, nil
	}
	return s.Authenticate(ctx, bearer(authorization))
}

// permit decides whether an actor whose role may call an operation may call it
// in person: policies narrow sub-users, and what shows or changes a secret asks
// a browser for the password again.
func (s *Server) permit(a Actor, operation string) error {
	if a.sub && !permitted(a.policies, action(operation)) {
		return ErrDenied
	}
	secret := strings.HasPrefix(operation, "reveal-") || strings.HasPrefix(operation, "reset-")
	if secret && a.User != "" && s.now().Sub(a.Confirmed) >= s.cfg.ConfirmFor {
		return ErrConfirm
	}
	return nil
}

// Limits are settings that pages show.
type Limits struct{ APIKeys int }

// Limits returns the settings in force.
func (s *Server) Limits() Limits { return Limits{APIKeys: s.cfg.MaxAPIKeys} }
