package gateway

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"hash"
	"net"
	"net/netip"
	"sync"

	"github.com/valyala/fasthttp"

	"tollgate/internal/apisign"
	"tollgate/internal/apisign/fastsign"
	"tollgate/internal/usage"
)

// principal is who makes the call.
type principal struct {
	auth    usage.Auth
	account *account
	cred    string       // id of the credential
	key     *apiKey      // API keys only
	app     *application // signatures and AppCodes only
	limits  *limited
}

const (
	headerAppCode = "X-Apig-AppCode"
	queryAppCode  = "x-apig-appcode"
)

// hasher makes the keyed hashes of API keys and AppCodes with one pepper. The
// pool keeps the keyed state, so that a look-up hashes only the credential.
type hasher struct{ pool sync.Pool }

func newHasher(pepper []byte) *hasher {
	h := &hasher{}
	h.pool.New = func() any { return hmac.New(sha256.New, pepper) }
	return h
}

func (h *hasher) sum(secret []byte) (out [32]byte) {
	m := h.pool.Get().(hash.Hash)
	m.Reset()
	m.Write(secret)
	m.Sum(out[:0])
	h.pool.Put(m)
	return out
}

// bearer returns the API key of a request: the Bearer token, or x-api-key as
// Anthropic's clients send it. It reports false when there is none.
func bearer(h *fasthttp.RequestHeader) ([]byte, bool) {
	if v := h.Peek(fasthttp.HeaderAuthorization); len(v) > 0 {
		const scheme = "bearer "
		if len(v) > len(scheme) && equalFold(v[:len(scheme)], scheme) {
			return bytes.TrimSpace(v[len(scheme):]), true
		}
		return nil, false
	}
	if v := h.Peek("X-Api-Key"); len(v) > 0 {
		return v, true
	}
	return nil, false
}

// equalFold compares ASCII text without regard to case; lower is lower-case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range b {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// authenticateKey finds the account of an API key (KEY-10, KEY-11). The look-up
// is by keyed hash, so its time tells nothing of other keys.
func (c *call) authenticateKey() (principal, refusal) {
	key, ok := bearer(&c.ctx.Request.Header)
	if !ok {
		key, ok = protocolKey(&c.ctx.Request.Header)
	}
	if !ok {
		return principal{}, refusal{reason: ReasonNoAPIKey}
	}
	k := c.table.findKey(c.g.hashes(c.table), key)
	if k == nil {
		return principal{}, refusal{reason: ReasonBadAPIKey}
	}
	return principal{auth: usage.AuthAPIKey, account: k.account, cred: k.id, key: k, limits: &k.limits}, refusal{}
}

// authenticateApp checks the signature or AppCode of a call to an API product.
// A signature, once sent, decides alone: a failed one never falls back to an
// AppCode (AUTH-12). body yields the request body for signatures that cover it.
func (c *call) authenticateApp(p *product, body func() ([]byte, refusal)) (principal, refusal) {
	v := apisign.Acquire()
	defer apisign.Release(v)
	var parsed apisign.Parsed
	headers := fastsign.Headers{RequestHeader: &c.ctx.Request.Header}
	signed, err := v.FromHeaders(&parsed, &headers)
	if signed {
		return c.checkSignature(v, &parsed, err, body)
	}
	code, ok := c.appCode()
	if !ok {
		return principal{}, refusal{reason: ReasonNoCredential}
	}
	switch {
	case !p.SimpleAuth:
		return principal{}, refusal{reason: ReasonSimpleAuthOff}
	case !c.g.cfg.PlainAppCode && !c.secure():
		return principal{}, refusal{reason: ReasonAppCodeNeedsHTTPS}
	}
	a := c.table.findCode(c.g.hashes(c.table), code)
	if a == nil {
		return principal{}, refusal{reason: ReasonBadAppCode}
	}
	return principal{auth: usage.AuthAppCode, account: a.app.account, cred: a.id, app: a.app, limits: &a.app.limits}, refusal{}
}

func (c *call) checkSignature(v *apisign.Verifier, parsed *apisign.Parsed, err error, body func() ([]byte, refusal)) (principal, refusal) {
	fail := func(err error) (principal, refusal) {
		reason := ReasonBadSignature
		detail := "Incorrect app authentication information: " + err.Error()
		switch {
		case errors.Is(err, apisign.ErrExpired):
			reason = ReasonSignatureExpired
		case errors.Is(err, apisign.ErrMismatch):
			detail += ", canonicalRequest:" + string(v.AppendCanonical(nil))
		}
		return principal{}, refusal{reason: reason, detail: detail}
	}
	if err != nil {
		return fail(err)
	}
	k := c.table.appKeys[string(parsed.Access)]
	if k == nil {
		return principal{}, refusal{
			reason: ReasonUnknownAppKey,
			detail: "Incorrect app authentication information: app not found, appkey " + maskKey(parsed.Access),
		}
	}
	var r apisign.Request
	fastsign.Fill(&r, c.ctx)
	if !v.BodyUnsigned(parsed, r.Headers) {
		var ref refusal
		if r.Body, ref = body(); ref.reason != ReasonNone {
			return principal{}, ref
		}
	}
	if err := v.Verify(parsed, &r, k.secret, c.start, c.g.cfg.SignatureSkew); err != nil {
		return fail(err)
	}
	return principal{auth: usage.AuthSignature, account: k.app.account, cred: k.id, app: k.app, limits: &k.app.limits}, refusal{}
}

// maskKey shows the ends of an AppKey, as the vendor's gateway does.
func maskKey(key []byte) string {
	if len(key) <= 8 {
		return "***"
	}
	return string(key[:4]) + "***" + string(key[len(key)-4:])
}

// appCode returns the AppCode of the request, from the header or from the
// query (AUTH-3, AUTH-4). The header wins.
func (c *call) appCode() ([]byte, bool) {
	if v := c.ctx.Request.Header.Peek(headerAppCode); len(v) > 0 {
		return v, true
	}
	for rest := c.query; len(rest) > 0; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{'&'})
		name, value, _ := bytes.Cut(pair, []byte{'='})
		if len(value) > 0 && namesAppCode(name) {
			return unescape(value), true
		}
	}
	return nil, false
}

// withoutAppCode returns query without AppCode parameters (AUTH-13).
func withoutAppCode(query []byte) []byte {
	found := false
	for rest := query; len(rest) > 0 && !found; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{'&'})
		name, _, _ := bytes.Cut(pair, []byte{'='})
		found = namesAppCode(name)
	}
	if !found {
		return query
	}
	out := make([]byte, 0, len(query))
	for rest := query; len(rest) > 0; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{'&'})
		if name, _, _ := bytes.Cut(pair, []byte{'='}); namesAppCode(name) {
			continue
		}
		if len(out) > 0 {
			out = append(out, '&')
		}
		out = append(out, pair...)
	}
	return out
}

// namesAppCode reports whether a parameter's name, escaped in any way, is that
// of the AppCode.
func namesAppCode(name []byte) bool {
	if len(name) == len(queryAppCode) {
		return equalFold(name, queryAppCode)
	}
	return bytes.IndexByte(name, '%') >= 0 && equalFold(unescape(name), queryAppCode)
}

// unescape decodes the escapes of b. A literal + is a character of AppCodes,
// never a blank, and what is no escape stands for itself.
func unescape(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '%' && i+2 < len(b) {
			if hi, lo := unhex(b[i+1]), unhex(b[i+2]); hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, b[i])
	}
	return out
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func trusted(proxies []netip.Prefix, addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap()
	for _, p := range proxies {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
