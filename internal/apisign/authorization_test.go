package apisign

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const sig64 = "3ba8cf0fe831ff8396f25296cc047d9f275908f5bffc628e2b365493c17c0431"

func TestParse(t *testing.T) {
	t.Parallel()
	ok := func(name, auth string) {
		t.Helper()
		var p Parsed
		if err := p.Parse([]byte(auth)); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if string(p.Access) != "key_1-A" || string(p.SignedHeaders) != "host;x-sdk-date" || hex.EncodeToString(p.Signature[:]) != sig64 {
			t.Errorf("%s: %s %s %x", name, p.Access, p.SignedHeaders, p.Signature)
		}
	}
	bad := func(name, auth string, want error) {
		t.Helper()
		var p Parsed
		if err := p.Parse([]byte(auth)); err != want || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v, want %v", name, err, want)
		}
	}

	ok("as clients send it", "SDK-HMAC-SHA256 Access=key_1-A, SignedHeaders=host;x-sdk-date, Signature="+sig64)
	ok("no blanks after the commas", "SDK-HMAC-SHA256 Access=key_1-A,SignedHeaders=host;x-sdk-date,Signature="+sig64)
	ok("several blanks and tabs", "SDK-HMAC-SHA256 \t Access=key_1-A ,\t SignedHeaders=host;x-sdk-date  ,  Signature="+sig64+" ")
	ok("scheme in lower case", "sdk-hmac-sha256 Access=key_1-A, SignedHeaders=host;x-sdk-date, Signature="+sig64)
	ok("signature in upper case", "SDK-HMAC-SHA256 Access=key_1-A, SignedHeaders=host;x-sdk-date, Signature="+strings.ToUpper(sig64))
	ok("another order", "SDK-HMAC-SHA256 Signature="+sig64+", SignedHeaders=host;x-sdk-date, Access=key_1-A")

	bad("empty", "", errScheme)
	bad("another scheme", "Bearer sk-1", errScheme)
	bad("another algorithm", "SDK-HMAC-SM3 Access=a, SignedHeaders=x-sdk-date, Signature="+sig64, errScheme)
	bad("scheme run into the parameters", "SDK-HMAC-SHA256Access=a, SignedHeaders=x-sdk-date, Signature="+sig64, errScheme)
	bad("nothing after the scheme", "SDK-HMAC-SHA256", errParam)
	bad("no access", "SDK-HMAC-SHA256 SignedHeaders=x-sdk-date, Signature="+sig64, errParam)
	bad("no list", "SDK-HMAC-SHA256 Access=a, Signature="+sig64, errParam)
	bad("no signature", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date", errParam)
	bad("comma at the end", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, Signature="+sig64+",", errParam)
	bad("unknown parameter", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, Signature="+sig64+", X=1", errParam)
	bad("parameter in another case", "SDK-HMAC-SHA256 access=a, SignedHeaders=x-sdk-date, Signature="+sig64, errParam)
	bad("access twice", "SDK-HMAC-SHA256 Access=a, Access=b, SignedHeaders=x-sdk-date, Signature="+sig64, errTwice)
	bad("list twice", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, SignedHeaders=host, Signature="+sig64, errTwice)
	bad("signature twice", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, Signature="+sig64+", Signature="+sig64, errTwice)
	bad("empty access", "SDK-HMAC-SHA256 Access=, SignedHeaders=x-sdk-date, Signature="+sig64, errParam)
	bad("access with a line break", "SDK-HMAC-SHA256 Access=a\nb, SignedHeaders=x-sdk-date, Signature="+sig64, errAccess)
	bad("access too long", "SDK-HMAC-SHA256 Access="+strings.Repeat("a", 201)+", SignedHeaders=x-sdk-date, Signature="+sig64, errAccess)
	bad("signature too short", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, Signature="+sig64[1:], errSignature)
	bad("signature too long", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, Signature="+sig64+"00", errSignature)
	bad("signature not hexadecimal", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, Signature="+strings.Repeat("g", 64), errSignature)
	bad("empty name in front", "SDK-HMAC-SHA256 Access=a, SignedHeaders=;x-sdk-date, Signature="+sig64, errNames)
	bad("empty name between", "SDK-HMAC-SHA256 Access=a, SignedHeaders=host;;x-sdk-date, Signature="+sig64, errNames)
	bad("empty name at the end", "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date;, Signature="+sig64, errNames)
	bad("upper case", "SDK-HMAC-SHA256 Access=a, SignedHeaders=Host;x-sdk-date, Signature="+sig64, errNames)
	bad("colon in a name", "SDK-HMAC-SHA256 Access=a, SignedHeaders=host:x;x-sdk-date, Signature="+sig64, errNames)
	bad("blank in a name", "SDK-HMAC-SHA256 Access=a, SignedHeaders=host; x-sdk-date, Signature="+sig64, errNames)
	bad("name twice", "SDK-HMAC-SHA256 Access=a, SignedHeaders=host;x-sdk-date;host, Signature="+sig64, errNamesTwice)
	var many []string
	for i := range maxNames {
		many = append(many, fmt.Sprintf("x-%d", i))
	}
	bad("too many names", "SDK-HMAC-SHA256 Access=a, SignedHeaders="+strings.Join(many, ";")+";x-sdk-date, Signature="+sig64, errNamesMany)
}

func TestFromHeaders(t *testing.T) {
	t.Parallel()
	good := "SDK-HMAC-SHA256 Access=a, SignedHeaders=x-sdk-date, Signature=" + sig64
	for _, tt := range []struct {
		name   string
		values []string
		found  bool
		err    error
	}{
		{"none", nil, false, nil},
		{"another scheme", []string{"Bearer x"}, false, nil},
		{"two of another scheme", []string{"Bearer x", "Bearer y"}, false, nil},
		{"a signature", []string{good}, true, nil},
		{"a broken signature is still one", []string{"SDK-HMAC-SHA256 x"}, true, errParam},
		{"two signatures", []string{good, good}, true, errAuthTwice},
		{"a signature after another scheme", []string{"Bearer x", good}, true, errAuthTwice},
		{"a signature before another scheme", []string{good, "Bearer x"}, true, errAuthTwice},
	} {
		v := Acquire()
		var p Parsed
		found, err := v.FromHeaders(&p, HTTPHeaders{"Authorization": tt.values})
		if found != tt.found || err != tt.err {
			t.Errorf("%s: %v, %v; want %v, %v", tt.name, found, err, tt.found, tt.err)
		}
		Release(v)
	}
}

// TestErrorsDistinct holds every fault to exactly one sentinel, so that a
// table by sentinel has one row for it.
func TestErrorsDistinct(t *testing.T) {
	t.Parallel()
	sentinels := []error{ErrMalformed, ErrDateMissing, ErrExpired, ErrHeaderMissing, ErrBodyHash, ErrMismatch, ErrNoKey, ErrPath}
	for _, err := range []error{
		errScheme, errParam, errTwice, errAccess, errSignature, errNames, errNamesTwice, errNamesMany, errAuthTwice,
		errDateForm, errDateTwice, errDateUnsign, errHashTwice, errHashForm, errValueBroken,
		&ExpiredError{}, &HeaderMissingError{}, ErrDateMissing, ErrBodyHash, ErrMismatch,
	} {
		n := 0
		for _, s := range sentinels {
			if errors.Is(err, s) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%v matches %d sentinels", err, n)
		}
	}
}

func TestIsSignature(t *testing.T) {
	t.Parallel()
	for auth, want := range map[string]bool{
		"": false, "SDK-HMAC-SHA256": true, " sdk-hmac-sha256 x": true, "SDK-HMAC-SHA256\tx": true,
		"SDK-HMAC-SHA2567 x": false, "SDK-HMAC-SHA25": false, "Bearer SDK-HMAC-SHA256": false,
	} {
		if got := IsSignature([]byte(auth)); got != want {
			t.Errorf("IsSignature(%q) = %v", auth, got)
		}
	}
}
