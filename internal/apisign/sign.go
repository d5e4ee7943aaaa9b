package apisign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Names of the headers a signed request carries.
const (
	HeaderAuthorization = "Authorization"
	HeaderDate          = "X-Sdk-Date"
	HeaderContentSHA256 = "X-Sdk-Content-Sha256"
)

// Signer signs requests with an AppKey and its AppSecret. Its fields may not be
// changed while it is used; it is safe for concurrent use.
type Signer struct {
	Key    string
	Secret string

	// Now is the clock behind X-Sdk-Date; nil means time.Now.
	Now func() time.Time
	// Headers names the headers to sign beside host and x-sdk-date. Nil means
	// every header of the request except those that a client library or proxy
	// may add or change on the way ([DefaultNames]).
	Headers []string
	// UnsignedPayload leaves the body out of the signature, so that it need not
	// be read before it is sent.
	UnsignedPayload bool
}

// ErrNoKey is returned when a signer lacks its key or its secret.
var ErrNoKey = errors.New("sign: AppKey and AppSecret must both be given")

// Sign sets X-Sdk-Date and Authorization of req. A body is read, hashed and put
// back; with UnsignedPayload it is left alone and X-Sdk-Content-Sha256 is set.
// A date that req already carries is kept. Sign again before every retry that
// may fall outside the server's skew.
func (s *Signer) Sign(req *http.Request) error {
	if s.Key == "" || s.Secret == "" {
		return ErrNoKey
	}
	if req.Header == nil {
		req.Header = make(http.Header)
	}
	var body []byte
	if s.UnsignedPayload {
		req.Header.Set(HeaderContentSHA256, UnsignedPayload)
	} else {
		var err error
		if body, err = takeBody(req); err != nil {
			return fmt.Errorf("sign: read body: %w", err)
		}
	}
	if req.Header.Get(HeaderDate) == "" {
		now := time.Now
		if s.Now != nil {
			now = s.Now
		}
		req.Header.Set(HeaderDate, now().UTC().Format(DateLayout))
	}
	names := s.Headers
	if names == nil {
		names = DefaultNames(req.Header)
	}
	r := FromHTTP(req, body)
	auth, err := AppendAuthorization(nil, &r, s.Key, []byte(s.Secret), names)
	if err != nil {
		return err
	}
	req.Header.Set(HeaderAuthorization, string(auth))
	return nil
}

// AppendAuthorization appends the Authorization value of a request: the low
// level under [Signer.Sign]. r must carry X-Sdk-Date and every header in names;
// host and x-sdk-date are added to the names, x-sdk-content-sha256 where the
// request has it. host is left out when r.Host is empty.
func AppendAuthorization(dst []byte, r *Request, key string, secret []byte, names []string) ([]byte, error) {
	list := make([]string, 0, len(names)+3)
	for _, n := range names {
		list = append(list, strings.ToLower(n))
	}
	list = append(list, string(nameDate))
	if len(r.Host) > 0 {
		list = append(list, string(nameHost))
	}
	if len(r.Headers.AppendValues(nil, nameHash)) > 0 {
		list = append(list, string(nameHash))
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if len(r.Host) == 0 {
		list = slices.DeleteFunc(list, func(n string) bool { return n == string(nameHost) })
	}

	p := Parsed{Access: []byte(key), SignedHeaders: []byte(strings.Join(list, ";"))}
	if !validAccess(p.Access) || len(key) == 0 {
		return dst, errAccess
	}
	if err := p.checkNames(p.SignedHeaders); err != nil {
		return dst, err
	}
	v := Acquire()
	defer Release(v)
	date := bytes.TrimSpace(bytes.Join(r.Headers.AppendValues(nil, nameDate), comma))
	if _, err := time.Parse(DateLayout, string(date)); err != nil || len(date) != len(DateLayout) {
		return dst, errDateForm
	}
	if err := v.buildTail(&p, r); err != nil {
		return dst, err
	}
	v.build(r, pathDecoded, true)
	sum := v.mac.sum(v.request, date, secret)

	dst = append(dst, Algorithm+" Access="...)
	dst = append(dst, key...)
	dst = append(dst, ", SignedHeaders="...)
	dst = append(dst, p.SignedHeaders...)
	dst = append(dst, ", Signature="...)
	return appendHex(dst, sum[:]), nil
}

// unsignable are the headers that belong to a connection, or that client
// libraries and proxies add, fold or rewrite.
var unsignable = map[string]bool{
	"authorization": true, "connection": true, "keep-alive": true, "proxy-authorization": true,
	"proxy-connection": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
	"content-length": true, "expect": true, "accept-encoding": true, "user-agent": true, "via": true,
	"forwarded": true, "x-forwarded-for": true, "x-forwarded-proto": true, "x-forwarded-host": true,
}

// DefaultNames lists, in lower case and in order, the headers of h that are
// worth signing. Names with "_" are left out, as the vendor's signers do:
// proxies drop them.
func DefaultNames(h http.Header) []string {
	var names []string
	for n := range h {
		n = strings.ToLower(n)
		if !unsignable[n] && !strings.Contains(n, "_") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// takeBody reads the body of req and leaves an equal one in its place.
func takeBody(req *http.Request) ([]byte, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return nil, nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	if err := req.Body.Close(); err != nil {
		return nil, err
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
	req.ContentLength = int64(len(body))
	return body, nil
}
