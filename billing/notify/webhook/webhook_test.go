package webhook

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"tollgate/billing/notify"
)

// Secrets of these tests.
const (
	secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	newer  = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
)

func outgoing(url string) notify.Outgoing {
	return notify.Outgoing{ID: "01J0MESSAGE", To: url, At: time.Now(), Payload: []byte(`{"type":"top_up","data":{"名":"值"}}`), Secrets: []string{newer, secret}}
}

// TestStrangersAcceptTheSignature: the library of Standard Webhooks takes what
// we sign, with either secret, and nothing that was changed.
func TestStrangersAcceptTheSignature(t *testing.T) {
	t.Parallel()
	var got atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		for _, s := range []string{secret, newer} {
			wh, err := standardwebhooks.NewWebhook(s)
			if err != nil {
				t.Error(err)
				return
			}
			if err := wh.Verify(body, r.Header); err != nil {
				t.Errorf("refused: %v", err)
			}
			if err := wh.Verify(append(body, ' '), r.Header); err == nil {
				t.Error("a changed body was accepted")
			}
		}
		if r.Header.Get("webhook-id") != "01J0MESSAGE" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("header %v", r.Header)
		}
		got.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(srv.Close)
	code, err := New(Options{AllowPrivate: true}).Send(t.Context(), outgoing(srv.URL))
	if err != nil || code != "204" || got.Load() != 1 {
		t.Fatal(code, err, got.Load())
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status int
		header string
		refuse bool
		delay  time.Duration
	}{
		{status: 500},
		{status: 404},
		{status: 301},
		{status: 307},
		{status: 410, refuse: true},
		{status: 429, header: "120", delay: 2 * time.Minute},
		{status: 503, header: time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), delay: time.Hour},
		{status: 503, header: "soon"},
		{status: 500, header: "120"},
	} {
		var followed atomic.Bool
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				followed.Store(true)
				return
			}
			w.Header().Set("Location", "/elsewhere")
			if tt.header != "" {
				w.Header().Set("Retry-After", tt.header)
			}
			w.WriteHeader(tt.status)
		}))
		_, err := New(Options{AllowPrivate: true}).Send(t.Context(), outgoing(srv.URL))
		srv.Close()
		var refusal *notify.Refusal
		var delay *notify.Delay
		if err == nil || errors.As(err, &refusal) != tt.refuse || errors.As(err, &delay) != (tt.delay > 0) || followed.Load() {
			t.Errorf("%d %q: %v, followed %v", tt.status, tt.header, err, followed.Load())
		}
		if delay != nil && (delay.After < tt.delay-5*time.Second || delay.After > tt.delay) {
			t.Errorf("%d: after %v", tt.status, delay.After)
		}
	}
}

// TestNoWayInside: an endpoint cannot make us call our own network, by address
// or by a name that leads there.
func TestNoWayInside(t *testing.T) {
	t.Parallel()
	var called atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Store(true) }))
	t.Cleanup(srv.Close)
	s := New(Options{})
	for _, url := range []string{srv.URL, strings.Replace(srv.URL, "127.0.0.1", "localhost", 1), strings.Replace(srv.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1)} {
		if _, err := s.Send(t.Context(), outgoing(url)); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if called.Load() {
		t.Error("it was called")
	}
	for text, want := range map[string][2]bool{ // public only, private allowed
		"93.184.216.34": {true, true}, "2606:4700::1": {true, true},
		"10.1.2.3": {false, true}, "192.168.0.1": {false, true}, "127.0.0.1": {false, true}, "::1": {false, true}, "fd00::1": {false, true},
		"169.254.169.254": {}, "fe80::1": {}, "0.0.0.0": {}, "::": {}, "224.0.0.1": {}, "100.64.0.1": {}, "64:ff9b::a00:1": {}, "2002:7f00:1::": {}, "255.255.255.255": {},
	} {
		a := netip.MustParseAddr(text)
		if got := [2]bool{allowed(a, false), allowed(a, true)}; got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestPort(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		wh, err := standardwebhooks.NewWebhook(secret)
		if err == nil {
			err = wh.Verify(body, r.Header)
		}
		if err != nil {
			t.Error(err)
		}
		var got map[string]string
		if err := json.Unmarshal(body, &got); err != nil || got["channel"] != "sms" || got["to"] != "+8613800000000" || got["text"] != "余量 20%" || got["id"] != "01J" {
			t.Errorf("%s, %v", body, err)
		}
	}))
	t.Cleanup(srv.Close)
	p := NewPort(notify.SMS, srv.URL, secret, 0)
	if code, err := p.Send(t.Context(), notify.Outgoing{ID: "01J", To: "+8613800000000", Subject: "余量 20%", Language: "zh", At: time.Now()}); err != nil || code != "200" {
		t.Fatal(code, err)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	for _, secrets := range [][]string{nil, {"whsec_"}, {"whsec_c2hvcnQ="}, {"not base64"}} {
		if err := Sign(http.Header{}, "id", time.Now(), nil, secrets); err == nil {
			t.Errorf("%v was taken", secrets)
		}
	}
}
