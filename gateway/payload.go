package gateway

import (
	"bytes"
	"errors"
	"io"
	"math"
	"unsafe"

	"github.com/tidwall/gjson"
)

// payload is what the gateway reads of an LLM request's JSON body.
type payload struct {
	model      string // as the client named it
	stream     bool
	wantsUsage bool  // the client asked for stream_options.include_usage itself
	maxOutput  int64 // max_tokens and its successors; 0: not given
	choices    int64 // n, at least 1

	model0, model1 int // position of the model's JSON text; 0, 0: none
	opts0, opts1   int // position of the value of stream_options; 0, 0: none
	optsObject     bool
}

// errDuplicate is refused because readers differ in which of two equal keys
// they take: the gateway must see what the upstream will.
var errDuplicate = errors.New("the key stands twice in the request body")

// parsePayload reads the top level of body. param names the faulty parameter.
func parsePayload(body []byte) (p payload, param string, err error) {
	if !gjson.ValidBytes(body) {
		return p, "", errors.New("the request body is not valid JSON")
	}
	// The text is only read while body is unchanged; strings kept from it are
	// copied.
	text := unsafe.String(unsafe.SliceData(body), len(body))
	root := gjson.Parse(text)
	if !root.IsObject() {
		return p, "", errors.New("the request body must be a JSON object")
	}
	p.choices = 1
	const (
		seenModel = 1 << iota
		seenStream
		seenOptions
		seenMax
		seenN
	)
	seen := 0
	fault := func(name, text string) bool {
		param, err = name, errors.New(text)
		return false
	}
	root.ForEach(func(key, value gjson.Result) bool {
		bit := 0
		switch key.Str {
		case "model":
			bit = seenModel
			if value.Type != gjson.String || value.Str == "" {
				return fault("model", "model must be a non-empty string")
			}
			p.model = string([]byte(value.Str))
			p.model0, p.model1 = value.Index, value.Index+len(value.Raw)
		case "stream":
			bit = seenStream
			if value.Type != gjson.True && value.Type != gjson.False && value.Type != gjson.Null {
				return fault("stream", "stream must be true or false") // LLM-12
			}
			p.stream = value.Type == gjson.True
		case "stream_options":
			bit = seenOptions
			if !value.IsObject() && value.Type != gjson.Null {
				return fault("stream_options", "stream_options must be an object")
			}
			p.opts0, p.opts1, p.optsObject = value.Index, value.Index+len(value.Raw), value.IsObject()
			n := 0
			value.ForEach(func(k, v gjson.Result) bool {
				if k.Str == "include_usage" {
					n++
					p.wantsUsage = v.Type == gjson.True
				}
				return true
			})
			if n > 1 {
				param, err = "stream_options", errDuplicate
				return false
			}
		case "max_tokens", "max_completion_tokens", "max_output_tokens":
			bit = seenMax << 8 // several names may stand side by side
			p.maxOutput = max(p.maxOutput, amount(value))
		case "n":
			bit = seenN
			p.choices = max(1, amount(value))
		default:
			return true
		}
		if bit < seenMax<<8 && seen&bit != 0 {
			param, err = string([]byte(key.Str)), errDuplicate
			return false
		}
		seen |= bit
		return true
	})
	return p, param, err
}

// amount reads a JSON number as a non-negative integer; anything else is 0.
func amount(v gjson.Result) int64 {
	if v.Type != gjson.Number || !(v.Num >= 0) || v.Num > math.MaxInt32 {
		return 0
	}
	return int64(v.Num)
}

// rewrite appends to dst the body with the model replaced by upstreamModel and,
// when askUsage is set, with stream_options.include_usage true; every other
// byte stands as the client sent it (LLM-35). It returns body itself when
// nothing has to change.
func (p *payload) rewrite(dst, body []byte, upstreamModel string, askUsage bool) []byte {
	type edit struct {
		from, to int
		text     []byte
	}
	var edits [3]edit
	n := 0
	if upstreamModel != "" && p.model1 > 0 && upstreamModel != p.model {
		edits[n] = edit{p.model0, p.model1, gjson.AppendJSONString(nil, upstreamModel)}
		n++
	}
	if askUsage && !p.wantsUsage {
		switch {
		case p.opts1 == 0:
			at := bytes.IndexByte(body, '{') + 1
			edits[n] = edit{at, at, []byte(`"stream_options":{"include_usage":true},`)}
		default:
			edits[n] = edit{p.opts0, p.opts1, askedOptions(body[p.opts0:p.opts1], p.optsObject)}
		}
		n++
	}
	if n == 0 {
		return body
	}
	if n == 2 && edits[1].from < edits[0].from {
		edits[0], edits[1] = edits[1], edits[0]
	}
	last := 0
	for _, e := range edits[:n] {
		dst = append(dst, body[last:e.from]...)
		dst = append(dst, e.text...)
		last = e.to
	}
	return append(dst, body[last:]...)
}

// askedOptions returns the value of stream_options with include_usage true and
// its other members untouched.
func askedOptions(raw []byte, object bool) []byte {
	out := []byte(`{"include_usage":true`)
	if object {
		gjson.ParseBytes(raw).ForEach(func(k, v gjson.Result) bool {
			if k.Str != "include_usage" {
				out = append(append(append(append(out, ','), k.Raw...), ':'), v.Raw...)
			}
			return true
		})
	}
	return append(out, '}')
}

// errTooLarge says that a body passes its limit.
var errTooLarge = errors.New("body too large")

// readAll appends r to dst until its end, or errTooLarge past limit bytes.
func readAll(dst []byte, r io.Reader, limit int64) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		room := dst[len(dst):cap(dst)]
		if left := limit - int64(len(dst)) + 1; int64(len(room)) > left {
			room = room[:left]
		}
		n, err := r.Read(room)
		dst = dst[:len(dst)+n]
		if int64(len(dst)) > limit {
			return dst, errTooLarge
		}
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}
