package accuracy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"tollgate/bench"
)

// relayed is a trial of one thing that goes wrong on a call's way, or of one way
// of asking. No process dies: every 2xx the mock gave must be charged, by its
// own figures.
type relayed struct {
	tokens bool
	// kinds returns the calls of the trial, at random among themselves.
	kinds func(w *world, rnd *rand.Rand) []bench.Scenario
	// shows says why the trial shows nothing, empty when it does.
	shows func(w *world, calls int64) string
}

func (t relayed) run(ctx context.Context, b *bed, r *Result) error {
	w, err := newWorld(ctx, b, plan{units: plenty, tokens: t.tokens})
	if err != nil {
		return err
	}
	defer w.close()
	w.oracle.exact = true
	list := t.kinds(w, b.rand(r.Name))
	for i := range list {
		list[i].Name = fmt.Sprintf("%d %s", i, list[i].Name)
		if t.tokens { // figures that cannot be mistaken for each other's
			list[i].Headers = append(list[i].Headers, fmt.Sprintf("X-Mock-Tokens: %d,%d", 100+i, 1000+7*i))
		}
	}
	r.Rounds = 1
	calls := int64(b.rounds(6000, 800))
	if _, err := w.load(ctx, bench.LoadInput{Scenarios: list, Connections: 24, Requests: calls, Seed: b.seed}); err != nil {
		return err
	}
	if t.shows != nil {
		if why := t.shows(w, calls); why != "" {
			w.fault("the trial shows nothing: %s", why)
		}
	}
	return w.settle(ctx, r)
}

// splitBodies are requests in pieces of every size: a gateway that reads what
// the first segment holds meters nothing, or asks for no usage.
var splitBodies = relayed{tokens: true, kinds: func(w *world, rnd *rand.Rand) (list []bench.Scenario) {
	long := `"messages":[{"role":"user","content":"` + strings.Repeat("counted once, \\\"stream\\\":false ", 800) + `"}]`
	for i := range 24 {
		s := w.chat()
		switch i % 4 {
		case 1:
			s = w.stream()
		case 2:
			s = w.call("long", long)
		case 3: // what decides stands at the end
			s = w.call("long stream", long+`,"stream":true,"stream_options":{"include_usage":false}`)
			s.Stream = true
		}
		most := max(len(s.Body)/4, 2)
		if i%3 != 0 {
			s.Pieces = max(1+rnd.IntN(most), len(s.Body)/400)
		}
		if i%3 != 1 {
			s.ChunkBytes = max(1+rnd.IntN(most), len(s.Body)/400)
		}
		list = append(list, s)
	}
	return list
}}

// unasked are streams whose client asked for no usage, in every way there is:
// they are charged by the figures nobody asked for.
var unasked = relayed{tokens: true, kinds: func(w *world, _ *rand.Rand) (list []bench.Scenario) {
	for _, options := range []string{
		``, `,"stream_options":null`, `,"stream_options":{}`, `,"stream_options":{"include_usage":false}`, `,"stream_options":{"include_usage":null}`,
		`,"stream_options":{"include_usage":false,"x":1}`, `,"stream_options" : { "include_usage" : false }`, `,"stream_options":{"include_usage":true}`,
	} {
		for _, quirk := range []string{"", "continuous_usage", "force_usage", "usage_in_finish", "nested_usage,crlf"} {
			s := w.call("stream", question+`,"stream":true`+options)
			s.Stream = true
			if quirk != "" {
				s.Headers = append(s.Headers, "X-Mock-Quirk: "+quirk)
			}
			list = append(list, s)
		}
	}
	return list
}}

// leaves are streams whose clients leave after a random number of events; the
// gateway reads on and charges the upstream's figures.
var leaves = relayed{
	tokens: true,
	kinds: func(w *world, rnd *rand.Rand) (list []bench.Scenario) {
		for i := range 24 {
			s := w.stream("X-Mock-Chunks: 30", fmt.Sprintf("X-Mock-Chunk-Delay: %dus", 300+rnd.IntN(1500)))
			if i%4 != 0 {
				s.LeaveAfter = 1 + rnd.IntN(28)
			}
			if i%5 == 0 {
				s.Headers = append(s.Headers, fmt.Sprintf("X-Mock-Split: %d", 1+rnd.IntN(60)))
			}
			list = append(list, s)
		}
		return list
	},
	shows: func(w *world, calls int64) string {
		if t := w.oracle.totals(); t.broken < calls/3 {
			return fmt.Sprintf("%d of %d clients left", t.broken, calls)
		}
		return ""
	},
}

// cuts are answers that the upstream breaks off after a random part, by FIN and
// by RST. A call that got its 2xx is charged, once.
var cuts = relayed{
	kinds: func(w *world, rnd *rand.Rand) (list []bench.Scenario) {
		how := func() string { return []string{"", ";rst"}[rnd.IntN(2)] }
		for i := range 24 {
			switch i % 4 {
			case 0:
				list = append(list, w.chat(fmt.Sprintf("X-Mock-Break: %d%s", rnd.IntN(700), how())))
			case 1, 2:
				list = append(list, w.stream("X-Mock-Chunks: 20", fmt.Sprintf("X-Mock-Break: %d%s", rnd.IntN(24), how())))
			default:
				list = append(list, w.stream(), w.chat("X-Mock-Break: start"+how()))
			}
		}
		return list
	},
	shows: func(w *world, calls int64) string {
		if n := w.mock.Stats().Broken; n < calls/3 {
			return fmt.Sprintf("%d of %d answers were cut", n, calls)
		}
		return ""
	},
}
