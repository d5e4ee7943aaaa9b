package gateway

import (
	"bytes"
	"math"
	"unsafe"

	"github.com/tidwall/gjson"

	"tollgate/internal/usage"
)

// report is what the upstream said of its usage. Amounts it did not name are
// negative; the zero report says nothing at all.
type report struct {
	found     bool
	input     int64
	output    int64
	total     int64
	cached    int64 // a subset of input
	reasoning int64 // a subset of output

	// Anthropic counts what was written to and read from its cache apart from
	// the input; both are input here.
	cacheWrite int64
	cacheRead  int64
}

// merge adds what a later report of the same answer says. Reports are
// cumulative, each amount by itself: Anthropic's last event names the output
// alone. So each amount is its high-water mark, and nothing is ever summed.
func (r *report) merge(later report) {
	if !r.found {
		*r = later
		return
	}
	r.input, r.output, r.total = max(r.input, later.input), max(r.output, later.output), max(r.total, later.total)
	r.cached, r.reasoning = max(r.cached, later.cached), max(r.reasoning, later.reasoning)
	r.cacheWrite, r.cacheRead = max(r.cacheWrite, later.cacheWrite), max(r.cacheRead, later.cacheRead)
}

var (
	keyUsage   = []byte(`"usage"`)
	nullUsage  = []byte(`:null`)
	nullUsage2 = []byte(`: null`)
)

// findUsage looks for a usage object in one JSON text: at the top level (chat,
// completions, embeddings, …), in "response" (events of the responses API) or
// in "message" (Anthropic's message_start). Only those places count: an echo of
// the word deeper in the answer is content. The look-up walks the text by
// depth; the search for the bare word only spares texts that cannot hold one.
func findUsage(text []byte) (r report, found bool) {
	if !mayHoldUsage(text) {
		return report{}, false
	}
	var at, within [2]int // of the value
	valid := looseMembers(text, func(key []byte, from, to int) bool {
		switch string(key) {
		case "usage":
			at = [2]int{from, to}
		case "response", "message":
			looseMembers(text[from:to], func(key []byte, f, t int) bool {
				if string(key) != "usage" {
					return true
				}
				if text[from+f] == '{' {
					within = [2]int{from + f, from + t}
				}
				return false
			})
		}
		return at[1] == 0 || text[at[0]] != '{'
	})
	if !valid {
		return findUsageIn(view(text))
	}
	if at[1] == 0 || text[at[0]] != '{' {
		at = within
	}
	if at[1] == 0 {
		return report{}, false
	}
	return parseUsage(text[at[0]:at[1]])
}

// findUsageIn looks in a text that is not quite JSON, and takes what it finds.
func findUsageIn(text string) (r report, found bool) {
	var outer, inner gjson.Result
	gjson.Parse(text).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "usage":
			outer = value
		case "response", "message":
			if u := value.Get("usage"); u.IsObject() {
				inner = u
			}
		}
		return !outer.IsObject()
	})
	if !outer.IsObject() {
		outer = inner
	}
	if !outer.IsObject() {
		return report{}, false
	}
	return parseUsage([]byte(outer.Raw))
}

// mayHoldUsage reports whether the word stands in the text other than as
// "usage":null, which upstreams put into every chunk but the last.
func mayHoldUsage(text []byte) bool {
	for {
		i := bytes.Index(text, keyUsage)
		if i < 0 {
			return false
		}
		text = text[i+len(keyUsage):]
		if !bytes.HasPrefix(text, nullUsage) && !bytes.HasPrefix(text, nullUsage2) {
			return true
		}
	}
}

// parseUsage reads a usage object by either naming (gateway-wire section 5.2).
// Cached and reasoning tokens are subsets and are never added. An explicit zero
// is zero; an object without any known amount is no report.
func parseUsage(text []byte) (report, bool) {
	r := report{input: -1, output: -1, total: -1}
	valid := members(text, func(key []byte, from, to int) bool {
		r.take(string(key), text[from:to])
		return true
	})
	if !valid {
		r = report{input: -1, output: -1, total: -1}
		gjson.Parse(view(text)).ForEach(func(key, value gjson.Result) bool {
			r.take(key.Str, []byte(value.Raw))
			return true
		})
	}
	if r.input < 0 && r.output < 0 && r.total < 0 {
		return report{}, false
	}
	r.found = true
	return r, true
}

// take takes one member of a usage object.
func (r *report) take(key string, value []byte) {
	switch key {
	case "prompt_tokens", "input_tokens":
		tokens(&r.input, value)
	case "completion_tokens", "output_tokens":
		tokens(&r.output, value)
	case "cache_creation_input_tokens":
		tokens(&r.cacheWrite, value)
	case "cache_read_input_tokens":
		tokens(&r.cacheRead, value)
	case "total_tokens":
		tokens(&r.total, value)
	case "prompt_tokens_details", "input_tokens_details", "input_token_details":
		tokens(&r.cached, detail(value, "cached_tokens"))
	case "completion_tokens_details", "output_tokens_details", "output_token_details":
		tokens(&r.reasoning, detail(value, "reasoning_tokens"))
	}
}

// detail is the first member of that name.
func detail(value []byte, name string) (found []byte) {
	members(value, func(key []byte, from, to int) bool {
		if string(key) == name {
			found = value[from:to]
		}
		return found == nil
	})
	return found
}

// tokens sets *p to the whole number text; null, a fraction, a negative or an
// absurd amount leaves it as it was.
func tokens(p *int64, text []byte) {
	n := int64(0)
	for _, c := range text {
		if c < '0' || c > '9' || len(text) > 12 {
			v := gjson.Parse(view(text))
			if v.Type == gjson.Number && v.Num >= 0 && v.Num <= 1<<40 && v.Num == math.Trunc(v.Num) {
				*p = int64(v.Num)
			}
			return
		}
		n = 10*n + int64(c-'0')
	}
	if len(text) > 0 {
		*p = n
	}
}

// fill writes the report into rec.
func (r *report) fill(rec *usage.Record) {
	input, output, total := max(r.input, 0)+r.cacheWrite+r.cacheRead, max(r.output, 0), r.total
	if total < 0 {
		total = input + output
	}
	rec.Units[usage.InputToken] = input
	rec.Units[usage.OutputToken] = output
	rec.Units[usage.Token] = total
	rec.Cached = r.cached + r.cacheRead
	rec.Reasoning = r.reasoning
}

// view is the text of b without a copy. It is read only while b is unchanged,
// and strings kept from it are cloned.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
