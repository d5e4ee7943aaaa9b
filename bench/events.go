package bench

import (
	"io"
	"time"
)

// eventStream makes the server-sent events of one streamed answer, one at a
// time. It serves both ways of sending: as the body reader of a fasthttp
// response, where every Read is one flushed event, and as the source of the
// raw writer.
type eventStream struct {
	req     llmRequest
	steer   steer
	id      uint64
	created int64

	phase    int // of chatRole…, of responseCreated…, or of messageStart…
	piece    int // text pieces made so far
	sequence int
	reported bool // a usage figure was sent
	failed   bool
	stopped  bool // the server is closing

	buf     []byte // the event being read
	rest    []byte
	stop    <-chan struct{}
	done    func(e *eventStream, finished bool)
	closed  bool
	compact compressor
}

// The phases of a chat or completion stream.
const (
	chatRole = iota
	chatText
	chatFinish
	chatUsage
	chatDone
	chatEnd
)

// next appends the next event to dst. It reports false, with dst unchanged,
// after the last one.
func (e *eventStream) next(dst []byte) ([]byte, bool) {
	if e.failed {
		return dst, false
	}
	if e.steer.quirks&quirkErrorMidstream != 0 && e.piece >= (e.steer.chunks+1)/2 && e.piece > 0 {
		e.failed = true
		return e.event(dst, "error", func(b []byte) []byte {
			return append(b, `{"error":{"message":"the mock upstream gave up","type":"server_error","param":null,"code":"mock_error"}}`...)
		}), true
	}
	switch e.req.kind {
	case kindResponse:
		return e.nextResponse(dst)
	case kindMessage:
		return e.nextMessage(dst)
	}
	return e.nextChat(dst)
}

func (e *eventStream) nextResponse(dst []byte) ([]byte, bool) {
	if e.phase == responseDelta && e.piece >= e.steer.chunks {
		e.phase++
	}
	phase := e.phase
	if phase >= responseEnd {
		return dst, false
	}
	if phase != responseDelta {
		e.phase++
	}
	return e.event(dst, responseEvents[phase], func(b []byte) []byte { return e.appendResponseEvent(b, phase) }), true
}

func (e *eventStream) nextChat(dst []byte) ([]byte, bool) {
	q := e.steer.quirks
	for {
		switch e.phase {
		case chatRole:
			e.phase++
			if e.req.kind == kindCompletion {
				continue
			}
			return e.chunk(dst, `"delta":{"role":"assistant","content":"","refusal":null}`, "null"), true
		case chatText:
			if e.piece >= e.steer.chunks {
				e.phase++
				continue
			}
			return e.event(dst, "", func(b []byte) []byte {
				b = e.chunkHead(b)
				if e.req.kind == kindChat {
					b = append(b, `"delta":{"content":"`...)
				} else {
					b = append(b, `"text":"`...)
				}
				b = e.appendPiece(b)
				b = append(b, '"')
				if e.req.kind == kindChat {
					if q&quirkNestedUsage != 0 {
						b = append(b, `,"usage":`+decoy...)
					}
					b = append(b, '}')
				}
				return e.chunkTail(b, "null", false)
			}), true
		case chatFinish:
			e.phase++
			if e.req.kind == kindCompletion {
				return e.chunk(dst, `"text":""`, `"stop"`), true
			}
			return e.chunk(dst, `"delta":{}`, `"stop"`), true
		case chatUsage:
			e.phase++
			if !e.usageChunk() {
				continue
			}
			return e.event(dst, "", func(b []byte) []byte {
				b = e.appendChunkHead(b)
				b = append(b, `,"choices":[]`...)
				b, e.reported = appendTopUsage(b, e.req.kind, &e.steer)
				return append(b, '}')
			}), true
		case chatDone:
			e.phase++
			if q&quirkNoDone != 0 {
				continue
			}
			return e.event(dst, "", func(b []byte) []byte { return append(b, "[DONE]"...) }), true
		default:
			return dst, false
		}
	}
}

// usageChunk says whether a chunk of its own carries the usage.
func (e *eventStream) usageChunk() bool {
	q := e.steer.quirks
	if e.steer.noUsage || q&(quirkNullUsage|quirkUsageInFinish) != 0 {
		return false
	}
	return e.req.includeUsage || q&quirkForceUsage != 0
}

// chunk makes a chunk with one choice whose content is body.
func (e *eventStream) chunk(dst []byte, body, finish string) []byte {
	return e.event(dst, "", func(b []byte) []byte {
		b = e.chunkHead(b)
		b = append(b, body...)
		return e.chunkTail(b, finish, finish != "null")
	})
}

