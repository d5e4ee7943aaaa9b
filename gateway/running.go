package gateway

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"tollgate/internal/usage"
)

// running follows a counted answer while it is relayed: what was made so far,
// what is held for it, and what a provisional record has told of it.
type running struct {
	records bool // provisional records are due
	grows   bool // the call is charged by tokens: they are counted, and the hold grows with them

	prompt int64  // estimate of the prompt's tokens
	chunks int64  // events with generated text
	bytes  int64  // of generated text
	tokens int64  // counted by Deps.Tokens
	sample []byte // beginning of the text, escapes as they stand, until the upstream has told its usage

	asked bool        // held is known
	held  usage.Units // units the hold has
	near  int64       // output tokens at which more is to be held
	grace int64       // output tokens at which a stream ends although nobody can tell whether the package is used up
	ended Reason      // why the gateway ends the stream
	seq   int64       // number of the responses API's event that comes next

	kept   int64     // output tokens in the last provisional record
	keptAt time.Time // when it was written; zero before the first
}

// errDry says that the gateway has to end a stream: there is nothing left to
// hold for it. running.ended says why.
var errDry = errors.New("gateway: the package is used up")

// follow begins to follow an answer whose relay is about to begin.
func (c *call) follow() {
	run := &c.stream.run
	run.records, _ = judge(c.sub.Mode, c.ex.Response.StatusCode(), c.g.now(), c.g.cfg.PerCallSwitch)
	if run.records && c.stream.parse && c.makes && slices.ContainsFunc(c.sub.Units, tokenUnit) {
		run.grows = true
		run.prompt = int64(len(c.body)+3) / 4
	}
}

// tokenUnit reports whether u is counted while a stream runs; images, seconds and
// characters are known at its end.
func tokenUnit(u usage.Unit) bool {
	return u == usage.Token || u == usage.InputToken || u == usage.OutputToken
}

// texts says where the generated text of a family's events stands: behind one
// of the keys, tried in turn, somewhere behind from. The keys lack their first
// quote, by which a search would stop at every other byte.
type texts struct {
	from []byte
	keys [][]byte
}

var (
	chatText      = texts{[]byte(`delta":`), [][]byte{[]byte(`content":`), []byte(`reasoning":`), []byte(`arguments":`), []byte(`refusal":`)}} // reasoning_content too
	completeText  = texts{[]byte(`choices":`), [][]byte{[]byte(`text":`)}}
	responsesText = texts{nil, [][]byte{[]byte(`delta":`)}}
	otherText     = texts{nil, [][]byte{[]byte(`text":`), []byte(`thinking":`), []byte(`partial_json":`), []byte(`content":`), []byte(`delta":`)}}
)

// count counts the text of one event and reports whether there was any. It
// looks for keys and does not parse: within a text their quotes are escaped, so
// no content passes for one.
func (run *running) count(c *call, data []byte) bool {
	where := &otherText
	switch c.family {
	case familyChat:
		where = &chatText
	case familyCompletions:
		where = &completeText
	case familyResponses:
		where = &responsesText
	}
	i := bytes.Index(data, where.from)
	if i < 0 {
		return false
	}
	data = data[i:]
	for _, key := range where.keys {
		found := false
		for rest := data; ; {
			i := bytes.Index(rest, key)
			if i < 0 {
				break
			}
			text, behind := jsonText(rest[i+len(key):])
			rest = behind
			if len(text) == 0 {
				continue
			}
			found = true
			run.bytes += int64(len(text))
			if !c.usage.found && len(run.sample)+len(text) <= sampleSize {
				run.sample = append(run.sample, text...)
			}
			if c.g.tokens != nil {
				run.tokens += c.g.tokens.Count(c.pay.model, text)
			}
		}
		if found {
			run.chunks++
			return true
		}
	}
	return false
}

// jsonText returns the inside of the JSON string b begins with, escapes as they
// stand, and what is behind it; nothing when another value stands there.
func jsonText(b []byte) (text, behind []byte) {
	i := 0
	for i < len(b) && b[i] == ' ' {
		i++
	}
	if i == len(b) || b[i] != '"' {
		return nil, b
	}
	b = b[i+1:]
	for end := 0; ; end++ {
		n := bytes.IndexByte(b[end:], '"')
		if n < 0 {
			return nil, nil
		}
		end += n
		slashes := 0
		for slashes < end && b[end-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return b[:end], b[end+1:]
		}
	}
}

// made returns the output tokens of the answer so far. Without a tokenizer each
// event with text is one, which is how upstreams stream; where they put more
// into an event, four bytes are one.
func (run *running) made() int64 {
	if run.tokens > 0 {
		return run.tokens
	}
	return max(run.chunks, (run.bytes+3)/4)
}

// usedSoFar returns the units of a stream so far: by the upstream's own figure where
// it reports on the way, by the gateway's count otherwise, whichever is more.
func (c *call) usedSoFar() (u usage.Units) {
	run := &c.stream.run
	in, out := run.prompt, run.made()
	if c.usage.found {
		out = max(out, c.usage.output)
		if n := max(c.usage.input, 0) + c.usage.cacheWrite + c.usage.cacheRead; n > 0 {
			in = n
		}
	}
	u[usage.InputToken], u[usage.OutputToken], u[usage.Token] = in, out, in+out
	return u
}

