package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tollgate/internal/apisign"
)

// AuthKind is a kind of credential (gateway-wire sections 1 and 2).
type AuthKind string

// The kinds of credential a scenario can call with.
const (
	AuthNone      AuthKind = "none"
	AuthAPIKey    AuthKind = "apikey"
	AuthAppCode   AuthKind = "appcode"
	AuthSignature AuthKind = "signature"
)

// Auth is the credential of a scenario.
type Auth struct {
	Kind   AuthKind
	Key    string // the API key, the AppCode, or the AppKey
	Secret string // the AppSecret
	// Unique signs every call anew, with a number of its own in the signed
	// header X-Sdk-Nonce, for products with replay protection. Otherwise a
	// signature is kept for the second it was made in, which costs the
	// generator less.
	Unique bool
	// Spread, where it is above 0, has each call with an API key use one of so
	// many by chance: the last SpreadDigits characters of Key are replaced by a
	// number below it, zeros ahead.
	Spread int64
}

// SpreadDigits is how many characters of a key [Auth.Spread] replaces.
const SpreadDigits = 12

// AppendSpread appends number n the way [Auth.Spread] writes it.
func AppendSpread(dst []byte, n int64) []byte {
	at := len(dst)
	dst = append(dst, "000000000000"...)
	for i := len(dst) - 1; i >= at; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}

// Scenario is one kind of call of a load.
type Scenario struct {
	Name    string // unique within a load; it keys the result
	Weight  int    // its share of the calls, by default 1
	Method  string // by default GET, or POST with a body
	URL     string // http or https
	Headers []string
	Body    string
	Auth    Auth
	// Stream says that the answer is an event stream that has to be complete:
	// one without its last event counts as a failed stream.
	Stream bool
	// Hosts, when given, are the host:port addresses the calls go to, one after
	// the other, in place of the URL's own; the Host field stays the URL's. A
	// call whose connection is refused goes to the next, and only such a call.
	Hosts []string
	// LeaveAfter has the client of a stream close the connection after so many
	// events; 0: it stays to the end.
	LeaveAfter int
	// Pieces has the request written in pieces of so many bytes, each by a write
	// of its own, so that it arrives in that many segments; 0: in one go.
	Pieces int
	// ChunkBytes sends the body in chunked coding, in chunks of so many bytes; 0:
	// with its length.
	ChunkBytes int
	// Subscription and Units say what a 2xx answer is expected to charge; they
	// are for [Check].
	Subscription string
	Units        int64
}

// prepared is a scenario ready to be sent.
type prepared struct {
	Scenario
	url  *url.URL
	addr string
	base []byte // everything up to the credential
	end  []byte // the empty line and the body

	number int // where the number of a key of many stands in request

	request []byte // the whole, for the second in signedAt
	signed  int64  // unix second, or call number with Unique
}

// Validate reports every fault of s.
func (s *Scenario) Validate() error {
	var faults []error
	u, err := url.Parse(s.URL)
	switch {
	case err != nil:
		faults = append(faults, fmt.Errorf("url: %w", err))
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		faults = append(faults, fmt.Errorf("url %q must begin with http:// or https:// and name a host", s.URL))
	}
	if s.Name == "" {
		faults = append(faults, errors.New("it needs a name"))
	}
	if s.Weight < 0 {
		faults = append(faults, errors.New("its weight must not be negative"))
	}
	for _, h := range s.Hosts {
		if _, _, err := net.SplitHostPort(h); err != nil {
			faults = append(faults, fmt.Errorf("host %q must have the form host:port: %w", h, err))
		}
	}
	if s.LeaveAfter < 0 || s.LeaveAfter > 0 && !s.Stream {
		faults = append(faults, errors.New("to leave after so many events it must be a stream, and the number not be negative"))
	}
	if s.Pieces < 0 || s.ChunkBytes < 0 {
		faults = append(faults, errors.New("the size of its pieces and chunks must not be negative"))
	}
	for _, h := range s.Headers {
		if name, _, ok := strings.Cut(h, ":"); !ok || strings.TrimSpace(name) == "" || strings.ContainsAny(h, "\r\n") {
			faults = append(faults, fmt.Errorf("header %q must have the form 'Name: value'", h))
		}
	}
	switch s.Auth.Kind {
	case "", AuthNone:
	case AuthAPIKey, AuthAppCode:
		if s.Auth.Key == "" {
			faults = append(faults, fmt.Errorf("auth %s needs a key", s.Auth.Kind))
		}
	case AuthSignature:
		if s.Auth.Key == "" || s.Auth.Secret == "" {
			faults = append(faults, errors.New("auth signature needs an AppKey and an AppSecret"))
		}
	default:
		faults = append(faults, fmt.Errorf("auth %q is not known, use none, apikey, appcode or signature", s.Auth.Kind))
	}
	if s.Auth.Spread < 0 || s.Auth.Spread > 0 && (s.Auth.Kind != AuthAPIKey || len(s.Auth.Key) < SpreadDigits) {
		faults = append(faults, fmt.Errorf("a spread must not be negative, and needs an API key that ends in %d digits", SpreadDigits))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("scenario %q: %w", s.Name, err)
	}
	return nil
}

