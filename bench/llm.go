package bench

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// llmKind is an endpoint of the OpenAI surface.
type llmKind uint8

const (
	kindChat llmKind = iota
	kindCompletion
	kindEmbedding
	kindResponse
	kindMessage
)

// llmRequest is what the mock reads of a request body.
type llmRequest struct {
	kind         llmKind
	model        string
	stream       bool
	includeUsage bool
	base64       bool // embeddings: encoding_format
	inputs       int  // embeddings: how many
}

// parseLLM reads a request as strictly as a real server does. A key that
// appears twice is refused: JSON readers differ in which one they take, and a
// gateway that adds "stream_options" beside the client's must not pass a test.
func parseLLM(kind llmKind, body []byte) (llmRequest, error) {
	r := llmRequest{kind: kind, inputs: 1}
	if !gjson.ValidBytes(body) {
		return r, errors.New("the body is not valid JSON")
	}
	root := gjson.ParseBytes(body)
	if !root.IsObject() {
		return r, errors.New("the body is not a JSON object")
	}
	var seen [6]bool
	var err error
	root.ForEach(func(key, value gjson.Result) bool {
		var i int
		switch key.Str {
		case "model":
			i = 0
			if r.model = value.String(); value.Type != gjson.String || r.model == "" {
				err = errors.New("model must be a string")
			}
		case "stream":
			i = 1
			r.stream = value.Bool()
			if !value.IsBool() && value.Type != gjson.Null {
				err = errors.New("stream must be a boolean")
			}
		case "stream_options":
			i = 2
			r.includeUsage, err = parseStreamOptions(value)
		case "encoding_format":
			i = 3
			r.base64 = value.Str == "base64"
		case "input":
			i = 4
			if value.IsArray() && kind == kindEmbedding {
				if first := value.Get("0"); first.Type == gjson.String || first.IsArray() {
					r.inputs = int(value.Get("#").Int())
				}
			}
		case "messages":
			i = 5
		default:
			return true
		}
		if seen[i] {
			err = fmt.Errorf("%s appears twice", key.Str)
		}
		seen[i] = true
		return err == nil
	})
	switch {
	case err != nil:
		return r, err
	case !seen[0]:
		return r, errors.New("you must provide a model parameter")
	case seen[2] && !r.stream && root.Get("stream_options").Type != gjson.Null:
		return r, errors.New("the 'stream_options' parameter is only allowed when 'stream' is enabled")
	}
	return r, nil
}

func parseStreamOptions(v gjson.Result) (include bool, err error) {
	if v.Type == gjson.Null {
		return false, nil
	}
	if !v.IsObject() {
		return false, errors.New("stream_options must be an object")
	}
	n := 0
	v.ForEach(func(key, value gjson.Result) bool {
		if key.Str == "include_usage" {
			n++
			include = value.Bool()
		}
		return true
	})
	if n > 1 {
		err = errors.New("stream_options.include_usage appears twice")
	}
	return include, err
}

// words are what the mock says.
var words = []string{
	"every ", "call ", "is ", "counted ", "once ", "and ", "no ", "unit ", "is ", "sold ", "twice; ",
	"余额 ", "不足 ", "quotes \\\" ", "braces {} ", "and ", "newlines\\n ", "do ", "no ", "harm. ",
}

// appendText appends the answer's text, JSON-escaped: size bytes of padding, or
// one word per completion token.
func appendText(dst []byte, tokens int64, size int) []byte {
	if size > 0 {
		for range size {
			dst = append(dst, 'x')
		}
		return dst
	}
	for i := range min(tokens, 1<<16) {
		dst = append(dst, words[int(i)%len(words)]...)
	}
	return dst
}

// decoy is a usage object a gateway must not believe: it is never top level.
const decoy = `{"prompt_tokens":999,"completion_tokens":999,"total_tokens":1998,"input_tokens":999,"output_tokens":999}`

// appendUsage appends a usage object in the form of an endpoint.
func appendUsage(dst []byte, kind llmKind, u usageFigures, q quirks) []byte {
	in, out, inDetails, outDetails := "prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"
	if kind == kindResponse {
		in, out, inDetails, outDetails = "input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details"
	}
	dst = append(dst, `{"`...)
	dst = append(dst, in...)
	dst = append(dst, `":`...)
	dst = strconv.AppendInt(dst, u.prompt, 10)
	if kind == kindEmbedding {
		dst = append(dst, `,"total_tokens":`...)
		dst = strconv.AppendInt(dst, u.prompt, 10)
		return append(dst, '}')
	}
	dst = append(dst, `,"`...)
	dst = append(dst, out...)
	dst = append(dst, `":`...)
	if q&quirkNullTokens != 0 {
		dst = append(dst, "null"...)
	} else {
		dst = strconv.AppendInt(dst, u.completion, 10)
	}
	dst = append(dst, `,"total_tokens":`...)
	dst = strconv.AppendInt(dst, u.total(), 10)
	dst = append(dst, `,"`...)
	dst = append(dst, inDetails...)
	dst = append(dst, `":{"cached_tokens":`...)
	dst = strconv.AppendInt(dst, u.cached, 10)
	dst = append(dst, `},"`...)
	dst = append(dst, outDetails...)
	dst = append(dst, `":{"reasoning_tokens":`...)
	dst = strconv.AppendInt(dst, u.reasoning, 10)
	return append(dst, `}}`...)
}

