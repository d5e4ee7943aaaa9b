package bench

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// quirks are the oddities of real upstreams (gateway-wire section 5.3).
type quirks uint16

const (
	quirkContinuousUsage quirks = 1 << iota // usage on every chunk, asked or not (vLLM)
	quirkUsageInFinish                      // usage in the finish chunk, no chunk of its own (llama.cpp)
	quirkKeepalive                          // ": keep-alive" comments, blank lines before a JSON body (DeepSeek)
	quirkNullUsage                          // "usage":null and never a figure
	quirkNestedUsage                        // decoys: "usage" objects that are not top level, before and after the real one
	quirkForceUsage                         // the usage chunk although nobody asked (vLLM --enable-force-include-usage)
	quirkNullTokens                         // "completion_tokens":null until the last report (vLLM)
	quirkCRLF                               // SSE lines end in CR LF
	quirkNoSpace                            // "data:{…}" without the blank
	quirkNoDone                             // the stream ends without [DONE]
	quirkErrorMidstream                     // an error event half-way, then the end
)

var quirkNames = map[string]quirks{
	"continuous_usage": quirkContinuousUsage, "usage_in_finish": quirkUsageInFinish,
	"keepalive": quirkKeepalive, "null_usage": quirkNullUsage, "nested_usage": quirkNestedUsage,
	"force_usage": quirkForceUsage, "null_tokens": quirkNullTokens, "crlf": quirkCRLF,
	"nospace": quirkNoSpace, "no_done": quirkNoDone, "error_midstream": quirkErrorMidstream,
}

// flakyRequest, as the key of X-Mock-Flaky, stands for the X-Request-Id.
const flakyRequest = "{request}"

// How an answer is cut off.
const (
	breakNever = -1
	breakStart = -2 // before the first byte of the answer
)

// steer is what the X-Mock-* headers of one request ask for.
type steer struct {
	status     int
	latency    time.Duration
	chunks     int
	chunkDelay time.Duration
	tokens     usageFigures
	noUsage    bool
	breakAfter int // pieces of a stream or bytes of another body; or breakNever, breakStart
	breakReset bool
	split      int
	body       []byte // the answer of an LLM or media endpoint, in place of the mock's own; nil: none
	size       int    // bytes of text in the answer; 0: as many words as completion tokens
	encoding   string
	trailers   []header
	headers    []header
	interim    []int
	chunked    bool
	quirks     quirks
	flakyKey   string
	flakyTimes int
	flakyCode  int
}

type header struct{ name, value string }

// usageFigures are the amounts the mock reports.
type usageFigures struct{ prompt, completion, cached, reasoning int64 }

func (u usageFigures) total() int64 { return u.prompt + u.completion }

// Defaults of an answer nobody steered.
const (
	defaultChunks     = 10
	defaultPrompt     = 12
	defaultCompletion = 34
)

var mockPrefix = []byte("X-Mock-")

// parseSteer reads the steering headers. Asking for something the mock does not
// know is an error, not a silent default: a test that misspells a header must
// not pass.
func parseSteer(h *fasthttp.RequestHeader) (steer, error) {
	s := steer{
		status: 200, chunks: defaultChunks, breakAfter: breakNever,
		tokens: usageFigures{prompt: defaultPrompt, completion: defaultCompletion},
	}
	for key, value := range h.All() {
		if !bytes.HasPrefix(key, mockPrefix) {
			continue
		}
		if err := s.set(string(key[len(mockPrefix):]), strings.TrimSpace(string(value))); err != nil {
			return s, fmt.Errorf("%s: %w", key, err)
		}
	}
	return s, nil
}

