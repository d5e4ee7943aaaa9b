package gateway

import "testing"

// tenTimes is a tokenizer of the test.
type tenTimes struct{}

func (tenTimes) Count(model string, text []byte) int64 { return int64(10*len(text) + len(model)) }

// TestCountOfText: text is found wherever a family's events have it, and
// nothing else passes for it.
func TestCountOfText(t *testing.T) {
	t.Parallel()
	g := testGateway(Config{})
	for _, tt := range []struct {
		family family
		data   string
		bytes  int64
	}{
		{familyChat, `{"choices":[{"delta":{"role":"assistant","content":""}}]}`, 0},
		{familyChat, `{"choices":[{"delta":{"content":"four"}}]}`, 4},
		{familyChat, `{"choices":[{"delta":{"content": "four"}},{"delta":{"content":  "more"}}]}`, 8},
		{familyChat, `{"choices":[{"delta":{"content":null,"reasoning_content":"think"}}]}`, 5},
		{familyChat, `{"choices":[{"delta":{"reasoning":"why"}}]}`, 3},
		{familyChat, `{"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{\"a\":1}"}}]}}]}`, 9},
		{familyChat, `{"choices":[{"delta":{"content":"\"content\":\"x\""}}]}`, 17},
		{familyChat, `{"choices":[{"delta":{"content":"\\"}}]}`, 2},
		{familyChat, `{"choices":[{"delta":{"content":"\\\""}}]}`, 4},
		{familyChat, `{"choices":[{"delta":{"content":"cut`, 0},
		{familyChat, `{"choices":[{"delta":{"content":`, 0},
		{familyChat, `{"choices":[{"delta":{"content":"`, 0},
		{familyChat, `{"choices":[],"usage":{"total_tokens":5}}`, 0},
		{familyCompletions, `{"choices":[{"text":"abc"}]}`, 3},
		{familyResponses, `{"type":"response.output_text.delta","delta":"abc"}`, 3},
		{familyResponses, `{"type":"response.output_text.done","text":"abcabc"}`, 0},
		{familyOther, `{"type":"content_block_delta","delta":{"type":"text_delta","text":"abc"}}`, 3},
		{familyOther, `{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"abc"}}`, 3},
	} {
		c := &call{}
		c.g, c.family = g, tt.family
		var run running
		if found := run.count(c, []byte(tt.data)); run.bytes != tt.bytes || found != (tt.bytes > 0) {
			t.Errorf("%s: %d bytes, want %d", tt.data, run.bytes, tt.bytes)
		}
		if want := max(min(tt.bytes, 1), (tt.bytes+3)/4); run.made() != want {
			t.Errorf("%s: %d tokens, want %d", tt.data, run.made(), want)
		}
	}
	c := &call{}
	c.g, c.family, c.pay.model = testGateway(Config{}), familyChat, "m"
	c.g.tokens = tenTimes{}
	var run running
	if run.count(c, []byte(`{"choices":[{"delta":{"content":"ab"}}]}`)); run.made() != 21 {
		t.Errorf("the tokenizer counted %d", run.made())
	}
}

func BenchmarkCountText(b *testing.B) {
	c := &call{}
	c.g, c.family = testGateway(Config{}), familyChat
	data := []byte(`{"id":"chatcmpl-0123456789012345678901234567","object":"chat.completion.chunk","created":1700000000,"model":"demo-chat","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":" understanding"},"logprobs":null,"finish_reason":null}],"usage":null}`)
	var run running
	b.ReportAllocs()
	for b.Loop() {
		run.count(c, data)
	}
}
