package apisign

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ raw, decoded, verbatim, mixed string }{
		{"", "/", "/", "/"},
		{"/", "/", "/", "/"},
		{"/a", "/a/", "/a/", "/a/"},
		{"/a/", "/a/", "/a/", "/a/"},
		{"/a//b", "/a//b/", "/a//b/", "/a//b/"},
		{"/A-z_0.9~", "/A-z_0.9~/", "/A-z_0.9~/", "/A-z_0.9~/"},
		{"/a:(b)@!$&'*+,;=", "/a%3A%28b%29%40%21%24%26%27%2A%2B%2C%3B%3D/", "/a%3A%28b%29%40%21%24%26%27%2A%2B%2C%3B%3D/", "/a%3A%28b%29%40%21%24%26%27%2A%2B%2C%3B%3D/"},
		{"/a%20b", "/a%20b/", "/a%2520b/", "/a%2520b/"},
		{"/a%2fb", "/a/b/", "/a%252fb/", "/a%252fb/"},
		{"/%e4%b8%ad", "/%E4%B8%AD/", "/%25e4%25b8%25ad/", "/%E4%B8%AD/"},
		{"/%e4%b8%ad%20b", "/%E4%B8%AD%20b/", "/%25e4%25b8%25ad%2520b/", "/%E4%B8%AD%2520b/"},
		{"/中", "/%E4%B8%AD/", "/%E4%B8%AD/", "/%E4%B8%AD/"},
		{"/100%", "/100%25/", "/100%25/", "/100%25/"},
		{"/%zz", "/%25zz/", "/%25zz/", "/%25zz/"},
		{"/%4", "/%254/", "/%254/", "/%254/"},
		{"/%2541", "/%2541/", "/%252541/", "/%252541/"}, // decoded once only
		{"/a%2F", "/a/", "/a%252F/", "/a%252F/"},
	} {
		for reading, want := range map[pathReading]string{pathDecoded: tt.decoded, pathVerbatim: tt.verbatim, pathMixed: tt.mixed} {
			if got := string(appendPath(nil, []byte(tt.raw), reading)); got != want {
				t.Errorf("path %q, reading %d: %q, want %q", tt.raw, reading, got, want)
			}
		}
	}
}

func TestQuery(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ raw, literal, blank string }{
		{"", "", ""},
		{"a=1", "a=1", "a=1"},
		{"k", "k=", "k="},
		{"k=", "k=", "k="},
		{"k==", "k=%3D", "k=%3D"},
		{"=v", "=v", "=v"},
		{"&&a=1&&", "a=1", "a=1"},
		{"&", "", ""},
		{"b=2&a=1&a=0&F=x", "F=x&a=0&a=1&b=2", "F=x&a=0&a=1&b=2"},
		{"a=10&a=9&a=1", "a=1&a=10&a=9", "a=1&a=10&a=9"}, // as text
		{"a=b+c", "a=b%2Bc", "a=b%20c"},
		{"a+b=c", "a%2Bb=c", "a%20b=c"},
		{"a=%2B", "a=%2B", "a=%2B"},
		{"a=b%20c/d?e:f", "a=b%20c%2Fd%3Fe%3Af", "a=b%20c%2Fd%3Fe%3Af"},
		{"a%2fb=1&a-b=2", "a-b=2&a%2Fb=1", "a-b=2&a%2Fb=1"}, // sorted before encoding
		{"ab=1&a=2", "a=2&ab=1", "a=2&ab=1"},
		{"a=&a", "a=&a=", "a=&a="},
		{"a=%zz%4", "a=%25zz%254", "a=%25zz%254"},
		{"zh=中文&zh=%e4%b8%ad", "zh=%E4%B8%AD&zh=%E4%B8%AD%E6%96%87", "zh=%E4%B8%AD&zh=%E4%B8%AD%E6%96%87"},
		{"a=1;b=2", "a=1%3Bb%3D2", "a=1%3Bb%3D2"}, // a semicolon parts nothing
	} {
		var c canonicaliser
		if got := string(c.appendQuery(nil, []byte(tt.raw), false)); got != tt.literal {
			t.Errorf("query %q, plus as it is: %q, want %q", tt.raw, got, tt.literal)
		}
		if got := string(c.appendQuery(nil, []byte(tt.raw), true)); got != tt.blank {
			t.Errorf("query %q, plus as a blank: %q, want %q", tt.raw, got, tt.blank)
		}
	}
}

// naiveEscape, naivePath and naiveQuery are the canonical forms written with
// the standard library, for comparison.
func naiveEscape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

func naivePath(raw string) string {
	p, err := url.PathUnescape(raw)
	if err != nil {
		return ""
	}
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i] = naiveEscape(s)
	}
	p = strings.Join(segments, "/")
	if !strings.HasSuffix(p, "/") {
		p += "/"
	}
	return p
}

func naiveQuery(raw string) string {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return ""
	}
	var parts []string
	for _, k := range slices.Sorted(mapKeys(q)) {
		slices.Sort(q[k])
		for _, v := range q[k] {
			parts = append(parts, naiveEscape(k)+"="+naiveEscape(v))
		}
	}
	return strings.Join(parts, "&")
}