func (s *steer) set(name, value string) (err error) {
	switch name {
	case "Status":
		s.status, err = number(value, 200, 599)
	case "Latency":
		s.latency, err = duration(value)
	case "Chunks":
		s.chunks, err = number(value, 0, 1_000_000)
	case "Chunk-Delay":
		s.chunkDelay, err = duration(value)
	case "Tokens":
		s.tokens, err = parseTokens(value)
	case "Usage":
		if value != "none" {
			return fmt.Errorf("%q is not known, use none", value)
		}
		s.noUsage = true
	case "Break":
		err = s.parseBreak(value)
	case "Split":
		s.split, err = number(value, 1, 1<<20)
	case "Size":
		s.size, err = number(value, 1, 64<<20)
	case "Encoding":
		switch value {
		case "gzip", "br", "zstd", "deflate":
			s.encoding = value
		default:
			err = fmt.Errorf("%q is not known, use gzip, br, zstd or deflate", value)
		}
	case "Trailer":
		s.trailers, err = appendPairs(s.trailers, value, "=", ",")
	case "Header":
		s.headers, err = appendPairs(s.headers, value, ":", "")
	case "1xx":
		for v := range strings.SplitSeq(value, ",") {
			n, e := number(strings.TrimSpace(v), 100, 199)
			if e != nil || n == 101 {
				return fmt.Errorf("%q is not a list of interim statuses such as 103", value)
			}
			s.interim = append(s.interim, n)
		}
	case "Chunked":
		s.chunked = value != "0"
	case "Quirk":
		for v := range strings.SplitSeq(value, ",") {
			q, ok := quirkNames[strings.TrimSpace(v)]
			if !ok {
				return fmt.Errorf("quirk %q is not known", v)
			}
			s.quirks |= q
		}
	case "Flaky":
		err = s.parseFlaky(value)
	case "Body":
		if s.body, err = base64.StdEncoding.DecodeString(value); err != nil || len(s.body) == 0 {
			err = fmt.Errorf("%q is not the base64 of a body", value)
		}
	case "Record": // read where requests are recorded
	default:
		err = fmt.Errorf("the mock upstream knows no such header")
	}
	return err
}

// parseBreak reads "N", "N;rst" or "start".
func (s *steer) parseBreak(value string) (err error) {
	value, how, found := strings.Cut(value, ";")
	if found && strings.TrimSpace(how) != "rst" {
		return fmt.Errorf("%q is not known, use rst or nothing", how)
	}
	s.breakReset = found
	if value == "start" {
		s.breakAfter = breakStart
		return nil
	}
	s.breakAfter, err = number(strings.TrimSpace(value), 0, 1<<30)
	return err
}

// parseFlaky reads "key,times[,status]".
func (s *steer) parseFlaky(value string) (err error) {
	parts := strings.Split(value, ",")
	if len(parts) < 2 || len(parts) > 3 {
		return fmt.Errorf("%q must have the form key,times[,status]", value)
	}
	s.flakyKey, s.flakyCode = parts[0], 503
	if s.flakyTimes, err = number(parts[1], 0, 1<<20); err != nil {
		return err
	}
	if len(parts) == 3 {
		s.flakyCode, err = number(parts[2], 200, 599)
	}
	return err
}

// parseTokens reads "prompt,completion[,cached[,reasoning]]".
func parseTokens(value string) (u usageFigures, err error) {
	parts := strings.Split(value, ",")
	if len(parts) < 2 || len(parts) > 4 {
		return u, fmt.Errorf("%q must have the form prompt,completion[,cached[,reasoning]]", value)
	}
	into := []*int64{&u.prompt, &u.completion, &u.cached, &u.reasoning}
	for i, p := range parts {
		n, err := strconv.ParseInt(strings.TrimSpace(p), 10, 64)
		if err != nil || n < 0 {
			return u, fmt.Errorf("%q is not a count of tokens", p)
		}
		*into[i] = n
	}
	return u, nil
}

// raw reports whether the answer needs the connection itself: fasthttp would
// merge, complete or refuse what is asked for.
func (s *steer) raw() bool {
	return s.breakAfter != breakNever || s.split > 0 || len(s.interim) > 0 || len(s.trailers) > 0
}

func number(value string, low, high int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%q is not a number from %d to %d", value, low, high)
	}
	return n, nil
}

func duration(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration such as 200ms", value)
	}
	return d, nil
}

// appendPairs reads "name<eq>value", several joined by sep where sep is not
// empty.
func appendPairs(dst []header, value, eq, sep string) ([]header, error) {
	parts := []string{value}
	if sep != "" {
		parts = strings.Split(value, sep)
	}
	for _, p := range parts {
		name, v, ok := strings.Cut(p, eq)
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			return dst, fmt.Errorf("%q must have the form name%svalue", p, eq)
		}
		dst = append(dst, header{name, strings.TrimSpace(v)})
	}
	return dst, nil
}
