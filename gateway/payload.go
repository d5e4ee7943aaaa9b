package gateway

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"

	"github.com/tidwall/gjson"
)

// payload is what the gateway reads of an LLM request's JSON body.
type payload struct {
	model      string // as the client named it
	known      string // a name it may have
	stream     bool
	wantsUsage bool  // the client asked for stream_options.include_usage itself
	maxOutput  int64 // max_tokens and its successors; 0: not given
	choices    int64 // n, at least 1
	background bool  // the answer is to be made behind the call

	model0, model1 int // position of the model's JSON text; 0, 0: none
	opts0, opts1   int // position of the value of stream_options; 0, 0: none
	optsObject     bool
	optsFault      error // what is wrong with it, should it matter
}

// Faults of a request body. Readers differ in which of two equal keys they take,
// and some (Go's encoding/json among them) take a key in another case for the
// same: the gateway must see what the upstream will.
var (
	errJSON      = errors.New("the request body is not valid JSON")
	errObject    = errors.New("the request body must be a JSON object")
	errDuplicate = errors.New("must not stand twice in the request body")
	errSpelling  = errors.New("must be spelled in lower case")
)

// Keys the gateway reads, in the order of their bits in fieldReader.seen.
var payloadKeys = [...]string{"model", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "max_output_tokens", "messages", "background"}

const (
	keyModel = iota
	keyStream
	keyStreamOptions
	keyN
	keyMaxTokens
	keyMaxCompletionTokens
	keyMaxOutputTokens
	keyMessages
	keyBackground
)

// payloadKey returns the index of key among payloadKeys, -1 for another; exact
// is false when it is one of them in another case.
func payloadKey(key string) (index int, exact bool) {
	for i, k := range payloadKeys {
		if key == k {
			return i, true
		}
	}
	for i, k := range payloadKeys {
		// Folding may change a letter's length in bytes (ſ for s, K for k).
		if len(key) >= len(k) && len(key) <= 3*len(k) && strings.EqualFold(key, k) {
			return i, false
		}
	}
	return -1, false
}

// parsePayload reads the top level of body. param names the faulty parameter.
func parsePayload(body []byte, f family) (p payload, param string, err error) {
	return parsePayloadOf(body, f, "")
}

// parsePayloadOf is parsePayload where the model is likely known: its name is
// not copied then.
func parsePayloadOf(body []byte, f family, known string) (p payload, param string, err error) {
	p.known = known
	p.choices = 1
	seen := 0
	valid := members(body, func(raw []byte, from, to int) bool {
		key := view(raw)
		if strings.IndexByte(key, '\\') >= 0 {
			key = gjson.Parse(`"` + key + `"`).Str
		}
		i, exact := payloadKey(key)
		switch {
		case i < 0:
			return true
		case !exact:
			err = errSpelling
		case seen&(1<<i) != 0:
			err = errDuplicate
		default:
			seen |= 1 << i
			value := gjson.Parse(view(body[from:to]))
			value.Index = from
			err = p.take(i, value)
		}
		if err != nil {
			param = strings.Clone(key)
		}
		return err == nil
	})
	if !valid {
		if gjson.ValidBytes(body) && !gjson.Parse(view(body)).IsObject() {
			return payload{}, "", errObject
		}
		return payload{}, "", errJSON
	}
	switch {
	case err != nil:
	case p.stream && p.optsFault != nil:
		param, err = "stream_options", p.optsFault
	case f == familyChat && seen&(1<<keyMessages) == 0:
		param, err = "messages", errMessages // LLM-11
	}
	return p, param, err
}

var (
	errModel    = errors.New("must be a non-empty string")
	errStream   = errors.New("must be true or false")
	errOptions  = errors.New("must be an object with include_usage at most once, in lower case")
	errMessages = errors.New("must be a non-empty array")
	errMax      = errors.New("must be a whole number from 1 on")
)

// take reads the value of one of payloadKeys.
func (p *payload) take(key int, value gjson.Result) error {
	null := value.Type == gjson.Null
	switch key {
	case keyModel: // LLM-10
		if value.Type != gjson.String || value.Str == "" {
			return errModel
		}
		if p.model = p.known; value.Str != p.known {
			p.model = strings.Clone(value.Str)
		}
		p.model0, p.model1 = value.Index, value.Index+len(value.Raw)
	case keyStream: // LLM-12
		if value.Type != gjson.True && value.Type != gjson.False && !null {
			return errStream
		}
		p.stream = value.Type == gjson.True
	case keyStreamOptions: // LLM-13: without stream it is nobody's concern
		p.opts0, p.opts1, p.optsObject = value.Index, value.Index+len(value.Raw), value.IsObject()
		p.wantsUsage, p.optsFault = readOptions(value)
	case keyN:
		p.choices = max(1, amount(value))
	case keyMessages: // LLM-11
		if !value.IsArray() || strings.TrimLeft(value.Raw[1:], " \t\r\n")[0] == ']' {
			return errMessages
		}
	case keyBackground:
		p.background = value.Type == gjson.True
	default: // LLM-14
		if null {
			return nil
		}
		n := amount(value)
		if n < 1 || float64(n) != value.Num {
			return errMax
		}
		p.maxOutput = max(p.maxOutput, n)
	}
	return nil
}

// readOptions reads the value of stream_options.
func readOptions(v gjson.Result) (wantsUsage bool, fault error) {
	switch {
	case v.Type == gjson.Null:
		return false, nil
	case !v.IsObject():
		return false, errOptions
	}
	n := 0
	v.ForEach(func(k, v gjson.Result) bool {
		if strings.EqualFold(k.Str, keyIncludeUsage) {
			n++
			wantsUsage = v.Type == gjson.True
			if n > 1 || k.Str != keyIncludeUsage {
				fault = errOptions
			}
		}
		return true
	})
	return wantsUsage && fault == nil, fault
}

const keyIncludeUsage = "include_usage"

// amount reads a JSON number as a non-negative integer; anything else is 0.
func amount(v gjson.Result) int64 {
	if v.Type != gjson.Number || !(v.Num >= 0) || v.Num > math.MaxInt32 {
		return 0
	}
	return int64(v.Num)
}

// rewrite appends to dst the body with the model replaced by upstreamModel and,
// when askUsage is set, with stream_options.include_usage true (LLM-35), or with
// stream_options null where nothing is streamed (LLM-13); every other byte
// stands as the client sent it. It returns body itself when
// nothing has to change.
func (p *payload) rewrite(dst, body []byte, upstreamModel string, askUsage bool) []byte {
	type edit struct {
		from, to int
		text     []byte
	}
	var edits [2]edit
	n := 0
	if upstreamModel != "" && p.model1 > 0 && upstreamModel != p.model {
		edits[n] = edit{p.model0, p.model1, gjson.AppendJSONString(nil, upstreamModel)}
		n++
	}
	switch {
	case !p.stream && p.opts1 > 0 && string(body[p.opts0:p.opts1]) != "null":
		edits[n] = edit{p.opts0, p.opts1, []byte("null")} // LLM-13: it is ignored, and no error
		n++
	case !askUsage || p.wantsUsage:
	case p.opts1 == 0:
		at := bytes.IndexByte(body, '{') + 1
		edits[n] = edit{at, at, []byte(`"stream_options":{"include_usage":true},`)}
		n++
	default:
		edits[n] = edit{p.opts0, p.opts1, askedOptions(body[p.opts0:p.opts1], p.optsObject)}
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
		gjson.Parse(view(raw)).ForEach(func(k, v gjson.Result) bool {
			if !strings.EqualFold(k.Str, keyIncludeUsage) {
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