func mapKeys(q url.Values) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range q {
			if !yield(k) {
				return
			}
		}
	}
}

// FuzzCanonical compares the canonicaliser with the standard library wherever
// that can read the input, and holds it to its invariants everywhere.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"", "/", "/a%20b//%2F", "a=1&b=2&a=0", "k&=v&&%zz=+", "/中/%e4%b8%ad", "a%00=b\n", "%", "a=%2", "/\x80\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var c canonicaliser
		raw := []byte(s)
		for reading := pathDecoded; reading <= pathMixed; reading++ {
			got := string(appendPath(nil, raw, reading))
			canonicalText(t, got, "/")
			if !strings.HasSuffix(got, "/") {
				t.Errorf("path %q ends without a slash: %q", s, got)
			}
			if reading == pathDecoded {
				if want := naivePath(s); want != "" && got != want {
					t.Errorf("path %q: %q, the standard library says %q", s, got, want)
				}
				if again := string(appendPath(nil, []byte(got), pathDecoded)); again != got {
					t.Errorf("path %q: canonical form %q becomes %q", s, got, again)
				}
			}
		}
		for _, blank := range []bool{false, true} {
			got := string(c.appendQuery(nil, raw, blank))
			canonicalText(t, got, "=&")
			if want := naiveQuery(s); blank && want != "" && got != want {
				t.Errorf("query %q: %q, the standard library says %q", s, got, want)
			}
			if again := string(c.appendQuery(nil, []byte(got), blank)); again != got {
				t.Errorf("query %q: canonical form %q becomes %q", s, got, again)
			}
		}
		if CheckPath(raw) == nil {
			p, err := url.PathUnescape(s)
			if err != nil {
				t.Fatalf("CheckPath lets %q through: %v", s, err)
			}
			for seg := range strings.SplitSeq(p, "/") {
				if seg == "." || seg == ".." {
					t.Errorf("CheckPath lets %q through", s)
				}
			}
		}
	})
}

// canonicalText checks that s holds unreserved characters, upper-case escapes
// and the separators only: nothing that could start another line.
func canonicalText(t *testing.T, s, separators string) {
	t.Helper()
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case unreserved[c] || strings.IndexByte(separators, c) >= 0:
		case c == '%' && i+2 < len(s) && strings.IndexByte(upperHex, s[i+1]) >= 0 && strings.IndexByte(upperHex, s[i+2]) >= 0:
			i += 2
		default:
			t.Fatalf("%q is not canonical at %d", s, i)
		}
	}
}

// FuzzParse holds the parser to what the verifier relies on.
func FuzzParse(f *testing.F) {
	f.Add("SDK-HMAC-SHA256 Access=a, SignedHeaders=host;x-sdk-date, Signature=" + sig64)
	f.Add("sdk-hmac-sha256\tSignature=" + sig64 + ",SignedHeaders=x-sdk-date;x-sdk-content-sha256,Access=b")
	f.Add("SDK-HMAC-SHA256 Access=,=,")
	f.Fuzz(func(t *testing.T, s string) {
		var p Parsed
		if p.Parse([]byte(s)) != nil {
			return
		}
		if !IsSignature([]byte(s)) || !validAccess(p.Access) || len(p.Access) == 0 {
			t.Fatalf("%q parses", s)
		}
		names := strings.Split(string(p.SignedHeaders), ";")
		for i, n := range names {
			if n == "" || n != strings.ToLower(n) || strings.ContainsAny(n, ":, \t\r\n\x00") || slices.Index(names, n) != i {
				t.Fatalf("%q gives the name %q", s, n)
			}
		}
		if p.dateSigned != slices.Contains(names, "x-sdk-date") || p.hashSigned != slices.Contains(names, "x-sdk-content-sha256") {
			t.Fatalf("%q: flags are wrong", s)
		}
	})
}

func TestCheckPath(t *testing.T) {
	t.Parallel()
	for _, p := range []string{
		"/", "/a", "/a/", "//", "//a//b", "/a%2Fb", "/.well-known/x", "/...", "/a..", "/..a/", "/a.b/.c./d",
		"/%E4%B8%AD", "/中", "/%2541", "/a:b@c;d=e", "/%2e%2e%2e", "/%20",
	} {
		if err := CheckPath([]byte(p)); err != nil {
			t.Errorf("CheckPath(%q) = %v", p, err)
		}
	}
	for _, p := range []string{
		"", "a", "*", "/.", "/..", "/./", "/../", "/a/.", "/a/..", "/a/../b", "/a/./b", "//..", "/a//..//b",
		"/%2e", "/%2E%2e/", "/.%2e/b", "/a%2F..", "/a%2f..%2Fb", "/a\\b", "/a%5Cb", "/a%5c..%5cb",
		"/%", "/%4", "/%zz", "/%00", "/a%0Ab", "/a\x00", "/a\nb", "/a\x7f", "/%7f",
	} {
		if CheckPath([]byte(p)) == nil {
			t.Errorf("CheckPath(%q) lets it through", p)
		}
	}
}
