package apisign

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzVerify signs what it is given and holds the verifier to three things: it
// accepts what was signed; it agrees with the naive verifier on requests both
// can read; and a request that differs in its canonical form is refused.
func FuzzVerify(f *testing.F) {
	f.Add("GET", "/v1/a b", "a=1&b=2", "x-stage", "RELEASE", "", "a=1&b=3")
	f.Add("POST", "/中/%2F", "q=a+b&q=%zz", "x-a", " v ", "body", "q=a+b")
	f.Add("PUT", "//", "&&", "content-type", "text/plain", "\x00", "")
	f.Fuzz(func(t *testing.T, method, path, query, name, value, body, query2 string) {
		if strings.ContainsAny(method+value, "\r\n") {
			return // no server passes these on
		}
		h := HTTPHeaders{HeaderDate: {testDate}}
		switch strings.ToLower(name) {
		case "x-sdk-date", "x-sdk-content-sha256", "host", "authorization":
			return
		}
		h[name] = []string{value}
		r := Request{
			Method: []byte(method), Path: []byte(path), Query: []byte(query), Host: []byte("h"),
			Headers: h, Body: []byte(body),
		}
		auth, err := AppendAuthorization(nil, &r, testKey, []byte(testSecret), []string{name})
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("sign: %v", err)
			}
			return
		}
		h[HeaderAuthorization] = []string{string(auth)}
		if err := verifyOnce(&r, []byte(testSecret), testNow); err != nil {
			t.Fatalf("%v does not verify what was signed", err)
		}
		_, pathErr := url.PathUnescape(path)
		_, queryErr := url.ParseQuery(query)
		if pathErr == nil && queryErr == nil && http.CanonicalHeaderKey(name) == name {
			if !naiveVerify(method, path, query, "h", http.Header(h), []byte(body), testSecret) {
				t.Fatalf("the naive verifier refuses %s %s?%s", method, path, query)
			}
		}

		// Another query is accepted only where it reads the same.
		var c canonicaliser
		same := false
		want := string(c.appendQuery(nil, []byte(query), true))
		for _, blank := range []bool{true, false} {
			same = same || string(c.appendQuery(nil, []byte(query2), blank)) == want
		}
		r.Query = []byte(query2)
		if err := verifyOnce(&r, []byte(testSecret), testNow); (err == nil) != same {
			t.Fatalf("query %q signed, %q sent: %v", query, query2, err)
		}
	})
}