// prepare renders what does not change from call to call. s has been validated.
func (s Scenario) prepare() (*prepared, error) {
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, err
	}
	if s.Method == "" {
		s.Method = "GET"
		if s.Body != "" {
			s.Method = "POST"
		}
	}
	p := &prepared{Scenario: s, url: u, addr: u.Host, signed: -1}
	if u.Port() == "" {
		p.addr += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	}
	b := append([]byte(nil), s.Method+" "+u.RequestURI()+" HTTP/1.1\r\nHost: "+u.Host+"\r\n"...)
	for _, h := range s.headers() {
		b = append(b, h.name+": "+h.value+"\r\n"...)
	}
	body := s.Body
	if s.ChunkBytes > 0 {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		body = string(chunked(s.Body, s.ChunkBytes))
	} else if s.Body != "" || s.Method == "POST" || s.Method == "PUT" || s.Method == "PATCH" {
		b = append(b, "Content-Length: "+strconv.Itoa(len(s.Body))+"\r\n"...)
	}
	switch s.Auth.Kind {
	case AuthAPIKey:
		b = append(b, "Authorization: Bearer "+s.Auth.Key+"\r\n"...)
	case AuthAppCode:
		b = append(b, "X-Apig-AppCode: "+s.Auth.Key+"\r\n"...)
	}
	p.number = len(b) - len("\r\n") - SpreadDigits
	p.base, p.end = b, append([]byte("\r\n"), body...)
	p.request = slices.Concat(p.base, p.end)
	if s.Auth.Kind == AuthSignature {
		if _, err := p.render(time.Now(), 0); err != nil { // to fail now, not in the middle of a run
			return nil, fmt.Errorf("scenario %q: %w", s.Name, err)
		}
	}
	return p, nil
}

// chunked returns body in chunked coding (RFC 9112 section 7.1).
func chunked(body string, size int) (b []byte) {
	for len(body) > 0 {
		n := min(size, len(body))
		b = append(strconv.AppendInt(b, int64(n), 16), "\r\n"...)
		b = append(append(b, body[:n]...), "\r\n"...)
		body = body[n:]
	}
	return append(b, "0\r\n\r\n"...)
}

// addrs are the addresses the calls go to.
func (p *prepared) addrs() []string {
	if len(p.Hosts) > 0 {
		return p.Hosts
	}
	return []string{p.addr}
}

func (s *Scenario) headers() []header {
	var list []header
	typed := false
	for _, h := range s.Headers {
		name, value, _ := strings.Cut(h, ":")
		list = append(list, header{strings.TrimSpace(name), strings.TrimSpace(value)})
		typed = typed || strings.EqualFold(strings.TrimSpace(name), "Content-Type")
	}
	if s.Body != "" && !typed {
		list = append(list, header{"Content-Type", "application/json"})
	}
	return list
}

// render returns the bytes of one call: number n of the run, sent at now. They
// are good until the next render.
func (p *prepared) render(now time.Time, n int64) ([]byte, error) {
	if p.Auth.Spread > 0 {
		AppendSpread(p.request[:p.number], rand.Int64N(p.Auth.Spread))
	}
	if p.Auth.Kind != AuthSignature {
		return p.request, nil
	}
	stamp := now.Unix()
	if p.Auth.Unique {
		stamp = n
	}
	if stamp == p.signed {
		return p.request, nil
	}
	fields := headerList{{apisign.HeaderDate, now.UTC().Format(apisign.DateLayout)}}
	var names []string
	if p.Auth.Unique {
		fields = append(fields, header{"X-Sdk-Nonce", strconv.FormatInt(n, 10)})
		names = append(names, "x-sdk-nonce")
	}
	r := apisign.Request{
		Method: []byte(p.Method), Path: []byte(p.url.EscapedPath()), Query: []byte(p.url.RawQuery),
		Host: []byte(p.url.Host), Headers: fields, Body: []byte(p.Body),
	}
	auth, err := apisign.AppendAuthorization(nil, &r, p.Auth.Key, []byte(p.Auth.Secret), names)
	if err != nil {
		return nil, err
	}
	b := append(p.request[:0], p.base...)
	for _, f := range fields {
		b = append(b, f.name+": "+f.value+"\r\n"...)
	}
	b = append(b, apisign.HeaderAuthorization+": "...)
	b = append(b, auth...)
	b = append(b, "\r\n"...)
	p.request, p.signed = append(b, p.end...), stamp
	return p.request, nil
}

// headerList lets a few fields be signed.
type headerList []header

// AppendValues implements apisign.Headers.
func (l headerList) AppendValues(dst [][]byte, name []byte) [][]byte {
	for _, h := range l {
		if strings.EqualFold(h.name, string(name)) {
			dst = append(dst, []byte(h.value))
		}
	}
	return dst
}

// Renderer returns the bytes of one call: number n of the run, sent at now. They
// are good until it is called again. It is not safe for concurrent use.
type Renderer func(now time.Time, n int64) ([]byte, error)

// Renderer returns what renders the calls of s, for a generator of another make
// than [Load], and the address they go to.
func (s Scenario) Renderer() (r Renderer, addr string, err error) {
	if err := s.Validate(); err != nil {
		return nil, "", err
	}
	p, err := s.prepare()
	if err != nil {
		return nil, "", err
	}
	return p.render, p.addr, nil
}
