package signtest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"tollgate/internal/apisign"
)

// Answer is the JSON a [Server] answers with.
type Answer struct {
	OK            bool   `json:"ok"`
	Error         string `json:"error,omitempty"`
	Access        string `json:"access,omitempty"`
	SignedHeaders string `json:"signed_headers,omitempty"`
	Method        string `json:"method"`
	Path          string `json:"path"`
	Query         string `json:"query"`
	BodyBytes     int    `json:"body_bytes"`
	Canonical     string `json:"canonical,omitempty"` // what the server computed, on a mismatch
}

// Server is a verifying server. Its secrets may be changed while it runs.
type Server struct {
	*httptest.Server

	// Now is the server's clock; set it before the first request. Nil means
	// time.Now.
	Now func() time.Time

	mu      sync.Mutex
	secrets map[string]string
	last    error
}

// New starts a server that knows one AppKey. It is closed with the test.
func New(t testing.TB, key, secret string) *Server {
	t.Helper()
	s := &Server{secrets: map[string]string{key: secret}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// SetSecret adds an AppKey or replaces its secret.
func (s *Server) SetSecret(key, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[key] = secret
}

// LastError returns the error of the last request answered, nil when it was
// accepted.
func (s *Server) LastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// ErrUnknownKey is the error of a request whose AppKey the server does not know.
var ErrUnknownKey = errors.New("app not found")

// ErrUnsigned is the error of a request without an app signature.
var ErrUnsigned = errors.New("no app signature")

// ServeHTTP answers 200 to a request whose signature holds and 401 to any other.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a := Answer{Method: req.Method, BodyBytes: len(body)}
	err = s.check(req, body, &a)
	s.mu.Lock()
	s.last = err
	s.mu.Unlock()

	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		a.Error = err.Error()
		w.WriteHeader(http.StatusUnauthorized)
	}
	a.OK = err == nil
	_ = json.NewEncoder(w).Encode(a) // the client went away: nothing to tell it
}

func (s *Server) check(req *http.Request, body []byte, a *Answer) error {
	v := apisign.Acquire()
	defer apisign.Release(v)
	r := apisign.FromHTTP(req, body)
	a.Path, a.Query = string(r.Path), string(r.Query)
	if err := apisign.CheckPath(r.Path); err != nil {
		return err
	}
	var p apisign.Parsed
	found, err := v.FromHeaders(&p, r.Headers)
	if err != nil {
		return err
	}
	if !found {
		return ErrUnsigned
	}
	a.Access, a.SignedHeaders = string(p.Access), string(p.SignedHeaders)
	s.mu.Lock()
	secret, ok := s.secrets[string(p.Access)]
	s.mu.Unlock()
	if !ok {
		return ErrUnknownKey
	}
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	err = v.Verify(&p, &r, []byte(secret), now(), apisign.DefaultSkew)
	if errors.Is(err, apisign.ErrMismatch) {
		a.Canonical = string(v.AppendCanonical(nil))
	}
	return err
}
