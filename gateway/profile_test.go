package gateway_test

import (
	"strings"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// TestParameterProfile: LLM-12..28. A product that says so has the parameters
// checked as vLLM would, the fault named; another leaves them to its upstream.
func TestParameterProfile(t *testing.T) {
	t.Parallel()
	profile := func(_ *gateway.Config, s *directory.Snapshot) { s.Products[1].Parameters = directory.ParametersVLLM }
	checked, plain := start(t, profile), start(t, nil)
	for _, tt := range []struct {
		rule, with string
		param      string // that is wrong; empty: none is
	}{
		{"LLM-14", `"max_tokens":1`, ""},
		{"LLM-15", `"top_k":-1`, ""},
		{"LLM-15", `"top_k":1`, ""},
		{"LLM-15", `"top_k":0`, "top_k"},
		{"LLM-15", `"top_k":1.5`, "top_k"},
		{"LLM-16", `"top_p":0`, ""},
		{"LLM-16", `"top_p":1`, ""},
		{"LLM-16", `"top_p":1.01`, "top_p"},
		{"LLM-16", `"top_p":"1"`, "top_p"},
		{"LLM-17", `"temperature":2`, ""},
		{"LLM-17", `"temperature":2.1`, "temperature"},
		{"LLM-17", `"temperature":-0.1`, "temperature"},
		{"LLM-18", `"stop":"x"`, ""},
		{"LLM-18", `"stop":["x","y"]`, ""},
		{"LLM-18", `"stop":["x",1]`, "stop"},
		{"LLM-18", `"stop":{}`, "stop"},
		{"LLM-19", `"n":10,"temperature":1`, ""},
		{"LLM-19", `"n":0`, "n"},
		{"LLM-19", `"n":11`, "n"},
		{"LLM-20", `"n":2,"temperature":0`, "n"},
		{"LLM-20", `"n":2,"top_k":1`, "n"},
		{"LLM-21", `"use_beam_search":true,"n":2,"temperature":0`, ""},
		{"LLM-21", `"use_beam_search":true,"n":2,"temperature":0.0,"top_p":1,"top_k":-1`, ""},
		{"LLM-21", `"use_beam_search":true,"temperature":0`, "use_beam_search"},
		{"LLM-21", `"use_beam_search":true,"n":2`, "use_beam_search"},
		{"LLM-21", `"use_beam_search":true,"n":2,"temperature":0,"top_p":0.5`, "use_beam_search"},
		{"LLM-21", `"use_beam_search":true,"n":2,"temperature":0,"top_k":5`, "use_beam_search"},
		{"LLM-21", `"use_beam_search":"yes"`, "use_beam_search"},
		{"LLM-22", `"presence_penalty":-2`, ""},
		{"LLM-22", `"presence_penalty":-2.1`, "presence_penalty"},
		{"LLM-23", `"frequency_penalty":2.1`, "frequency_penalty"},
		{"LLM-24", `"length_penalty":1`, ""},
		{"LLM-24", `"length_penalty":2`, "length_penalty"},
		{"LLM-24", `"length_penalty":2,"use_beam_search":true,"n":2,"temperature":0,"best_of":2`, ""},
		{"LLM-24", `"length_penalty":2,"use_beam_search":true,"n":2,"temperature":0`, "length_penalty"},
		{"LLM-25", `"best_of":2`, ""},
		{"LLM-25", `"best_of":0`, "best_of"},
		{"LLM-25", `"best_of":2,"n":3,"temperature":1`, "best_of"},
		{"LLM-26", `"ignore_eos":false`, ""},
		{"LLM-26", `"ignore_eos":1`, "ignore_eos"},
		{"LLM-3", `"guided_json":{"a":1},"temperature":null,"n":null,"anything":[]`, ""},
	} {
		body := strings.Replace(hello, "{", "{"+tt.with+",", 1)
		r := checked.do("POST", "/v1/chat/completions", body, "Authorization", "Bearer "+tokenKey)
		if tt.param == "" {
			if r.StatusCode != 200 {
				t.Errorf("%s %s: %d %s", tt.rule, tt.with, r.StatusCode, r.body)
			}
		} else if e := r.openAI(t); r.StatusCode != 400 || e.Param == nil || *e.Param != tt.param || !strings.HasPrefix(e.Message, tt.param+" ") {
			t.Errorf("%s %s: %d %s, want 400 with param %s", tt.rule, tt.with, r.StatusCode, r.body, tt.param)
		}
		if r := plain.do("POST", "/v1/chat/completions", body, "Authorization", "Bearer "+tokenKey); r.StatusCode != 200 && !strings.Contains(tt.with, `"n":`) {
			t.Errorf("without the profile %s: %d %s", tt.with, r.StatusCode, r.body)
		}
	}
}
