package apisign

import (
	"bytes"
	"encoding/hex"
)

// Algorithm is the scheme of the Authorization header and the first line of
// the string to sign.
const Algorithm = "SDK-HMAC-SHA256"

// maxNames bounds SignedHeaders, and with it the work an unauthenticated
// request can cause.
const maxNames = 128

// maxAccess is the longest AppKey (gateway-wire section 1.7).
const maxAccess = 200

// Headers looks up the fields of a request. Names are given in lower case and
// compared without regard to case.
type Headers interface {
	// AppendValues appends the value of every field called name to dst, in any
	// order and without folding several into one. The values must stay
	// unchanged until the caller is done with the request.
	AppendValues(dst [][]byte, name []byte) [][]byte
}

// Parsed is an Authorization header taken apart. Its slices point into the
// header it was parsed from and die with it.
type Parsed struct {
	Access        []byte   // the AppKey
	SignedHeaders []byte   // the list as sent: lower-case names joined by ";"
	Signature     [32]byte // decoded; the key of a replay cache

	dateSigned bool
	hashSigned bool
}

// IsSignature reports whether an Authorization value claims to be an app
// signature, well-formed or not. The scheme is compared without regard to
// case, as RFC 9110 section 11.1 asks.
func IsSignature(auth []byte) bool {
	auth = trimBlank(auth)
	return len(auth) >= len(Algorithm) && equalFold(auth[:len(Algorithm)], Algorithm) &&
		(len(auth) == len(Algorithm) || isBlank(auth[len(Algorithm)]))
}

var (
	nameAuthorization = []byte("authorization")
	nameDate          = []byte("x-sdk-date")
	nameHash          = []byte("x-sdk-content-sha256")
	nameHost          = []byte("host")
)

// Parse takes an Authorization value apart and checks its form. Blanks around
// the commas and the order of the three parameters are free; anything unknown,
// repeated or missing is refused, because what one reader skips another may
// act upon.
func (p *Parsed) Parse(auth []byte) error {
	*p = Parsed{}
	if !IsSignature(auth) {
		return errScheme
	}
	rest := trimBlank(auth)[len(Algorithm):]
	var seenSignature bool
	for more := true; more; {
		var part []byte
		part, rest, more = bytes.Cut(rest, comma)
		name, value, ok := bytes.Cut(trimBlank(part), equals)
		if !ok || len(value) == 0 {
			return errParam
		}
		switch string(name) {
		case "Access":
			if p.Access != nil {
				return errTwice
			}
			if !validAccess(value) {
				return errAccess
			}
			p.Access = value
		case "SignedHeaders":
			if p.SignedHeaders != nil {
				return errTwice
			}
			if err := p.checkNames(value); err != nil {
				return err
			}
			p.SignedHeaders = value
		case "Signature":
			if seenSignature {
				return errTwice
			}
			if len(value) != 2*len(p.Signature) {
				return errSignature
			}
			if _, err := hex.Decode(p.Signature[:], value); err != nil {
				return errSignature
			}
			seenSignature = true
		default:
			return errParam
		}
	}
	if p.Access == nil || p.SignedHeaders == nil || !seenSignature {
		return errParam
	}
	return nil
}

// checkNames refuses lists that two readers could take for different headers:
// empty and repeated names, upper case, bytes no header name may hold.
func (p *Parsed) checkNames(list []byte) error {
	var seen [maxNames][]byte
	n := 0
	for more := true; more; {
		var name []byte
		name, list, more = bytes.Cut(list, semicolon)
		if len(name) == 0 {
			return errNames
		}
		for _, c := range name {
			if !nameByte[c] {
				return errNames
			}
		}
		if n == maxNames {
			return errNamesMany
		}
		for _, s := range seen[:n] {
			if bytes.Equal(s, name) {
				return errNamesTwice
			}
		}
		seen[n] = name
		n++
		switch string(name) {
		case "x-sdk-date":
			p.dateSigned = true
		case "x-sdk-content-sha256":
			p.hashSigned = true
		}
	}
	return nil
}

func validAccess(key []byte) bool {
	if len(key) > maxAccess {
		return false
	}
	for _, c := range key {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

var (
	comma     = []byte{','}
	equals    = []byte{'='}
	semicolon = []byte{';'}
)

// nameByte holds the bytes of a header name (RFC 9110 token) but upper case.
var nameByte = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz" {
		t[c] = true
	}
	return t
}()

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func trimBlank(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isBlank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold compares ASCII text without regard to case. upper must be upper case.
func equalFold(b []byte, upper string) bool {
	if len(b) != len(upper) {
		return false
	}
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != upper[i] {
			return false
		}
	}
	return true
}
