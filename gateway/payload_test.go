package gateway

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestParsePayload: LLM-10 to LLM-14, LLM-27, and what another reader of the
// body could take in another way.
func TestParsePayload(t *testing.T) {
	t.Parallel()
	const m = `"messages":[{"role":"user","content":"x"}]`
	type want struct {
		model  string
		stream bool
		usage  bool
		max, n int64
	}
	for _, tt := range []struct {
		body  string
		want  want
		param string
		text  string // of the error; empty: none
	}{
		{`{"model":"a",` + m + `}`, want{"a", false, false, 0, 1}, "", ""},
		{` { "model" : "a" , "stream" : true , ` + m + ` } `, want{"a", true, false, 0, 1}, "", ""},
		{`{"mod\u0065l":"\u0061b","str\u0065am":true,` + m + `}`, want{"ab", true, false, 0, 1}, "", ""},
		{`{"model":"a","stream":null,"n":null,"max_tokens":null,` + m + `}`, want{"a", false, false, 0, 1}, "", ""},
		{`{"model":"a","max_tokens":5,"max_completion_tokens":70,"n":3,` + m + `}`, want{"a", false, false, 70, 3}, "", ""},
		{`{"model":"a","max_tokens":5.0,` + m + `}`, want{"a", false, false, 5, 1}, "", ""},
		{`{"model":"a","stream":true,"stream_options":{"include_usage":true},` + m + `}`, want{"a", true, true, 0, 1}, "", ""},
		{`{"model":"a","stream_options":{"include_usage":true},` + m + `}`, want{"a", false, true, 0, 1}, "", ""},
		{`{"x":{"model":"b","stream":true},"model":"a",` + m + `}`, want{"a", false, false, 0, 1}, "", ""},
		{`{` + m + `}`, want{"", false, false, 0, 1}, "", ""}, // the caller says what is missing

		{``, want{}, "", "not valid JSON"},
		{`{`, want{}, "", "not valid JSON"},
		{`{"model":"a"}x`, want{}, "", "not valid JSON"},
		{`{"model":"a",}`, want{}, "", "not valid JSON"},
		{`[]`, want{}, "", "must be a JSON object"},
		{`"model"`, want{}, "", "must be a JSON object"},
		{`{"model":5,` + m + `}`, want{}, "model", "non-empty string"},
		{`{"model":"",` + m + `}`, want{}, "model", "non-empty string"},
		{`{"model":null,` + m + `}`, want{}, "model", "non-empty string"},
		{`{"model":"a","model":"b",` + m + `}`, want{}, "model", "twice"},
		{`{"model":"a","mod\u0065l":"b",` + m + `}`, want{}, "model", "twice"},
		{`{"model":"a","Model":"b",` + m + `}`, want{}, "Model", "lower case"},
		{`{"model":"a","ſtream":true,` + m + `}`, want{}, "ſtream", "lower case"},
		{`{"model":"a","STREAM":true,` + m + `}`, want{}, "STREAM", "lower case"},
		{`{"model":"a","max_to\u212aens":1,` + m + `}`, want{}, "max_to\u212aens", "lower case"},
		{`{"model":"a","stream":"true",` + m + `}`, want{}, "stream", "true or false"},
		{`{"model":"a","stream":1,` + m + `}`, want{}, "stream", "true or false"},
		{`{"model":"a","stream":true,"stream":false,` + m + `}`, want{}, "stream", "twice"},
		{`{"model":"a","stream":true,"stream_options":5,` + m + `}`, want{}, "stream_options", "object"},
		{`{"model":"a","stream":true,"stream_options":{"include_usage":true,"include_usage":false},` + m + `}`, want{}, "stream_options", "once"},
		{`{"model":"a","stream":true,"stream_options":{"include_usage":true,"Include_Usage":false},` + m + `}`, want{}, "stream_options", "lower case"},
		{`{"model":"a","stream":true,"stream_options":{},"stream_options":{},` + m + `}`, want{}, "stream_options", "twice"},
		{`{"model":"a","max_tokens":0,` + m + `}`, want{}, "max_tokens", "from 1"},
		{`{"model":"a","max_tokens":-1,` + m + `}`, want{}, "max_tokens", "from 1"},
		{`{"model":"a","max_tokens":1.5,` + m + `}`, want{}, "max_tokens", "from 1"},
		{`{"model":"a","max_completion_tokens":"5",` + m + `}`, want{}, "max_completion_tokens", "from 1"},
		{`{"model":"a","max_tokens":1e99,` + m + `}`, want{}, "max_tokens", "from 1"},
		{`{"model":"a"}`, want{}, "messages", "non-empty array"},
		{`{"model":"a","messages":[]}`, want{}, "messages", "non-empty array"},
		{`{"model":"a","messages":"x"}`, want{}, "messages", "non-empty array"},
	} {
		p, param, err := parsePayload([]byte(tt.body), familyChat)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if param != tt.param || (tt.text == "") != (err == nil) || !strings.Contains(text, tt.text) {
			t.Errorf("%s: param %q, %v", tt.body, param, err)
			continue
		}
		if got := (want{p.model, p.stream, p.wantsUsage, p.maxOutput, p.choices}); err == nil && got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.body, got, tt.want)
		}
	}
	if _, _, err := parsePayload([]byte(`{"model":"a","input":"x"}`), familyEmbeddings); err != nil {
		t.Errorf("embeddings take no messages: %v", err)
	}
}

