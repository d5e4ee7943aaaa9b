package gateway

import (
	"bytes"
	"errors"
)

// kind says what becomes of a header field of the client's request.
type kind uint8

// The kinds. A plain field goes upstream as it came.
const (
	plain           kind = iota
	hopByHop             // concerns this connection only (RFC 9110 section 7.6.1): dropped
	connection           // Connection: dropped, and with it the fields it names
	framing              // Content-Length, Transfer-Encoding: written anew
	single               // Host, Content-Type, User-Agent: written from what was parsed, since of several only the last counts
	credential           // never reaches an upstream (AUTH-13)
	apiKeyField          // X-Api-Key: a credential of LLM products
	ours                 // set by the gateway alone: a client's own would be believed
	mock                 // steers the mock upstream
	acceptEncoding       // written anew for LLM products
	contentEncoding      // dropped when the body was unpacked
)

// known lists the fields that are not plain, by length.
var known = func() (t [32][]knownField) {
	for k, names := range map[kind][]string{
		hopByHop: {
			"keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
			"te", "trailer", "upgrade", "http2-settings", "expect",
		},
		connection: {"connection"},
		framing:    {"content-length", "transfer-encoding"},
		single:     {"host", "content-type", "user-agent"},
		credential: {"authorization", "x-apig-appcode", "x-proxy-signed-headers"},
		ours:       {"x-request-id", "x-customer-id", "x-customer-name", "x-real-ip", "forwarded"},

		apiKeyField:     {"x-api-key"},
		acceptEncoding:  {"accept-encoding"},
		contentEncoding: {"content-encoding"},
	} {
		for _, n := range names {
			t[len(n)] = append(t[len(n)], knownField{n, k})
		}
	}
	return t
}()

type knownField struct {
	name string
	kind kind
}

// classify returns the kind of a field. An underscore counts as a hyphen, since
// upstreams behind CGI or WSGI cannot tell the two apart.
func classify(name []byte) kind {
	if len(name) < len(known) {
		for i := range known[len(name)] {
			if k := &known[len(name)][i]; sameField(name, k.name) {
				return k.kind
			}
		}
	}
	if len(name) > len("x-sdk-") && name[0]|0x20 == 'x' {
		switch {
		case sameField(name[:6], "x-sdk-"):
			return credential
		case sameField(name[:7], "x-mock-"):
			return mock
		case len(name) > 12 && sameField(name[:12], "x-forwarded-"):
			return ours
		}
	}
	return plain
}

// sameField compares a field name with a lower-case one, without regard to
// case and taking underscores for hyphens.
func sameField(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i := range name {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == '_':
			c = '-'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// field is one header line of the client's request. Its slices point into the
// request's buffer and die with the handler.
type field struct {
	kind        kind
	name, value []byte
	line        []byte // whole, with its CRLF
}

// errFraming says that the header could be read in two ways by two readers,
// which is how requests are smuggled.
var errFraming = errors.New("the header is ambiguous: send each field on one line that ends in CRLF, without blanks in its name, and either Content-Length or Transfer-Encoding: chunked")

// parseFields appends the fields of raw, a header block behind the request line,
// to dst. It is stricter than the server's own parser: where that is lenient, an
// upstream may be lenient in another way.
func parseFields(dst []field, raw []byte) ([]field, error) {
	lengths, codings := 0, 0
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '\n')
		if i < 1 || raw[i-1] != '\r' {
			return dst, errFraming
		}
		line := raw[:i+1]
		raw = raw[i+1:]
		if i == 1 { // the blank line that ends the header
			if len(raw) > 0 {
				return dst, errFraming
			}
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon < 1 || !isToken(line[:colon]) { // also a folded line
			return dst, errFraming
		}
		f := field{name: line[:colon], value: trimBlank(line[colon+1 : i-1]), line: line}
		f.kind = classify(f.name)
		if f.kind == framing {
			if len(f.name) == len("content-length") {
				lengths++
			} else {
				codings++
				if !equalFold(f.value, "chunked") {
					return dst, errFraming
				}
			}
		}
		dst = append(dst, f)
	}
	if lengths+codings > 1 {
		return dst, errFraming
	}
	return dst, nil
}

// isToken reports whether b is a token (RFC 9110 section 5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenByte[c] {
			return false
		}
	}
	return true
}

var tokenByte = func() (t [256]bool) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
		t[c] = true
	}
	return t
}()

func trimBlank(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// options calls yield for each option of a list such as Connection's.
func options(list []byte, yield func(option []byte)) {
	for len(list) > 0 {
		var o []byte
		o, list, _ = bytes.Cut(list, []byte{','})
		if o = trimBlank(o); len(o) > 0 {
			yield(o)
		}
	}
}
