package gateway

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

var jsonTexts = []string{
	`{}`, ` { } `, `{"a":1}`, `{"a":{"b":[1,{"c":"}"}]},"d":"\"\\\u00e9"}`, "{\"a\t\":1}", "{\"a\":\"\x1f\"}", `{"a":01}`, `{"a":-}`, `{"a":1.}`,
	`{"a":1e+5,"b":-0.5E-3}`, `{"a":tru}`, `{"a":true,}`, `{"a" 1}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, "{\"a\":\"\\u\x10\x11\x12\x13\"}", `{"a":"\u12`, `{"a":[1,]}`,
	`{"a":[1 2]}`, `{"a":1}x`, `[1]`, `"a"`, `1`, ``, `{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":"long enough for a word of eight"}`, `{"aé":"日本語日本語","b":null}`,
	"{\"a\":\"\x7f\x80\xff\"}", "{\"0123456\x00\":1}", `{"usage":{"total_tokens":12}}`, `{"usage":{"total_tokens":1e1},"response":{"usage":{"total_tokens":3}}}`,
}

// TestMembers: what encoding/json takes for valid is, and nothing else.
func TestMembers(t *testing.T) {
	t.Parallel()
	for _, text := range append([]string{
		strings.Repeat(`{"a":`, maxDepth) + `1` + strings.Repeat(`}`, maxDepth),
		strings.Repeat(`{"a":`, maxDepth+1) + `1` + strings.Repeat(`}`, maxDepth+1),
		`{"a":` + strings.Repeat(`[`, maxDepth) + strings.Repeat(`]`, maxDepth) + `}`,
	}, jsonTexts...) {
		checkMembers(t, []byte(text))
	}
	n := 0
	if !members([]byte(`{"a":1,"b":2,"c":3}`), func(key []byte, _, _ int) bool { n++; return string(key) != "b" }) || n != 2 {
		t.Errorf("called %d times", n)
	}
}

func checkMembers(t *testing.T, text []byte) {
	t.Helper()
	type member struct{ key, value string }
	var got, want []member
	valid := members(text, func(key []byte, from, to int) bool {
		got = append(got, member{string(key), string(text[from:to])})
		return true
	})
	trimmed := bytes.TrimLeft(text, " \t\r\n")
	if expect := json.Valid(text) && len(trimmed) > 0 && trimmed[0] == '{'; valid != expect {
		t.Fatalf("%.80q: valid %v, want %v", text, valid, expect)
	}
	if !valid {
		looseMembers(text, func([]byte, int, int) bool { return true }) // whatever it says
		return
	}
	var loose []member
	if !looseMembers(text, func(key []byte, from, to int) bool {
		loose = append(loose, member{string(key), string(text[from:to])})
		return true
	}) || !slices.Equal(got, loose) {
		t.Fatalf("%.80q: %q, looked at loosely %q", text, got, loose)
	}
	gjson.ParseBytes(text).ForEach(func(k, v gjson.Result) bool {
		want = append(want, member{k.Raw[1 : len(k.Raw)-1], v.Raw})
		return true
	})
	if len(got) != len(want) {
		t.Fatalf("%.80q: %d members, want %d", text, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%.80q: %q, want %q", text, got[i], want[i])
		}
	}
}

// FuzzMembers holds the scanner against encoding/json and gjson, and what is
// found of usage by the fast way against the other.
func FuzzMembers(f *testing.F) {
	for _, s := range jsonTexts {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		checkMembers(t, text)
		if !json.Valid(text) || bytes.IndexByte(text, '\\') >= 0 {
			return // gjson reads escapes in keys, which no upstream writes
		}
		got, ok := findUsage(text)
		want, expect := report{}, false
		if mayHoldUsage(text) {
			want, expect = findUsageIn(string(text))
		}
		if got != want || ok != expect {
			t.Fatalf("%q: %+v %v, want %+v %v", text, got, ok, want, expect)
		}
	})
}

func BenchmarkMembers(b *testing.B) {
	answer := []byte(`{"id":"chatcmpl-1","object":"chat.completion","created":1763700000,"model":"demo-chat","choices":[{"index":0,"message":{"role":"assistant","content":"` +
		strings.Repeat("Each call is counted once. ", 30) + `"},"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":50,"total_tokens":71}}`)
	request := []byte(`{"model":"demo-chat","messages":[{"role":"system","content":"You answer in one sentence."},{"role":"user","content":"What is counted once, and what is never sold twice? Say it in your own words, please."}],"temperature":0.7,"max_tokens":256}`)
	b.Run("answer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := findUsage(answer); !ok {
				b.Fatal("nothing found")
			}
		}
	})
	b.Run("answer, gjson", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := findUsageIn(view(answer)); !ok {
				b.Fatal("nothing found")
			}
		}
	})
	b.Run("request", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := parsePayload(request, familyChat); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("request, gjson check alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !gjson.ValidBytes(request) {
				b.Fatal("not valid")
			}
		}
	})
}
