package apisign

import (
	"net/http"
	"strings"
)

// FromHTTP makes a [Request] of a net/http request, received or about to be
// sent, and its body.
func FromHTTP(req *http.Request, body []byte) Request {
	target := req.RequestURI // as received
	switch {
	case target == "":
		target = req.URL.RequestURI() // as it will be sent
	case !strings.HasPrefix(target, "/"): // absolute form, or "*"
		target = req.URL.RequestURI()
	}
	path, query, _ := strings.Cut(target, "?")
	host := req.Host
	if host == "" && req.URL != nil {
		host = req.URL.Host
	}
	method := req.Method
	if method == "" {
		method = http.MethodGet
	}
	return Request{
		Method:  []byte(method),
		Path:    []byte(path),
		Query:   []byte(query),
		Host:    []byte(host),
		Headers: HTTPHeaders(req.Header),
		Body:    body,
	}
}

// HTTPHeaders lets a net/http header map be verified. Content-Length, Host and
// Transfer-Encoding are not in such a map: host is taken from [Request], and a
// signature over the two others cannot be checked through it.
type HTTPHeaders http.Header

// AppendValues implements [Headers].
func (h HTTPHeaders) AppendValues(dst [][]byte, name []byte) [][]byte {
	for key, values := range h {
		if len(key) == len(name) && strings.EqualFold(key, string(name)) {
			for _, v := range values {
				dst = append(dst, []byte(v))
			}
		}
	}
	return dst
}
