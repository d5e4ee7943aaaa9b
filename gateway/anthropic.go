package gateway

import (
	"bytes"

	"github.com/tidwall/gjson"
)

// Anthropic's clients call /v1/messages with the key in x-api-key and read
// errors in an envelope of their own (gateway-wire section 4.2):
//
//	{"type":"error","error":{"type":"…","message":"…"},"request_id":"32 hex"}

// anthropic reports whether the caller is a client of that kind.
func (c *call) anthropic() bool {
	return c.llm && (bytes.HasPrefix(lenient(c.route.rest), []byte("/messages")) || len(c.ctx.Request.Header.Peek("Anthropic-Version")) > 0)
}

// translateRefusal replaces the body of a refusal by Anthropic's envelope where
// the caller reads that one. Status and headers stay: its SDK heeds
// x-should-retry and Retry-After as OpenAI's does.
func (c *call) translateRefusal(ref refusal) {
	if c.ctx != nil && ref.reason == ReasonMethod && c.family == familyModels {
		c.ctx.Response.Header.Set("Allow", "GET, HEAD")
	}
	if c.ctx == nil || !c.anthropic() {
		return
	}
	w := &table[ref.reason]
	msg := ref.detail
	if msg == "" {
		msg = w.text()
	}
	c.ctx.Response.SetBodyRaw(appendAnthropic(nil, c.g.cfg.ErrorPrefix, ref.reason, msg, c.idText[:]))
	c.ctx.Response.Header.SetBytesV("Request-Id", c.idText[:]) // where its SDK looks for it
}

// text is the message of the row to a client of an LLM product.
func (w *row) text() string {
	if w.llmMsg != "" {
		return w.llmMsg
	}
	return w.msg
}

// appendAnthropic appends the error envelope of a reason.
func appendAnthropic(dst []byte, prefix string, reason Reason, msg string, requestID []byte) []byte {
	dst = append(dst, `{"type":"error","error":{"type":"`...)
	dst = append(dst, anthropicType(reason)...)
	dst = append(dst, `","message":`...)
	dst = gjson.AppendJSONString(dst, msg)
	dst = append(dst, `},"error_code":"`...)
	dst = append(append(dst, prefix...), table[reason].code...)
	dst = append(dst, `","request_id":"`...)
	return append(append(dst, requestID...), `"}`...)
}

// appendAnthropicEvent appends the event that ends a stream with an error.
func appendAnthropicEvent(dst []byte, prefix string, reason Reason, requestID []byte) []byte {
	dst = append(dst, "event: error\ndata: "...)
	dst = appendAnthropic(dst, prefix, reason, table[reason].text(), requestID)
	return append(dst, "\n\n"...)
}

// anthropicType is Anthropic's name for a kind of error.
func anthropicType(reason Reason) string {
	switch reason {
	case ReasonExhausted, ReasonFrozen:
		return "billing_error"
	}
	switch status := table[reason].llmStatus; {
	case status == 401:
		return "authentication_error"
	case status == 403:
		return "permission_error"
	case status == 404:
		return "not_found_error"
	case status == 413:
		return "request_too_large"
	case status == 429:
		return "rate_limit_error"
	case status == 504:
		return "timeout_error"
	case status < 500:
		return "invalid_request_error"
	case status == 503:
		return "overloaded_error"
	}
	return "api_error"
}
