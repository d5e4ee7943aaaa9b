package compare

import (
	"fmt"
	"strings"
	"time"
)

// shape is what a call looks like: the same for every target.
type shape struct {
	Answer int           `json:"answer"` // bytes of an answer that is not streamed
	Chunks int           `json:"chunks"` // events with text in a stream; endEvents follow
	Delay  time.Duration `json:"delay"`  // between two events of a stream
}

// endEvents is how many events end a stream: finish, usage, [DONE].
const endEvents = 3

// flushes is how many pieces a stream comes in: the ending is written at once.
func (s shape) flushes() int { return s.Chunks + 1 }

const usageFigures = `{"prompt_tokens":21,"completion_tokens":50,"total_tokens":71}`

// answer is the body of an answer that is not streamed.
func (s shape) answer() string {
	const form = `{"id":"chatcmpl-1","object":"chat.completion","created":1763700000,"model":"demo-chat","choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":` + usageFigures + `}`
	fill := max(0, s.Answer-len(form)+2)
	return fmt.Sprintf(form, strings.Repeat("Each call is counted once. ", fill/27+1)[:fill])
}

// event is one event of a stream.
func (s shape) event() string {
	return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1763700000,"model":"demo-chat","choices":[{"index":0,"delta":{"content":"counted "},"finish_reason":null}],"usage":null}` + "\n\n"
}

// ending are the events that end a stream.
func (s shape) ending() [endEvents]string {
	return [endEvents]string{
		`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1763700000,"model":"demo-chat","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}` + "\n\n",
		`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1763700000,"model":"demo-chat","choices":[],"usage":` + usageFigures + "}\n\n",
		"data: [DONE]\n\n",
	}
}

// streamed is the whole body of a stream.
func (s shape) streamed() string {
	end := s.ending()
	return strings.Repeat(s.event(), s.Chunks) + strings.Join(end[:], "")
}

// question is the body of a call.
func question(model string, stream bool) string {
	const ask = `"messages":[{"role":"system","content":"You answer in one sentence."},{"role":"user","content":"What is counted once, and what is never sold twice? Say it in your own words, please."}],"temperature":0.7,"max_tokens":256`
	if stream {
		return fmt.Sprintf(`{"model":%q,%s,"stream":true,"stream_options":{"include_usage":true}}`, model, ask)
	}
	return fmt.Sprintf(`{"model":%q,%s}`, model, ask)
}

// clientHeaders are what an OpenAI SDK sends besides.
var clientHeaders = []string{
	"User-Agent: OpenAI/JS 6.49.0", "Accept: application/json", "X-Stainless-Lang: js",
	"X-Stainless-Package-Version: 6.49.0", "X-Stainless-Os: Linux", "X-Stainless-Retry-Count: 0",
}
