package fastsign

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"tollgate/internal/apisign"
)

// Headers looks up the fields of a fasthttp request header. Converting a
// pointer to it into the interface does not allocate.
type Headers struct{ *fasthttp.RequestHeader }

// AppendValues implements [apisign.Headers].
//
// Where the server normalises names, fasthttp keeps one Host, Content-Type and
// User-Agent, the last of several, and forwards that one; so that one has to be
// signed. Where it does not, the fields are read from the request as it came.
func (h Headers) AppendValues(dst [][]byte, name []byte) [][]byte {
	if h.DisableNormalizing() {
		for key, value := range h.AllInOrder() {
			if len(key) == len(name) && bytes.EqualFold(key, name) {
				dst = append(dst, value)
			}
		}
		return dst
	}
	h.EnableNormalizing() // as it was: there is no way to ask without setting
	values := h.PeekAll(string(name))
	if len(values) == 1 && len(values[0]) == 0 {
		switch string(name) {
		case "content-length", "trailer": // what PeekAll says of an absent one
			return dst
		}
	}
	return append(dst, values...)
}

// Fill sets r to the signed parts of ctx. Everything in r dies with the
// handler. The body is not touched: the caller sets r.Body or r.BodySHA256
// unless [apisign.Verifier.BodyUnsigned] says it need not.
func Fill(r *apisign.Request, ctx *fasthttp.RequestCtx) {
	uri := ctx.Request.Header.RequestURI()
	path, query, _ := bytes.Cut(uri, question)
	if len(path) == 0 || path[0] != '/' { // absolute form
		path = ctx.URI().PathOriginal()
		query = ctx.URI().QueryString()
	}
	*r = apisign.Request{
		Method:  ctx.Method(),
		Path:    path,
		Query:   query,
		Host:    ctx.Request.Header.Host(),
		Headers: Headers{&ctx.Request.Header},
	}
}

var question = []byte{'?'}
