package feed

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestProof(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	const body = "the body"
	signed := func() *http.Request {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, UsagePath+"?a=1", strings.NewReader(body))
		if err := Sign(r, []byte(body), "secret", now); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if text := signed().Header.Get("Authorization"); strings.Contains(text, "secret") {
		t.Errorf("the proof shows the secret: %s", text)
	}
	// f verifies a signed request after a change.
	f := func(name string, change func(*http.Request), body, secret string, at time.Time, want error) {
		t.Helper()
		r := signed()
		change(r)
		if err := Verify(r, []byte(body), secret, at); !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	same := func(*http.Request) {}
	f("unchanged", same, body, "secret", now, nil)
	f("at the edge of the skew", same, body, "secret", now.Add(Skew), nil)
	f("too old", same, body, "secret", now.Add(Skew+time.Second), ErrSkew)
	f("from the future", same, body, "secret", now.Add(-Skew-time.Second), ErrSkew)
	f("another secret", same, body, "other", now, ErrProof)
	f("no secret set", same, body, "", now, ErrNoSecret)
	f("another body", same, body+" ", "secret", now, ErrProof)
	f("another method", func(r *http.Request) { r.Method = http.MethodPut }, body, "secret", now, ErrProof)
	f("another path", func(r *http.Request) { r.URL.Path = DirectoryPath }, body, "secret", now, ErrProof)
	f("another query", func(r *http.Request) { r.URL.RawQuery = "a=2" }, body, "secret", now, ErrProof)
	for name, header := range map[string]string{
		"none": "", "another scheme": "Bearer secret", "no time": scheme + " " + strings.Repeat("0", 64), "not hexadecimal": scheme + " 1.zz",
		"a later time on an old proof": strings.Replace(signed().Header.Get("Authorization"), ".", "0.", 1),
	} {
		f(name, func(r *http.Request) { r.Header.Set("Authorization", header) }, body, "secret", now, ErrProof)
	}
	if err := Sign(signed(), nil, "", now); !errors.Is(err, ErrNoSecret) {
		t.Errorf("Sign without a secret: %v", err)
	}
}
