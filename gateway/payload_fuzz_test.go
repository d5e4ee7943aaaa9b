package gateway

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzParsePayload holds the parser against encoding/json: the two accept the
// same texts, see the same model and the same stream, and what is rewritten is
// what Go's reader, which folds case, understands as asked.
func FuzzParsePayload(f *testing.F) {
	for _, s := range []string{
		`{"model":"a","stream":true,"stream_options":{"include_usage":false},"messages":[{}]}`,
		`{"model":"a","messages":[1],"n":2,"max_tokens":3}`,
		`{"model":"\ud800","Stream":true}`, `{"":1}`, `{"model":"a","model":"b"}`, ` {"stream_options" : null,"stream":true,"model":"x" } `, `[]`, `{"a":1e999}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, _, err := parsePayload(body, familyOther)
		if err != nil {
			return
		}
		if !json.Valid(body) {
			t.Fatalf("%q is no JSON, and was accepted", body)
		}
		if !utf8.Valid(body) {
			return // the two replace broken bytes differently
		}
		var v struct {
			Model         *string         `json:"model"`
			Stream        *bool           `json:"stream"`
			StreamOptions json.RawMessage `json:"stream_options"`
		}
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if v.Model != nil && *v.Model != p.model || v.Model == nil && p.model != "" {
			t.Fatalf("%q: model %q, Go reads %v", body, p.model, v.Model)
		}
		if stream := v.Stream != nil && *v.Stream; stream != p.stream {
			t.Fatalf("%q: stream %v, Go reads %v", body, p.stream, stream)
		}
		if p.model == "" {
			return
		}
		out := p.rewrite(nil, body, "upstream", p.stream)
		var got struct {
			Model         string `json:"model"`
			StreamOptions *struct {
				IncludeUsage bool `json:"include_usage"`
			} `json:"stream_options"`
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%q became %q: %v", body, out, err)
		}
		if got.Model != "upstream" {
			t.Fatalf("%q became %q", body, out)
		}
		if asked := got.StreamOptions != nil && got.StreamOptions.IncludeUsage; asked != p.stream {
			t.Fatalf("%q became %q: usage is asked for: %v", body, out, asked)
		}
		if !p.stream && got.StreamOptions != nil {
			t.Fatalf("%q became %q", body, out)
		}
		if bytes.Count(out, []byte("include_usage")) > bytes.Count(body, []byte("include_usage"))+1 {
			t.Fatalf("%q became %q", body, out)
		}
	})
}