// appendTopUsage appends `,"usage":…` of a body that is not streamed, with
// what the steering makes of it. reported says whether it holds figures.
func appendTopUsage(dst []byte, kind llmKind, s *steer) (_ []byte, reported bool) {
	switch {
	case s.noUsage:
		return dst, false
	case s.quirks&quirkNullUsage != 0:
		return append(dst, `,"usage":null`...), false
	}
	dst = append(dst, `,"usage":`...)
	dst = appendUsage(dst, kind, s.tokens, 0)
	if s.quirks&quirkNestedUsage != 0 {
		dst = append(dst, `,"metadata":{"usage":`+decoy+`,"note":"\"usage\":`...)
		dst = appendEscaped(dst, decoy)
		dst = append(dst, `"}`...)
	}
	return dst, true
}

// answerBody appends the body of an answer that is not streamed.
func answerBody(dst []byte, r *llmRequest, s *steer, id uint64, created int64) ([]byte, bool) {
	if s.quirks&quirkKeepalive != 0 {
		dst = append(dst, "\n\n\n"...)
	}
	nested := s.quirks&quirkNestedUsage != 0
	var reported bool
	switch r.kind {
	case kindChat, kindCompletion:
		object, prefix := "chat.completion", "chatcmpl-"
		if r.kind == kindCompletion {
			object, prefix = "text_completion", "cmpl-"
		}
		dst = appendHead(dst, prefix, object, r.model, id, created)
		dst = append(dst, `,"choices":[{"index":0,`...)
		if r.kind == kindChat {
			dst = append(dst, `"message":{"role":"assistant","content":"`...)
			dst = appendText(dst, s.tokens.completion, s.size)
			dst = append(dst, `","refusal":null`...)
			if nested {
				dst = append(dst, `,"annotations":[{"usage":`+decoy+`}]`...)
			}
			dst = append(dst, '}')
		} else {
			dst = append(dst, `"text":"`...)
			dst = appendText(dst, s.tokens.completion, s.size)
			dst = append(dst, '"')
		}
		if nested {
			dst = append(dst, `,"usage":`+decoy...)
		}
		dst = append(dst, `,"logprobs":null,"finish_reason":"stop"}]`...)
		dst, reported = appendTopUsage(dst, r.kind, s)
	case kindEmbedding:
		dst = append(dst, `{"object":"list","data":[`...)
		for i := range r.inputs {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, `{"object":"embedding","index":`...)
			dst = strconv.AppendInt(dst, int64(i), 10)
			dst = append(dst, `,"embedding":`...)
			dst = appendVector(dst, r.base64, i)
			dst = append(dst, '}')
		}
		dst = append(dst, `],"model":`...)
		dst = appendQuoted(dst, r.model)
		dst, reported = appendTopUsage(dst, r.kind, s)
	case kindResponse:
		dst, reported = appendResponse(dst, r, s, id, created, "completed", true)
		return dst, reported
	case kindMessage:
		return appendMessage(dst, r, s, id, true)
	}
	return append(dst, '}'), reported
}

// appendHead appends the members every chat object begins with, without the
// closing brace.
func appendHead(dst []byte, prefix, object, model string, id uint64, created int64) []byte {
	dst = append(dst, `{"id":"`...)
	dst = append(dst, prefix...)
	dst = appendID(dst, id)
	dst = append(dst, `","object":"`...)
	dst = append(dst, object...)
	dst = append(dst, `","created":`...)
	dst = strconv.AppendInt(dst, created, 10)
	dst = append(dst, `,"model":`...)
	dst = appendQuoted(dst, model)
	return append(dst, `,"system_fingerprint":"fp_mock"`...)
}

// appendID appends a counter in the width of a real id.
func appendID(dst []byte, id uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[id>>shift&15])
	}
	return dst
}

// appendVector appends a small embedding, as numbers or as the base64 of
// little-endian float32 that the OpenAI SDKs ask for by default.
func appendVector(dst []byte, b64 bool, i int) []byte {
	const dims = 8
	if b64 {
		var raw [4 * dims]byte
		for d := range dims {
			binary.LittleEndian.PutUint32(raw[4*d:], math.Float32bits(component(i, d)))
		}
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, raw[:])
		return append(dst, '"')
	}
	dst = append(dst, '[')
	for d := range dims {
		if d > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendFloat(dst, float64(component(i, d)), 'g', -1, 32)
	}
	return append(dst, ']')
}

func component(i, d int) float32 { return float32((i*8+d)%16)/16 - 0.5 }

// appendQuoted appends s as a JSON string.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	dst = appendEscaped(dst, s)
	return append(dst, '"')
}

func appendEscaped(dst []byte, s string) []byte {
	for _, r := range s { // invalid UTF-8 becomes U+FFFD
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20:
			dst = append(dst, `\u00`...)
			dst = append(dst, "0123456789abcdef"[r>>4], "0123456789abcdef"[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}
