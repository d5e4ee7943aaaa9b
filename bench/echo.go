package bench

import (
	"encoding/base64"
	"encoding/json"
	"unicode/utf8"

	"github.com/valyala/fasthttp"
)

// Echo is the JSON with which the mock answers any path that is not one of the
// OpenAI surface: the request as it arrived.
type Echo struct {
	Method     string              `json:"method"`
	Path       string              `json:"path"`  // as on the request line
	Query      string              `json:"query"` // likewise
	Host       string              `json:"host"`
	Headers    map[string][]string `json:"headers"` // names in canonical case
	BodyBytes  int                 `json:"body_bytes"`
	Body       string              `json:"body,omitempty"`        // when it is UTF-8
	BodyBase64 string              `json:"body_base64,omitempty"` // when it is not
}

func appendEcho(dst []byte, ctx *fasthttp.RequestCtx) []byte {
	body := ctx.Request.Body()
	e := Echo{
		Method:    string(ctx.Method()),
		Path:      string(ctx.URI().PathOriginal()),
		Query:     string(ctx.URI().QueryString()),
		Host:      string(ctx.Request.Header.Host()),
		Headers:   make(map[string][]string),
		BodyBytes: len(body),
	}
	for k, v := range ctx.Request.Header.All() {
		e.Headers[string(k)] = append(e.Headers[string(k)], string(v))
	}
	if utf8.Valid(body) {
		e.Body = string(body)
	} else {
		e.BodyBase64 = base64.StdEncoding.EncodeToString(body)
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings always encode
	}
	return append(append(dst, b...), '\n')
}

// errorBody appends the OpenAI error envelope of a status.
func errorBody(dst []byte, status int, message string) []byte {
	kind, code := "server_error", ""
	switch {
	case status == fasthttp.StatusTooManyRequests:
		kind, code = "requests", "rate_limit_exceeded"
	case status == fasthttp.StatusUnauthorized:
		kind, code = "invalid_request_error", "invalid_api_key"
	case status == fasthttp.StatusNotFound:
		kind, code = "invalid_request_error", "model_not_found"
	case status < 500:
		kind = "invalid_request_error"
	}
	if message == "" {
		message = fasthttp.StatusMessage(status) + " (asked for with X-Mock-Status)"
	}
	dst = append(dst, `{"error":{"message":`...)
	dst = appendQuoted(dst, message)
	dst = append(dst, `,"type":"`...)
	dst = append(dst, kind...)
	dst = append(dst, `","param":null,"code":`...)
	if code == "" {
		dst = append(dst, "null"...)
	} else {
		dst = appendQuoted(dst, code)
	}
	return append(dst, `}}`...)
}
