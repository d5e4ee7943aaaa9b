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
	familyModerations
	familyImages
	familySpeech
	familyTranscriptions
	familyTranslations
	familyMessages
	familyRerank
	familyFiles
	familyUploads
	familyBatches
	familyVectorStores
	familyRealtime
	numFamilies
)

var familyNames = [numFamilies]string{
	"other", "chat.completions", "completions", "embeddings", "responses", "models", "moderations",
	"images", "audio.speech", "audio.transcriptions", "audio.translations", "messages", "rerank",
	"files", "uploads", "batches", "vector_stores", "realtime",
}

// form is what a POST to a route carries.
type form uint8

const (
	formNone  form = iota // nothing the gateway has to read: it makes no answer of its own
	formModel             // a JSON object that names its model, and an answer is made
	formJSON              // the same, but the model may be left out
	formParts             // multipart, or the JSON of formJSON; the model may be left out
	formCount             // a JSON object that names its model; its tokens are only counted
)

// makes reports whether a POST of the form has the upstream make an answer.
func (f form) makes() bool { return f == formModel || f == formJSON || f == formParts }

// familyOf returns the family of the path behind the OpenAI base, and what a
// POST to it carries. The path is read as the most
// lenient upstream would, with escapes decoded, doubled slashes merged and case
// ignored: another spelling of a route must not be a way around its metering.
func familyOf(rest []byte) (family, form) {
	if string(rest) == "/chat/completions" {
		return familyChat, formModel
	}
	if !isPlainPath(rest) {
		rest = lenient(rest)
	}
	if r, ok := routes[string(rest)]; ok {
		return r.family, r.form
	}
	for len(rest) > 1 {
		rest = rest[:bytes.LastIndexByte(rest, '/')]
		if f, ok := below[string(rest)]; ok {
			return f, formNone
		}
	}
	return familyOther, formJSON
}

type knownRoute struct {
	family family
	form   form
}

// routes are the paths that are known whole.
var routes = map[string]knownRoute{
	"/chat/completions":       {familyChat, formModel},
	"/completions":            {familyCompletions, formModel},
	"/embeddings":             {familyEmbeddings, formModel},
	"/responses":              {familyResponses, formModel},
	"/responses/compact":      {familyResponses, formModel},
	"/responses/input_tokens": {familyResponses, formCount},
	"/models":                 {familyModels, formNone},
	"/moderations":            {familyModerations, formJSON},
	"/images/generations":     {familyImages, formJSON},
	"/images/edits":           {familyImages, formParts},
	"/images/variations":      {familyImages, formParts},
	"/audio/speech":           {familySpeech, formModel},
	"/audio/transcriptions":   {familyTranscriptions, formParts},
	"/audio/translations":     {familyTranslations, formParts},
	"/messages":               {familyMessages, formModel},
	"/messages/count_tokens":  {familyMessages, formCount},
	"/rerank":                 {familyRerank, formJSON},
	"/realtime":               {familyRealtime, formNone},
	"/files":                  {familyFiles, formNone},
	"/uploads":                {familyUploads, formNone},
	"/batches":                {familyBatches, formNone},
	"/messages/batches":       {familyBatches, formNone},
	"/vector_stores":          {familyVectorStores, formNone},
}

// below are the paths whose whole trees belong to a family and make no answer
// that could be metered: what was made before is read, kept or removed there.
var below = map[string]family{
	"/chat/completions": familyChat,
	"/responses":        familyResponses,
	"/models":           familyModels,
	"/messages/batches": familyBatches,
	"/files":            familyFiles,
	"/uploads":          familyUploads,
	"/batches":          familyBatches,
	"/vector_stores":    familyVectorStores,
	"/realtime":         familyRealtime,
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

// last returns the types of the events of which one ends a stream of the
// family; nil where a stream ends otherwise.
func (f family) last() []string {
	switch f {
	case familyResponses:
		return lastOfResponse
	case familyMessages:
		return lastOfMessage
	case familyTranscriptions, familyTranslations:
		return lastOfTranscript
	case familySpeech:
		return lastOfSpeech
	}
	return nil
}

var (
	lastOfResponse   = []string{"response.completed", "response.incomplete", "response.failed"}
	lastOfMessage    = []string{"message_stop"}
	lastOfTranscript = []string{"transcript.text.done"}
	lastOfSpeech     = []string{"speech.audio.done"}
)

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
