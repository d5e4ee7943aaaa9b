package accuracy

import (
	"context"
	"fmt"

	"tollgate/bench"
)

// mix calls with everything that makes other gateways misread an answer. No
// process dies: every 2xx the mock gave must be charged, by its own figures.
type mix struct{ tokens bool }

func (m mix) run(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: plenty, tokens: m.tokens})
	if err != nil {
		return err
	}
	defer w.close()
	w.oracle.exact = true
	var list []bench.Scenario
	add := func(name string, weight int, s bench.Scenario) {
		s.Name, s.Weight = name, weight
		if m.tokens { // figures that cannot be mistaken for each other's
			s.Headers = append(s.Headers, fmt.Sprintf("X-Mock-Tokens: %d,%d", 100+len(list), 1000+7*len(list)))
		}
		list = append(list, s)
	}
	unasked := w.call("", question+`,"stream":true,"stream_options":{"include_usage":false}`)
	unasked.Stream = true
	leave := func(headers ...string) bench.Scenario {
		s := w.stream(append(headers, "X-Mock-Chunks: 30", "X-Mock-Chunk-Delay: 2ms")...)
		s.LeaveAfter = 4
		return s
	}
	add("split", 4, w.chat("X-Mock-Split: 7"))
	add("split small", 2, w.chat("X-Mock-Split: 1", "X-Mock-Chunked: 1"))
	add("gzip", 2, w.chat("X-Mock-Encoding: gzip"))
	add("nested usage", 2, w.chat("X-Mock-Quirk: nested_usage"))
	add("long", 1, w.chat("X-Mock-Size: 300000"))
	add("usage not asked for", 4, unasked)
	add("stream", 2, w.stream())
	add("stream split", 3, w.stream("X-Mock-Split: 5"))
	add("usage on every chunk", 2, w.stream("X-Mock-Quirk: continuous_usage"))
	add("usage in the finish chunk", 2, w.stream("X-Mock-Quirk: usage_in_finish"))
	add("crlf", 1, w.stream("X-Mock-Quirk: crlf,nospace,keepalive"))
	add("client leaves", 4, leave())
	add("client leaves a split stream", 2, leave("X-Mock-Split: 11"))
	add("upstream cut", 3, w.stream("X-Mock-Break: 10", "X-Mock-Chunks: 30"))
	add("upstream reset", 2, w.stream("X-Mock-Break: 5;rst"))
	add("upstream cuts a plain answer", 2, w.chat("X-Mock-Break: 40"))
	add("no answer", 2, w.chat("X-Mock-Break: start"))
	add("no usage", 2, w.chat("X-Mock-Usage: none"))
	add("no usage in a stream", 2, w.stream("X-Mock-Usage: none"))
	add("500", 2, w.chat("X-Mock-Status: 500"))
	add("429", 1, w.stream("X-Mock-Status: 429"))
	r.Rounds = 1
	if _, err := w.load(ctx, bench.LoadInput{Scenarios: list, Connections: 24, Requests: int64(b.rounds(8000, 1200)), Seed: b.seed}); err != nil {
		return err
	}
	return w.settle(ctx, r)
}