// jsonValue draws any JSON value.
func jsonValue(t *rapid.T, depth int) any {
	switch n := rapid.IntRange(0, 7).Draw(t, "kind"); {
	case n == 0:
		return nil
	case n == 1:
		return rapid.Bool().Draw(t, "bool")
	case n == 2:
		return json.Number(rapid.SampledFrom([]string{"0", "-1", "1.50", "1e+30", "123456789012345678901234567890"}).Draw(t, "number"))
	case n < 5 || depth == 0:
		return rapid.String().Draw(t, "text")
	case n == 5:
		var a []any
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			a = append(a, jsonValue(t, depth-1))
		}
		return a
	default:
		m := map[string]any{}
		for range rapid.IntRange(0, 3).Draw(t, "members") {
			m[rapid.SampledFrom([]string{"usage", "model", "include_usage", "x", "stream", "é", `"\`}).Draw(t, "key")] = jsonValue(t, depth-1)
		}
		return m
	}
}

// TestRewriteChangesNothingElse draws request bodies: what goes upstream is, as
// JSON, the client's with the wanted edits, and outside of them it is the same
// byte for byte.
func TestRewriteChangesNothingElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		body := map[string]any{"messages": []any{jsonValue(rt, 2)}}
		name := rapid.SampledFrom([]string{"demo", "mödel/\"x\"", "a"}).Draw(rt, "model")
		body["model"] = name
		for _, k := range []string{"x", "temperature", "ä", "tools", "user"} {
			if rapid.Bool().Draw(rt, "has "+k) {
				body[k] = jsonValue(rt, 2)
			}
		}
		stream := rapid.Bool().Draw(rt, "stream")
		if stream || rapid.Bool().Draw(rt, "says stream") {
			body["stream"] = stream
		}
		switch rapid.IntRange(0, 3).Draw(rt, "options") {
		case 0:
			body["stream_options"] = nil
		case 1:
			o := map[string]any{"other": jsonValue(rt, 2)}
			if rapid.Bool().Draw(rt, "asks") {
				o["include_usage"] = jsonValue(rt, 0)
			}
			body["stream_options"] = o
		}
		text := spell(body, rapid.Uint64().Draw(rt, "seed"))
		p, param, err := parsePayload(text, familyChat)
		if err != nil {
			rt.Fatalf("%s: %s %v", text, param, err)
		}
		if p.model != name || p.stream != stream {
			rt.Fatalf("%s: read %+v", text, p)
		}
		upstream := rapid.SampledFrom([]string{"", name, "other \"name\""}).Draw(rt, "upstream model")
		kept := bytes.Clone(text)
		got := p.rewrite(nil, text, upstream, stream)
		if !bytes.Equal(text, kept) {
			rt.Fatalf("the body itself was changed")
		}
		if upstream != "" {
			body["model"] = upstream
		}
		if o, ok := body["stream_options"].(map[string]any); stream {
			if !ok {
				o = map[string]any{}
			}
			o["include_usage"] = true
			body["stream_options"] = o
		} else if _, ok := body["stream_options"]; ok {
			body["stream_options"] = nil
		}
		if diff := cmp.Diff(decode(t, spell(body, 1)), decode(t, got)); diff != "" {
			rt.Fatalf("%s\nbecame\n%s\n%s", text, got, diff)
		}
		if upstream == name && !stream && body["stream_options"] == nil && &got[0] != &text[0] && !bytes.Contains(text, []byte("stream_options")) {
			rt.Fatalf("nothing was to be changed, and it was copied")
		}
	})
}

// spell writes v as JSON with blanks and the order of members by seed.
func spell(v any, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	blank := func() { b.WriteString([]string{"", " ", "\n\t", ""}[r.IntN(4)]) }
	var write func(v any)
	write = func(v any) {
		blank()
		switch v := v.(type) {
		case map[string]any:
			b.WriteByte('{')
			keys := make([]string, 0, len(v))
			for k := range v {
				keys = append(keys, k)
			}
			r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			for i, k := range keys {
				if i > 0 {
					b.WriteByte(',')
				}
				blank()
				kb, _ := json.Marshal(k)
				b.Write(kb)
				blank()
				b.WriteByte(':')
				write(v[k])
			}
			b.WriteByte('}')
		case []any:
			b.WriteByte('[')
			for i, x := range v {
				if i > 0 {
					b.WriteByte(',')
				}
				write(x)
			}
			b.WriteByte(']')
		default:
			vb, _ := json.Marshal(v)
			b.Write(vb)
		}
		blank()
	}
	write(v)
	return b.Bytes()
}

func decode(t testing.TB, b []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}
