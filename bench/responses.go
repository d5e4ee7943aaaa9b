package bench

import "strconv"

// appendResponse appends a response object of the Responses API. done says
// whether its output is there yet.
func appendResponse(dst []byte, r *llmRequest, s *steer, id uint64, created int64, status string, done bool) (_ []byte, reported bool) {
	dst = append(dst, `{"id":"resp_`...)
	dst = appendID(dst, id)
	dst = append(dst, `","object":"response","created_at":`...)
	dst = strconv.AppendInt(dst, created, 10)
	dst = append(dst, `,"status":"`...)
	dst = append(dst, status...)
	dst = append(dst, `","error":null,"incomplete_details":null,"model":`...)
	dst = appendQuoted(dst, r.model)
	dst = append(dst, `,"output":[`...)
	if done {
		dst = appendMessageItem(dst, s, id, "completed", true)
	}
	dst = append(dst, `],"parallel_tool_calls":true,"metadata":{}`...)
	if done {
		if s.quirks&quirkNestedUsage != 0 {
			dst = append(dst, `,"reasoning":{"usage":`+decoy+`}`...)
		}
		dst, reported = appendResponseUsage(dst, s)
	} else {
		dst = append(dst, `,"usage":null`...)
	}
	return append(dst, '}'), reported
}

// appendResponseUsage is appendTopUsage without a decoy named "metadata", which
// a response object has already.
func appendResponseUsage(dst []byte, s *steer) (_ []byte, reported bool) {
	switch {
	case s.noUsage:
		return dst, false
	case s.quirks&quirkNullUsage != 0:
		return append(dst, `,"usage":null`...), false
	}
	dst = append(dst, `,"usage":`...)
	dst = appendUsage(dst, kindResponse, s.tokens, 0)
	if s.quirks&quirkNestedUsage != 0 {
		dst = append(dst, `,"text":{"usage":`+decoy+`}`...)
	}
	return dst, true
}

func appendMessageItem(dst []byte, s *steer, id uint64, status string, full bool) []byte {
	dst = append(dst, `{"id":"msg_`...)
	dst = appendID(dst, id)
	dst = append(dst, `","type":"message","status":"`...)
	dst = append(dst, status...)
	dst = append(dst, `","role":"assistant","content":[`...)
	if full {
		dst = appendTextPart(dst, s, true)
	}
	return append(dst, `]}`...)
}

func appendTextPart(dst []byte, s *steer, full bool) []byte {
	dst = append(dst, `{"type":"output_text","annotations":[],"text":"`...)
	if full {
		dst = appendText(dst, s.tokens.completion, s.size)
	}
	return append(dst, `"}`...)
}

// The events of a streamed response, in order; the text deltas stand between
// responsePartAdded and responseTextDone.
const (
	responseCreated = iota
	responseInProgress
	responseItemAdded
	responsePartAdded
	responseDelta
	responseTextDone
	responsePartDone
	responseItemDone
	responseCompleted
	responseEnd
)

var responseEvents = [...]string{
	"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
	"response.output_text.delta", "response.output_text.done", "response.content_part.done",
	"response.output_item.done", "response.completed",
}

// appendResponseEvent appends the data of the event e of a streamed response.
func (e *eventStream) appendResponseEvent(dst []byte, phase int) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, responseEvents[phase]...)
	dst = append(dst, `","sequence_number":`...)
	dst = strconv.AppendInt(dst, int64(e.sequence), 10)
	e.sequence++
	item := func() {
		dst = append(dst, `,"item_id":"msg_`...)
		dst = appendID(dst, e.id)
		dst = append(dst, `","output_index":0,"content_index":0`...)
	}
	switch phase {
	case responseCreated, responseInProgress:
		dst = append(dst, `,"response":`...)
		dst, _ = appendResponse(dst, &e.req, &e.steer, e.id, e.created, "in_progress", false)
	case responseItemAdded:
		dst = append(dst, `,"output_index":0,"item":`...)
		dst = appendMessageItem(dst, &e.steer, e.id, "in_progress", false)
	case responsePartAdded, responsePartDone:
		item()
		dst = append(dst, `,"part":`...)
		dst = appendTextPart(dst, &e.steer, phase == responsePartDone)
	case responseDelta:
		item()
		dst = append(dst, `,"delta":"`...)
		dst = e.appendPiece(dst)
		dst = append(dst, `","logprobs":[]`...)
	case responseTextDone:
		item()
		dst = append(dst, `,"text":"`...)
		dst = appendText(dst, e.steer.tokens.completion, e.steer.size)
		dst = append(dst, '"')
	case responseItemDone:
		dst = append(dst, `,"output_index":0,"item":`...)
		dst = appendMessageItem(dst, &e.steer, e.id, "completed", true)
	case responseCompleted:
		dst = append(dst, `,"response":`...)
		dst, e.reported = appendResponse(dst, &e.req, &e.steer, e.id, e.created, "completed", true)
	}
	return append(dst, '}')
}