func (e *eventStream) appendChunkHead(b []byte) []byte {
	if e.req.kind == kindCompletion {
		return appendHead(b, "cmpl-", "text_completion", e.req.model, e.id, e.created)
	}
	return appendHead(b, "chatcmpl-", "chat.completion.chunk", e.req.model, e.id, e.created)
}

func (e *eventStream) chunkHead(b []byte) []byte {
	b = e.appendChunkHead(b)
	return append(b, `,"choices":[{"index":0,`...)
}

// chunkTail closes the choice and the chunk and says what it has to of usage:
// with include_usage null on every chunk but the last, as OpenAI does.
func (e *eventStream) chunkTail(b []byte, finish string, last bool) []byte {
	q := e.steer.quirks
	b = append(b, `,"logprobs":null,"finish_reason":`...)
	b = append(b, finish...)
	if q&quirkNestedUsage != 0 {
		b = append(b, `,"usage":`+decoy...)
	}
	b = append(b, `}]`...)
	switch {
	case e.steer.noUsage:
	case q&quirkContinuousUsage != 0:
		u, qu := e.steer.tokens, q
		if !last && e.steer.chunks > 0 {
			u.completion = u.completion * int64(min(e.piece, e.steer.chunks)) / int64(e.steer.chunks)
		} else {
			qu &^= quirkNullTokens
		}
		b = append(b, `,"usage":`...)
		b = appendUsage(b, e.req.kind, u, qu)
		e.reported = true
	case q&quirkUsageInFinish != 0 && last:
		b, e.reported = appendTopUsage(b, e.req.kind, &e.steer)
	case e.req.includeUsage, q&quirkNullUsage != 0, q&quirkForceUsage != 0:
		b = append(b, `,"usage":null`...)
	}
	return append(b, '}')
}

// appendPiece appends the next piece of text and counts it.
func (e *eventStream) appendPiece(b []byte) []byte {
	if e.steer.size > 0 {
		// The size is shared among the chunks, the last taking the remainder.
		n := e.steer.size / e.steer.chunks
		if e.piece == e.steer.chunks-1 {
			n += e.steer.size % e.steer.chunks
		}
		b = appendText(b, 0, n)
		if n == 0 {
			b = append(b, 'x')
		}
	} else {
		b = append(b, words[e.piece%len(words)]...)
	}
	e.piece++
	return b
}

// event frames data as one server-sent event.
func (e *eventStream) event(dst []byte, name string, data func([]byte) []byte) []byte {
	nl := "\n"
	if e.steer.quirks&quirkCRLF != 0 {
		nl = "\r\n"
	}
	if e.steer.quirks&quirkKeepalive != 0 {
		dst = append(dst, ": keep-alive"...)
		dst = append(dst, nl...)
		dst = append(dst, nl...)
	}
	if name != "" {
		dst = append(dst, "event: "...)
		dst = append(dst, name...)
		dst = append(dst, nl...)
	}
	dst = append(dst, "data:"...)
	if e.steer.quirks&quirkNoSpace == 0 {
		dst = append(dst, ' ')
	}
	dst = data(dst)
	dst = append(dst, nl...)
	return append(dst, nl...)
}

// Read implements io.Reader for fasthttp, which flushes after every Read: one
// event each, as long as it fits the buffer.
func (e *eventStream) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		var more bool
		if e.rest, more = e.piecewise(); !more {
			if e.stopped {
				return 0, io.ErrUnexpectedEOF
			}
			if !e.closed {
				e.closed = true
				e.done(e, true)
			}
			return 0, io.EOF
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// piecewise returns the bytes of the next event, compressed if need be, after
// its delay. The slice is good until the next call.
func (e *eventStream) piecewise() ([]byte, bool) {
	var more bool
	e.buf, more = e.next(e.buf[:0])
	if !more {
		if e.compact != nil {
			out := e.compact.finish()
			e.compact = nil
			return out, len(out) > 0
		}
		return nil, false
	}
	if e.steer.chunkDelay > 0 && e.piece > 0 && !wait(e.steer.chunkDelay, e.stop) {
		e.stopped = true
		return nil, false
	}
	if e.compact != nil {
		return e.compact.flushed(e.buf), true
	}
	return e.buf, true
}

// Close implements io.Closer: fasthttp calls it when the answer is over,
// finished or not.
func (e *eventStream) Close() error {
	if !e.closed {
		e.closed = true
		e.done(e, false)
	}
	return nil
}

// wait sleeps for d, or until stop is closed, and reports whether it slept on.
func wait(d time.Duration, stop <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	}
}
