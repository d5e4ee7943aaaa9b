package gateway

import (
	"testing"

	"tollgate/internal/usage"
)

// TestFindUsage: gateway-wire 5.2, peers 2.10 point 6.
func TestFindUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text                      string
		found                           bool
		in, out, total, cached, thought int64
	}{
		{"chat", `{"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,"prompt_tokens_details":{"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":6}}}`, true, 12, 34, 46, 5, 6},
		{"responses", `{"usage":{"input_tokens":12,"input_tokens_details":{"cached_tokens":5},"output_tokens":34,"output_tokens_details":{"reasoning_tokens":6},"total_tokens":46}}`, true, 12, 34, 46, 5, 6},
		{"responses event", `{"type":"response.completed","response":{"usage":{"input_tokens":12,"output_tokens":34,"total_tokens":46}}}`, true, 12, 34, 46, 0, 0},
		{"message_start", `{"type":"message_start","message":{"usage":{"input_tokens":12,"output_tokens":1}}}`, true, 12, 1, 13, 0, 0},
		{"anthropic's cache", `{"usage":{"input_tokens":12,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"output_tokens":1}}`, true, 19, 1, 20, 4, 0},
		{"embeddings", `{"usage":{"prompt_tokens":12,"total_tokens":12}}`, true, 12, 0, 12, 0, 0},
		{"no total", `{"usage":{"prompt_tokens":12,"completion_tokens":34}}`, true, 12, 34, 46, 0, 0},
		{"zero", `{"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}`, true, 0, 0, 0, 0, 0},
		{"null amounts", `{"usage":{"prompt_tokens":12,"completion_tokens":null}}`, true, 12, 0, 12, 0, 0},
		{"nothing known", `{"usage":{"credits":3}}`, false, 0, 0, 0, 0, 0},
		{"all null", `{"usage":{"prompt_tokens":null}}`, false, 0, 0, 0, 0, 0},
		{"null", `{"usage":null}`, false, 0, 0, 0, 0, 0},
		{"array", `{"usage":[{"total_tokens":3}]}`, false, 0, 0, 0, 0, 0},
		{"text", `{"usage":"{\"total_tokens\":3}"}`, false, 0, 0, 0, 0, 0},
		{"negative", `{"usage":{"prompt_tokens":-5,"completion_tokens":3}}`, true, 0, 3, 3, 0, 0},
		{"fraction", `{"usage":{"prompt_tokens":1.5,"completion_tokens":3}}`, true, 0, 3, 3, 0, 0},
		{"absurd", `{"usage":{"total_tokens":1e300}}`, false, 0, 0, 0, 0, 0},
		{"amounts as text", `{"usage":{"total_tokens":"46"}}`, false, 0, 0, 0, 0, 0},
		{"echo in a choice", `{"choices":[{"usage":{"total_tokens":9}}]}`, false, 0, 0, 0, 0, 0},
		{"echo before the real one", `{"choices":[{"usage":{"total_tokens":9}}],"usage":{"total_tokens":46}}`, true, 0, 0, 46, 0, 0},
		{"echo in response.output", `{"response":{"output":{"usage":{"total_tokens":9}}}}`, false, 0, 0, 0, 0, 0},
		{"key with dots", `{"response.usage":{"total_tokens":9}}`, false, 0, 0, 0, 0, 0},
		{"not JSON", `{"usage":{`, false, 0, 0, 0, 0, 0},
		{"empty", ``, false, 0, 0, 0, 0, 0},
	} {
		r, ok := findUsage([]byte(tt.text))
		var rec usage.Record
		if ok {
			r.fill(&rec)
		}
		want := usage.Record{Cached: tt.cached, Reasoning: tt.thought}
		want.Units[usage.InputToken], want.Units[usage.OutputToken], want.Units[usage.Token] = tt.in, tt.out, tt.total
		if ok != tt.found || rec.Units != want.Units || rec.Cached != want.Cached || rec.Reasoning != want.Reasoning {
			t.Errorf("%s: %v %+v", tt.name, ok, rec)
		}
	}
}

// TestMerge: cumulative reports are high-water marks, each amount by itself.
func TestMerge(t *testing.T) {
	t.Parallel()
	var r report
	for _, text := range []string{
		`{"usage":{"prompt_tokens":12,"completion_tokens":0,"total_tokens":12}}`, `{"usage":{"completion_tokens":20}}`,
		`{"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46}}`, `{"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}`,
	} {
		rep, ok := findUsage([]byte(text))
		if !ok {
			t.Fatal(text)
		}
		r.merge(rep)
	}
	if r.input != 12 || r.output != 34 || r.total != 46 {
		t.Errorf("%+v", r)
	}
}

// TestGenerated: what counts as generated text, thinking apart; nothing that an
// event only repeats.
func TestGenerated(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"choices":[{"delta":{"content":"天气 ok"}},{"delta":{"reasoning_content":"abc"}}]}`:                                                "天气 ok|(abc)|",
		`{"choices":[{"message":{"content":"abcd","reasoning":"ef","refusal":"no"}},{"text":"x"}]}`:                                        "abcd|(ef)|no|x|",
		`{"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}`:                                              "f|{}|",
		`{"type":"response.output_text.delta","delta":"abc"}`:                                                                              "abc|",
		`{"type":"response.reasoning_text.delta","delta":"abc"}`:                                                                           "(abc)|",
		`{"type":"response.function_call_arguments.delta","delta":"{"}`:                                                                    "{|",
		`{"type":"response.output_text.done","text":"abc"}`:                                                                                "",
		`{"type":"response.created","delta":"abc"}`:                                                                                        "",
		`{"object":"response","output":[{"type":"reasoning","summary":[{"text":"why"}]},{"type":"message","content":[{"text":"abc"}]}]}`:   "(why)|abc|",
		`{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}`:                                                          "a|",
		`{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"b"}}`:                                                  "(b)|",
		`{"type":"message","content":[{"type":"thinking","thinking":"b"},{"type":"text","text":"a"},{"type":"tool_use","input":{"x":1}}]}`: "(b)|a|{\"x\":1}|",
		`{"choices":[{"delta":{"content":null,"role":"assistant"}}],"model":"abc"}`:                                                        "",
		`nothing`: "",
	} {
		got := ""
		generated([]byte(text), func(s string, reasoning bool) {
			if reasoning {
				s = "(" + s + ")"
			}
			got += s + "|"
		})
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestPromptTexts: what of a request is text of the prompt.
func TestPromptTexts(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"messages":[{"role":"user","content":"a"},{"role":"user","content":[{"type":"text","text":"b"},{"type":"image_url","image_url":{"url":"x"}}]}],"model":"m"}`: "user|a|user|b|",
		`{"input":"a","instructions":"b"}`:                                         "a|b|",
		`{"input":["a","b",[1,2]]}`:                                                "a|b|",
		`{"input":[{"role":"user","content":[{"type":"input_text","text":"a"}]}]}`: "user|a|",
		`{"prompt":"a","query":"q","documents":["d",{"text":"e"}]}`:                "a|q|d|e|",
		`{"system":[{"type":"text","text":"s"}],"tools":[1]}`:                      "s|[1]|",
	} {
		got := ""
		promptTexts([]byte(body), func(s string) { got += s + "|" })
		if got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}
