package bench

import "strconv"

// appendMessageUsage appends a usage object of Anthropic's form.
func appendMessageUsage(dst []byte, input, output int64, u usageFigures) []byte {
	dst = append(dst, `{"input_tokens":`...)
	dst = strconv.AppendInt(dst, input-u.cached, 10)
	dst = append(dst, `,"cache_creation_input_tokens":0,"cache_read_input_tokens":`...)
	dst = strconv.AppendInt(dst, u.cached, 10)
	dst = append(dst, `,"output_tokens":`...)
	dst = strconv.AppendInt(dst, output, 10)
	return append(dst, '}')
}

// appendMessage appends a message of Anthropic's API: whole, or as a stream
// begins it.
func appendMessage(dst []byte, r *llmRequest, s *steer, id uint64, whole bool) (_ []byte, reported bool) {
	dst = append(dst, `{"id":"msg_`...)
	dst = appendID(dst, id)
	dst = append(dst, `","type":"message","role":"assistant","model":`...)
	dst = appendQuoted(dst, r.model)
	dst = append(dst, `,"content":[`...)
	output := int64(1)
	if whole {
		dst = append(dst, `{"type":"text","text":"`...)
		dst = appendText(dst, s.tokens.completion, s.size)
		dst = append(dst, `"}],"stop_reason":"end_turn"`...)
		output = s.tokens.completion
	} else {
		dst = append(dst, `],"stop_reason":null`...)
	}
	dst = append(dst, `,"stop_sequence":null,"usage":`...)
	if s.noUsage {
		return append(dst, "null}"...), false
	}
	dst = appendMessageUsage(dst, s.tokens.prompt, output, s.tokens)
	return append(dst, '}'), true
}

// The events of a streamed message, in order; the text deltas stand between
// messagePing and messageBlockStop.
const (
	messageStart = iota
	messageBlockStart
	messagePing
	messageText
	messageBlockStop
	messageDelta
	messageStop
	messageEnd
)

var messageEvents = [...]string{
	"message_start", "content_block_start", "ping", "content_block_delta",
	"content_block_stop", "message_delta", "message_stop",
}

// nextMessage appends the next event of a streamed message.
func (e *eventStream) nextMessage(dst []byte) ([]byte, bool) {
	if e.phase == messageText && e.piece >= e.steer.chunks {
		e.phase++
	}
	phase := e.phase
	if phase >= messageEnd {
		return dst, false
	}
	if phase != messageText {
		e.phase++
	}
	return e.event(dst, messageEvents[phase], func(b []byte) []byte { return e.appendMessageEvent(b, phase) }), true
}

func (e *eventStream) appendMessageEvent(dst []byte, phase int) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, messageEvents[phase]...)
	dst = append(dst, '"')
	switch phase {
	case messageStart:
		dst = append(dst, `,"message":`...)
		dst, _ = appendMessage(dst, &e.req, &e.steer, e.id, false)
	case messageBlockStart:
		dst = append(dst, `,"index":0,"content_block":{"type":"text","text":""}`...)
	case messageText:
		dst = append(dst, `,"index":0,"delta":{"type":"text_delta","text":"`...)
		dst = e.appendPiece(dst)
		dst = append(dst, `"}`...)
	case messageBlockStop:
		dst = append(dst, `,"index":0`...)
	case messageDelta:
		dst = append(dst, `,"delta":{"stop_reason":"end_turn","stop_sequence":null}`...)
		if !e.steer.noUsage {
			dst = append(dst, `,"usage":{"output_tokens":`...)
			dst = strconv.AppendInt(dst, e.steer.tokens.completion, 10)
			dst = append(dst, '}')
			e.reported = true
		}
	}
	return append(dst, '}')
}
