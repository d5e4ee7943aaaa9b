package apisign

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// signed makes a request, signs it at testNow and returns it with its
// Authorization.
func signed(t testing.TB, method, target, body string, headers http.Header, names ...string) (Request, string) {
	t.Helper()
	h := headers.Clone()
	if h == nil {
		h = http.Header{}
	}
	if h.Get(HeaderDate) == "" {
		h.Set(HeaderDate, testDate)
	}
	path, query, _ := strings.Cut(target, "?")
	r := Request{
		Method: []byte(method), Path: []byte(path), Query: []byte(query), Host: []byte("h:8080"),
		Headers: HTTPHeaders(h), Body: []byte(body),
	}
	auth, err := AppendAuthorization(nil, &r, testKey, []byte(testSecret), names)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(auth)
}

// check verifies r against auth with the test's secret and clock.
func check(t testing.TB, r *Request, auth string) error {
	t.Helper()
	var p Parsed
	if err := p.Parse([]byte(auth)); err != nil {
		return err
	}
	v := Acquire()
	defer Release(v)
	return v.Verify(&p, r, []byte(testSecret), testNow, 0)
}

// TestTampering signs one request and changes one thing at a time.
func TestTampering(t *testing.T) {
	t.Parallel()
	const target = "/v1/chat/x?b=2&a=1&sp=a%20b"
	headers := http.Header{"X-Stage": {"RELEASE"}, "X-Two": {"b", "a"}}
	names := []string{"x-stage", "x-two"}
	for _, tt := range []struct {
		name   string
		change func(r *Request, h HTTPHeaders, auth *string)
		want   error // nil: still accepted
	}{
		{"nothing", func(*Request, HTTPHeaders, *string) {}, nil},
		{"method", func(r *Request, _ HTTPHeaders, _ *string) { r.Method = []byte("PUT") }, ErrMismatch},
		{"path", func(r *Request, _ HTTPHeaders, _ *string) { r.Path = []byte("/v1/chat/y") }, ErrMismatch},
		{"path in another case", func(r *Request, _ HTTPHeaders, _ *string) { r.Path = []byte("/v1/Chat/x") }, ErrMismatch},
		{"path with a doubled slash", func(r *Request, _ HTTPHeaders, _ *string) { r.Path = []byte("/v1//chat/x") }, ErrMismatch},
		{"path with a dot segment", func(r *Request, _ HTTPHeaders, _ *string) { r.Path = []byte("/v1/./chat/x") }, ErrMismatch},
		{"path that resolves to the same", func(r *Request, _ HTTPHeaders, _ *string) { r.Path = []byte("/v1/y/../chat/x") }, ErrMismatch},
		{"path with a slash at the end", func(r *Request, _ HTTPHeaders, _ *string) { r.Path = []byte("/v1/chat/x/") }, nil},
		{"path escaped needlessly", func(r *Request, _ HTTPHeaders, _ *string) { r.Path = []byte("/v1/ch%61t/x") }, nil},
		{"query value", func(r *Request, _ HTTPHeaders, _ *string) { r.Query = []byte("b=3&a=1&sp=a%20b") }, ErrMismatch},
		{"query parameter added", func(r *Request, _ HTTPHeaders, _ *string) { r.Query = append(r.Query, "&c=1"...) }, ErrMismatch},
		{"query parameter repeated", func(r *Request, _ HTTPHeaders, _ *string) { r.Query = append(r.Query, "&a=1"...) }, ErrMismatch},
		{"query removed", func(r *Request, _ HTTPHeaders, _ *string) { r.Query = nil }, ErrMismatch},
		{"query in another order", func(r *Request, _ HTTPHeaders, _ *string) { r.Query = []byte("sp=a%20b&a=1&b=2") }, nil},
		{"query with a plus for the blank", func(r *Request, _ HTTPHeaders, _ *string) { r.Query = []byte("b=2&a=1&sp=a+b") }, nil},
		{"query with an escaped plus for the blank", func(r *Request, _ HTTPHeaders, _ *string) { r.Query = []byte("b=2&a=1&sp=a%2Bb") }, ErrMismatch},
		{"host", func(r *Request, _ HTTPHeaders, _ *string) { r.Host = []byte("h") }, ErrMismatch},
		{"host removed", func(r *Request, _ HTTPHeaders, _ *string) { r.Host = nil }, ErrHeaderMissing},
		{"body", func(r *Request, _ HTTPHeaders, _ *string) { r.Body = []byte("other") }, ErrMismatch},
		{"body emptied", func(r *Request, _ HTTPHeaders, _ *string) { r.Body = nil }, ErrMismatch},
		{"signed header changed", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Stage"] = []string{"TEST"} }, ErrMismatch},
		{"signed header removed", func(_ *Request, h HTTPHeaders, _ *string) { delete(h, "X-Stage") }, ErrHeaderMissing},
		{"second value smuggled in", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Stage"] = []string{"RELEASE", "TEST"} }, ErrMismatch},
		{"same value twice", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Stage"] = []string{"RELEASE", "RELEASE"} }, ErrMismatch},
		{"value under another case of the name", func(_ *Request, h HTTPHeaders, _ *string) { h["X-STAGE"] = []string{"TEST"} }, ErrMismatch},
		{"one of two values removed", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Two"] = []string{"a"} }, ErrMismatch},
		{"two values folded into one", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Two"] = []string{"a, b"} }, ErrMismatch},
		{"two values in another order", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Two"] = []string{"a", "b"} }, nil},
		{"blanks around a value", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Stage"] = []string{" \tRELEASE "} }, nil},
		{"value with a line break", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Stage"] = []string{"RELEASE\nx-two:a"} }, ErrMalformed},
		{"method with a line break", func(r *Request, _ HTTPHeaders, _ *string) { r.Method = []byte("POST\n/") }, ErrMalformed},
		{"unsigned header changed", func(_ *Request, h HTTPHeaders, _ *string) { h["X-Other"] = []string{"x"} }, nil},
		{"date", func(_ *Request, h HTTPHeaders, _ *string) { h[HeaderDate] = []string{"20260102T030406Z"} }, ErrMismatch},
		{"date removed", func(_ *Request, h HTTPHeaders, _ *string) { delete(h, HeaderDate) }, ErrDateMissing},
		{"date twice", func(_ *Request, h HTTPHeaders, _ *string) { h[HeaderDate] = []string{testDate, testDate} }, ErrMalformed},
		{"date with a fraction", func(_ *Request, h HTTPHeaders, _ *string) { h[HeaderDate] = []string{"20260102T030405.0Z"} }, ErrMalformed},
		{"date of the 30th of February", func(_ *Request, h HTTPHeaders, _ *string) { h[HeaderDate] = []string{"20260230T030405Z"} }, ErrMalformed},
		{"date empty", func(_ *Request, h HTTPHeaders, _ *string) { h[HeaderDate] = []string{""} }, ErrMalformed},
		{"date in another form", func(_ *Request, h HTTPHeaders, _ *string) { h[HeaderDate] = []string{"2026-01-02T03:04:05Z"} }, ErrMalformed},
		{"date off the list", func(_ *Request, _ HTTPHeaders, a *string) { *a = strings.Replace(*a, "x-sdk-date;", "", 1) }, ErrDateMissing},
		{"header off the list", func(_ *Request, _ HTTPHeaders, a *string) { *a = strings.Replace(*a, "x-stage;", "", 1) }, ErrMismatch},
		{"list in another order", func(_ *Request, _ HTTPHeaders, a *string) {
			*a = strings.Replace(*a, "x-stage;x-two", "x-two;x-stage", 1)
		}, ErrMismatch},
		{"header put on the list", func(_ *Request, h HTTPHeaders, a *string) {
			h["X-New"] = []string{"1"}
			*a = strings.Replace(*a, "x-stage;", "x-new;x-stage;", 1)
		}, ErrMismatch},
		{"absent header put on the list", func(_ *Request, _ HTTPHeaders, a *string) { *a = strings.Replace(*a, "x-stage;", "x-new;x-stage;", 1) }, ErrHeaderMissing},
		{"signature", func(_ *Request, _ HTTPHeaders, a *string) {
			last := (*a)[len(*a)-1]
			*a = (*a)[:len(*a)-1] + string("0123456789abcdef"[(strings.IndexByte(lowerHex, last)+1)%16])
		}, ErrMismatch},
		{"payload declared unsigned on the way", func(_ *Request, h HTTPHeaders, _ *string) { h[HeaderContentSHA256] = []string{UnsignedPayload} }, nil},
		{"payload declared unsigned on the way and changed", func(r *Request, h HTTPHeaders, _ *string) {
			h[HeaderContentSHA256] = []string{UnsignedPayload}
			r.Body = []byte("other")
		}, ErrMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, auth := signed(t, "POST", target, "body", headers, names...)
			tt.change(&r, r.Headers.(HTTPHeaders), &auth)
			if err := check(t, &r, auth); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestOtherSecret(t *testing.T) {
	t.Parallel()
	r, auth := signed(t, "GET", "/", "", nil)
	var p Parsed
	if err := p.Parse([]byte(auth)); err != nil {
		t.Fatal(err)
	}
	v := Acquire()
	defer Release(v)
	for _, secret := range []string{"", "x", testSecret[1:], testSecret + "0", strings.ToUpper(testSecret), strings.Repeat("s", 200)} {
		if err := v.Verify(&p, &r, []byte(secret), testNow, 0); err != ErrMismatch {
			t.Errorf("secret %q: %v", secret, err)
		}
	}
	if err := v.Verify(&p, &r, []byte(testSecret), testNow, 0); err != nil {
		t.Error(err)
	}
}

func TestSkew(t *testing.T) {
	t.Parallel()
	r, auth := signed(t, "GET", "/", "", nil)
	var p Parsed
	if err := p.Parse([]byte(auth)); err != nil {
		t.Fatal(err)
	}
	v := Acquire()
	defer Release(v)
	for _, tt := range []struct {
		off, skew time.Duration
		ok        bool
	}{
		{0, 0, true},
		{15 * time.Minute, 0, true},
		{-15 * time.Minute, 0, true},
		{15*time.Minute + time.Nanosecond, 0, false},
		{-15*time.Minute - time.Second, 0, false},
		{time.Minute, time.Minute, true},
		{time.Minute + time.Second, time.Minute, false},
		{24 * 365 * time.Hour, 0, false},
		{-24 * 365 * 290 * time.Hour, 0, false},
	} {
		now := testNow.Add(tt.off)
		err := v.Verify(&p, &r, []byte(testSecret), now, tt.skew)
		if tt.ok {
			if err != nil {
				t.Errorf("%v off: %v", tt.off, err)
			}
			continue
		}
		var e *ExpiredError
		if !errors.Is(err, ErrExpired) || !errors.As(err, &e) || !e.Signed.Equal(testNow) || !e.Server.Equal(now) {
			t.Errorf("%v off: %v", tt.off, err)
		}
	}
	err := v.Verify(&p, &r, []byte(testSecret), testNow.Add(time.Hour), 0)
	const want = "signature expired, signature time:20260102T030405Z,server time:20260102T040405Z" // the vendor's words
	if err.Error() != want {
		t.Errorf("text %q, want %q", err, want)
	}
}

// TestPayloadHash walks every way to state the payload's hash.
func TestPayloadHash(t *testing.T) {
	t.Parallel()
	const body, hash = "hello", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for _, tt := range []struct {
		name   string
		claim  []string
		signIt bool
		body   string
		want   error
	}{
		{"none", nil, false, body, nil},
		{"hash, signed", []string{hash}, true, body, nil},
		{"hash, unsigned", []string{hash}, false, body, nil},
		{"hash in upper case", []string{strings.ToUpper(hash)}, true, body, nil},
		{"hash of another body, signed", []string{hash}, true, "other", ErrBodyHash},
		{"hash of another body, unsigned", []string{hash}, false, "other", ErrBodyHash},
		{"unsigned payload", []string{UnsignedPayload}, true, "anything", nil},
		{"unsigned payload by a header that is not signed", []string{UnsignedPayload}, false, body, ErrMismatch},
		{"unsigned payload in another case", []string{"unsigned-payload"}, true, body, ErrBodyHash},
		{"no hash at all", []string{"x"}, true, body, ErrBodyHash},
		{"hash too long", []string{hash + "00"}, true, body, ErrBodyHash},
		{"64 other characters", []string{strings.Repeat("z", 64)}, true, body, ErrBodyHash},
		{"two hashes", []string{hash, hash}, true, body, ErrMalformed},
		{"unsigned payload beside a hash", []string{hash, UnsignedPayload}, true, body, ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// Signed by hand: the signer would refuse the bad rows.
			h := HTTPHeaders{HeaderDate: {testDate}}
			list, lines, last := "x-sdk-date", "", hash
			if tt.claim != nil {
				h[HeaderContentSHA256] = tt.claim
				last = tt.claim[0]
			}
			if tt.signIt {
				list = "x-sdk-content-sha256;x-sdk-date"
				for _, c := range tt.claim {
					lines += "x-sdk-content-sha256:" + c + "\n"
				}
			}
			canonical := "POST\n/\n\n" + lines + "x-sdk-date:" + testDate + "\n\n" + list + "\n" + last
			sum := naiveSign(canonical, testDate, testSecret)
			r := Request{Method: []byte("POST"), Path: []byte("/"), Headers: h, Body: []byte(tt.body)}
			auth := Algorithm + " Access=k, SignedHeaders=" + list + ", Signature=" + sum
			if err := check(t, &r, auth); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}

			// A hash made while the body was read counts for the same.
			bodySum := sha256.Sum256([]byte(tt.body))
			r.Body, r.BodySHA256 = nil, &bodySum
			if err := check(t, &r, auth); !errors.Is(err, tt.want) {
				t.Errorf("with BodySHA256: error %v, want %v", err, tt.want)
			}

			var p Parsed
			if err := p.Parse([]byte(auth)); err != nil {
				t.Fatal(err)
			}
			v := Acquire()
			defer Release(v)
			if got, want := v.BodyUnsigned(&p, h), tt.name == "unsigned payload"; got != want {
				t.Errorf("BodyUnsigned = %v", got)
			}
		})
	}
}

// TestReadings accepts what clients sign that read path and query otherwise.
func TestReadings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, path, query string // on the wire
		uri, canonical    string // as signed
		ok                bool
	}{
		{"escaped slash, decoded (Python)", "/v1/a%2Fb", "", "/v1/a/b/", "", true},
		{"escaped slash, verbatim (Node)", "/v1/a%2Fb", "", "/v1/a%252Fb/", "", true},
		{"escaped slash in lower case, verbatim", "/v1/a%2fb", "", "/v1/a%252fb/", "", true},
		{"escaped slash, left as it is", "/v1/a%2Fb", "", "/v1/a%2Fb/", "", false},
		{"Chinese and a blank (npm)", "/%E4%B8%AD%20b", "", "/%E4%B8%AD%2520b/", "", true},
		{"plus as a blank", "/", "q=a+b", "/", "q=a%20b", true},
		{"plus as it is", "/", "q=a+b", "/", "q=a%2Bb", true},
		{"both second readings", "/a%2Fb", "q=a+b", "/a%252Fb/", "q=a%2Bb", true},
		{"two readings of one query", "/", "q=a+b&r=c+d", "/", "q=a%20b&r=c%2Bd", false},
		{"no slash at the end", "/a", "", "/a", "", false},
		{"query not sorted", "/", "b=1&a=2", "/", "b=1&a=2", false},
		{"bare name without equals", "/", "k", "/", "k", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			canonical := "GET\n" + tt.uri + "\n" + tt.canonical + "\nx-sdk-date:" + testDate + "\n\nx-sdk-date\n" +
				"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
			auth := Algorithm + " Access=k, SignedHeaders=x-sdk-date, Signature=" + naiveSign(canonical, testDate, testSecret)
			r := Request{
				Method: []byte("GET"), Path: []byte(tt.path), Query: []byte(tt.query),
				Headers: HTTPHeaders{HeaderDate: {testDate}},
			}
			if err := check(t, &r, auth); (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestMismatchText shows what a caller is shown, in the vendor's form.
func TestMismatchText(t *testing.T) {
	t.Parallel()
	r, auth := signed(t, "GET", "/test?q=a+b", "", nil)
	r.Method = []byte("PUT")
	var p Parsed
	if err := p.Parse([]byte(auth)); err != nil {
		t.Fatal(err)
	}
	v := Acquire()
	defer Release(v)
	if err := v.Verify(&p, &r, []byte(testSecret), testNow, 0); err != ErrMismatch {
		t.Fatal(err)
	}
	const want = "PUT|/test/|q=a%2Bb|host:h:8080|x-sdk-date:20260102T030405Z||host;x-sdk-date|e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if got := string(v.AppendCanonical([]byte("> "))); got != "> "+want {
		t.Errorf("canonical request\n%s, want\n%s", got, want)
	}
	if bytes.ContainsRune(v.request, '|') {
		t.Error("AppendCanonical changed the verifier's own text")
	}
}
