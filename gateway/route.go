package gateway

import (
	"bytes"
	"slices"

	"github.com/valyala/fasthttp"
)

// family is the kind of an LLM request: the api label of metrics and records,
// and what is known of its body and answer.
type family uint8

// The families. Everything else below an LLM product passes through as
// familyOther and is metered like any other call.
const (
	familyOther family = iota
	familyChat
	familyCompletions
	familyEmbeddings
	familyResponses
	familyModels
	numFamilies
)

var familyNames = [numFamilies]string{"other", "chat.completions", "completions", "embeddings", "responses", "models"}

// familyOf returns the family of the path behind the OpenAI base, and whether a
// POST to it is a JSON object that names its model. The path is read as the most
// lenient upstream would, with escapes decoded, doubled slashes merged and case
// ignored: another spelling of a route must not be a way around its metering.
func familyOf(rest []byte) (f family, takesModel bool) {
	f, takesModel = familyOfPlain(rest)
	if f == familyOther && !isPlainPath(rest) {
		return familyOfPlain(lenient(rest))
	}
	return f, takesModel
}

func familyOfPlain(rest []byte) (f family, takesModel bool) {
	switch string(rest) {
	case "/chat/completions":
		return familyChat, true
	case "/completions":
		return familyCompletions, true
	case "/embeddings":
		return familyEmbeddings, true
	case "/responses", "/responses/compact":
		return familyResponses, true
	case "/models":
		return familyModels, false
	}
	switch {
	case bytes.HasPrefix(rest, []byte("/models/")):
		return familyModels, false
	case bytes.HasPrefix(rest, []byte("/responses/")):
		return familyResponses, false
	}
	return familyOther, false
}

// isPlainPath reports whether every reader takes path for the same.
func isPlainPath(path []byte) bool {
	for i, c := range path {
		if c == '%' || c >= 'A' && c <= 'Z' || c == '/' && i+1 == len(path) || c == '/' && path[i+1] == '/' {
			return false
		}
	}
	return true
}

// lenient returns path decoded, in lower case, with one slash for several and
// none at its end.
func lenient(path []byte) []byte {
	return bytes.TrimSuffix(bytes.ToLower(merged(path)), []byte{'/'})
}

// takesStreamOptions reports whether stream_options.include_usage is known to
// the family (LLM-35).
func (f family) takesStreamOptions() bool { return f == familyChat || f == familyCompletions }

var (
	pathInfers = []byte("/v1/infers/")
	pathV1     = []byte("/v1")
)

// route is where a request path leads.
type route struct {
	llm   bool
	infer []byte // infer id; empty: key and model decide
	rest  []byte // LLM: path behind the OpenAI base, empty or from a slash on
}

// splitLLM reports whether path belongs to the LLM side and takes it apart.
func splitLLM(path []byte) (route, bool) {
	if bytes.HasPrefix(path, pathInfers) {
		id := path[len(pathInfers):]
		i := bytes.IndexByte(id, '/')
		if i < 0 {
			return route{llm: true, infer: id}, true
		}
		rest := id[i:]
		if bytes.HasPrefix(rest, pathV1) && (len(rest) == len(pathV1) || rest[len(pathV1)] == '/') {
			return route{llm: true, infer: id[:i], rest: rest[len(pathV1):]}, true
		}
		return route{llm: true, infer: id[:i]}, true
	}
	if bytes.HasPrefix(path, pathV1) && (len(path) == len(pathV1) || path[len(pathV1)] == '/') {
		return route{llm: true, rest: path[len(pathV1):]}, true
	}
	return route{}, false
}

// splitTarget takes the request target apart without decoding it: what was
// signed is what is routed and what is forwarded.
func splitTarget(ctx *fasthttp.RequestCtx) (path, query []byte) {
	path = ctx.Request.Header.RequestURI()
	if len(path) > 0 && path[0] != '/' {
		// Absolute form, or "*": the parser has found the path.
		u := ctx.Request.URI()
		return u.PathOriginal(), u.QueryString()
	}
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return path, nil
}

func (p *product) allowsMethod(method []byte) bool {
	if len(p.Methods) == 0 {
		return true
	}
	return slices.Contains(p.Methods, string(method))
}