// grow holds more for a stream whose use comes near what is held, a slice at a
// time. It reports whether the stream must end with the event data: the lots
// have nothing more.
func (r *relay) grow(data []byte) (dry bool) {
	c, run := r.c, &r.run
	if c.resolved || run.made() < run.near {
		return false
	}
	slice := c.g.cfg.HoldSlice
	if !run.asked {
		held, err := c.extend(usage.Units{})
		if err != nil {
			run.near = math.MaxInt64
			return false
		}
		run.asked, run.held = true, held
		if run.near = run.room(c, slice/4); run.made() < run.near {
			return false
		}
	}
	used := c.usedSoFar()
	var more usage.Units
	for _, u := range c.sub.Units {
		if tokenUnit(u) && used[u]+slice/4 >= run.held[u] {
			more[u] = max(used[u]-run.held[u], 0) + slice
		}
	}
	held, err := c.extend(more)
	if err == nil {
		run.held, run.grace = held, 0
		// Where there was less than a slice left, all of it is used first.
		if run.near = run.room(c, slice/4); run.made() >= run.near {
			run.near = run.room(c, 0)
		}
		if run.made() < run.near {
			return false
		}
		err = ErrExhausted
	}
	room := run.room(c, 0)
	run.ended = ReasonExhausted
	switch {
	case errors.Is(err, ErrExhausted), errors.Is(err, ErrHeld):
	case errors.Is(err, ErrUnavailable):
		// It is not known to be used up. One slice is given in good faith.
		run.ended = ReasonQuotaUnavailable
		if run.grace == 0 {
			run.grace = room + slice
		}
		room = run.grace
	default:
		run.near = math.MaxInt64 // the hold is resolved
		return false
	}
	if run.made() < room {
		run.near = room
		return false
	}
	if c.family == familyResponses {
		run.seq = gjson.GetBytes(data, "sequence_number").Int() + 1
	}
	return true
}

// room returns the output tokens at which what is held is used but for margin.
func (run *running) room(c *call, margin int64) int64 {
	used, made := c.usedSoFar(), run.made()
	room := int64(math.MaxInt64)
	for _, u := range c.sub.Units {
		if tokenUnit(u) && (u != usage.InputToken || used[u] > run.held[u]) {
			room = min(room, made+run.held[u]-used[u]-margin)
		}
	}
	return room
}

// extend asks the hold for more. A panic in there is an error like others.
func (c *call) extend(more usage.Units) (held usage.Units, err error) {
	defer func() {
		if c.caught("extend a hold", recover()) {
			err = errSettlePanic
		}
	}()
	return c.hold.Extend(more)
}

// cutShort ends a stream whose package is used up: the call is charged with
// what was counted, the client gets an error that every SDK raises, and the
// stream's proper end. Closing the relay closes the upstream's connection.
func (r *relay) cutShort() ([]byte, error) {
	c := r.c
	c.incomplete, c.dry = true, true
	c.rec.Reason = r.run.ended.String()
	r.pending = len(r.out)
	if err := c.settle(); err != nil {
		r.failEvent(ReasonJournal)
		r.err = err
		return r.out, err
	}
	c.g.metrics.rejected[r.run.ended].Inc()
	r.failEvent(r.run.ended)
	if !r.named && c.family != familyMessages {
		r.out = append(r.out, "data: [DONE]\n\n"...)
	}
	r.err = io.EOF
	return r.out, io.EOF
}

// checkpoint writes a provisional record when one is due: before the first
// bytes of an answer are delivered, so that a client never has a part of a
// counted answer that a crash makes free, and then as its use grows. n bytes
// are about to be delivered.
func (r *relay) checkpoint(n int) {
	c, run := r.c, &r.run
	if !run.records || c.resolved {
		return
	}
	made := run.made()
	if !run.keptAt.IsZero() && made == run.kept {
		return // so it is with a call charged by itself: what it is charged is told
	}
	now := c.g.now()
	if !run.keptAt.IsZero() && made-run.kept < c.g.cfg.CheckpointUnits && now.Sub(run.keptAt) < c.g.cfg.CheckpointEvery {
		return
	}
	run.kept, run.keptAt = made, now
	r.pending = n
	status := c.ex.Response.StatusCode()
	c.fillRecord(status, now)
	_, c.rec.Rule = judge(c.sub.Mode, status, now, c.g.cfg.PerCallSwitch)
	c.rec.Flags |= usage.Counted | usage.Incomplete
	c.rec.Basis = usage.BasisUpstream
	if run.grows {
		c.rec.Units = c.usedSoFar()
		c.rec.Basis = usage.BasisCounted
	}
	c.rec.Units[usage.Call] = 1
	if err := c.keepPart(); err != nil {
		// The final record decides; without provisional ones a crash would cost
		// what was delivered, no more.
		run.records = false
		c.g.metrics.failures.Inc()
		c.g.log.Error("record a call under way", "request_id", c.idString(), "subscription", c.sub.ID, "error", err)
	}
	c.rec = usage.Record{Charges: c.rec.Charges[:0]}
	r.pending = 0
}

// keepPart keeps the provisional record. A panic in there is an error like
// others.
func (c *call) keepPart() (err error) {
	defer func() {
		if c.caught("record a call under way", recover()) {
			err = errSettlePanic
		}
	}()
	return c.hold.Checkpoint(&c.rec)
}
