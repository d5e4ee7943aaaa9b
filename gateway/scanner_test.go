package gateway

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestScannerAgrees draws JSON texts and cuts: the scanner finds what a reader
// of the whole text finds at its top level.
func TestScannerAgrees(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		root := map[string]any{}
		for _, k := range []string{"choices", "x", "usag", "usages", "Usage"} {
			if rapid.Bool().Draw(rt, "has "+k) {
				root[k] = jsonValue(rt, 3)
			}
		}
		if rapid.Bool().Draw(rt, "has usage") {
			root["usage"] = map[string]any{"prompt_tokens": 12, "completion_tokens": rapid.IntRange(0, 99).Draw(rt, "tokens"), "note": jsonValue(rt, 1)}
		} else if rapid.Bool().Draw(rt, "has another usage") {
			root["usage"] = jsonValue(rt, 0)
		}
		seed := rapid.Uint64().Draw(rt, "seed")
		text := spell(root, seed)
		want, found := findUsage(text)
		s := scanner{}
		r := rand.New(rand.NewPCG(seed, 2))
		for rest := text; len(rest) > 0; {
			n := 1 + r.IntN(len(rest))
			if r.IntN(2) == 0 {
				n = min(n, 3)
			}
			s.feed(rest[:n])
			rest = rest[n:]
		}
		// The other places findUsage looks in belong to events.
		if _, ok := root["usage"].(map[string]any); !ok {
			want, found = report{}, false
		}
		if got, ok := s.report(); ok != found || got != want {
			rt.Fatalf("%s\nscanned %+v %v, want %+v %v", text, got, ok, want, found)
		}
	})
}

// FuzzScanner feeds any bytes in any cuts: the cuts make no difference, memory
// is bounded, and in valid JSON the usage is found where encoding/json has it.
func FuzzScanner(f *testing.F) {
	f.Add([]byte(`{"a":"usage","usage":{"total_tokens":5}}`), uint64(3))
	f.Add([]byte(`{"usage":{"total_tokens":5,"x":"}"},"b":[{"usage":{}}]}`), uint64(1))
	f.Add([]byte(`{"usage\":":{"total_tokens":5}}`), uint64(9))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		var whole, cut scanner
		whole.feed(text)
		r := rand.New(rand.NewPCG(seed, 2))
		for rest := text; len(rest) > 0; {
			n := 1 + r.IntN(min(len(rest), 1+int(seed%7)))
			cut.feed(rest[:n])
			rest = rest[n:]
		}
		a, aok := whole.report()
		b, bok := cut.report()
		if a != b || aok != bok {
			t.Fatalf("%q: whole %+v %v, cut %+v %v", text, a, aok, b, bok)
		}
		if len(cut.value) > maxUsage || len(cut.key) > 2*len(keyName)+2 {
			t.Fatalf("kept %d bytes of value, %d of key", len(cut.value), len(cut.key))
		}
		var v map[string]json.RawMessage
		var u map[string]json.RawMessage
		if json.Unmarshal(text, &v) != nil || json.Unmarshal(v["usage"], &u) != nil {
			return
		}
		var n int64
		if json.Unmarshal(u["total_tokens"], &n) != nil || n < 0 || n >= 1<<30 || string(u["total_tokens"]) == "null" {
			return
		}
		if bytes.Count(text, []byte(`sage"`)) > 1 || bytes.Count(text, []byte("total_tokens")) > 1 || bytes.IndexByte(text, '\\') >= 0 {
			return // of two the readers take another, and escaped names are not looked for
		}
		if !aok || a.total != n {
			t.Fatalf("%q: scanned %+v %v, want %d", text, a, aok, n)
		}
	})
}

func TestScannerGivesUpOnHugeUsage(t *testing.T) {
	t.Parallel()
	var s scanner
	s.feed([]byte(`{"usage":{"total_tokens":5,"x":"` + strings.Repeat("x", 2*maxUsage) + `"},"a":1,"usage":{"total_tokens":7}}`))
	if r, ok := s.report(); !ok || r.total != 7 {
		t.Errorf("%+v %v", r, ok)
	}
}

func BenchmarkScanner(b *testing.B) {
	text := []byte(`{"data":[` + strings.Repeat(`{"object":"embedding","embedding":[0.0123,-0.456,0.789],"text":"some words of it"},`, 10_000) + `{}],"usage":{"total_tokens":5}}`)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		var s scanner
		s.feed(text)
		if _, ok := s.report(); !ok {
			b.Fatal("no usage")
		}
	}
}
