package meter

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
)

// TestScanFinds compares what is found with what stands there.
func TestScanFinds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, path string
		mode       mode
		want       float64 // below 0: nothing
	}{
		{`{"usage":{"image_count":3}}`, "usage.image_count", number, 3},
		{`{"usage":{"image_count":0}}`, "usage.image_count", number, 0},
		{`{"usage":{"image_count":null}}`, "usage.image_count", number, -1},
		{`{"usage":{"image_count":"3"}}`, "usage.image_count", number, -1},
		{`{"usage":{"image_count":-3}}`, "usage.image_count", number, -1},
		{`{"usage":{"image_count":1e300}}`, "usage.image_count", number, -1},
		{`{"x":{"usage":{"image_count":3}}}`, "usage.image_count", number, -1},
		{`{"a":"{\"usage\":{\"image_count\":9}}","usage":{"image_count":3}}`, "usage.image_count", number, 3},
		{`{"us\u0061ge":{"image_count":3}}`, "usage.image_count", number, 3},
		{`{"usage":{"image_count":2,"image_count":3,"image_count":1}}`, "usage.image_count", number, 3},
		{`{"duration":12.25}`, "duration", number, 12.25},
		{`{"duration":1.5e1 , "x":1}`, "duration", number, 15},
		{`{"data":[{"b":"["},{"data":[1,2,3]},[]]}`, "data", elements, 3},
		{`{"data":[]}`, "data", elements, 0},
		{`{"data":{}}`, "data", elements, -1},
		{`{"data":[1,"a",null,true,{"x":[1]}]}`, "data", elements, 5},
		{`{"t":[{"ms":10},{"ms":15,"o":{"ms":7}},{"no":1}]}`, "t.#.ms", number, 25},
		{`{"t":{"ms":10}}`, "t.#.ms", number, -1},
		{`{"input":"añ日😀\u65e5\ud83d\ude00\n\"x"}`, "input", characters, 9},
		{`{"input":["ab","c",["d"],{"e":"f"}]}`, "input", characters, 3},
		{`{"input":[]}`, "input", characters, 0},
		{`{"input":{"text":"abc"}}`, "input", characters, -1},
		{`[{"usage":1}]`, "usage", number, -1},
		{`{"usage":5`, "usage", number, 5},
	} {
		p, err := parsePath(tt.path, tt.mode)
		if err != nil {
			t.Fatal(err)
		}
		for cut := range len(tt.text) + 1 {
			var s scan
			s.reset([]path{p})
			s.feed([]byte(tt.text[:cut]))
			s.feed([]byte(tt.text[cut:]))
			s.end()
			if got := s.values[0]; s.found == 0 && tt.want >= 0 || s.found != 0 && (got != tt.want) {
				t.Errorf("%s at %s, cut at %d: %v, found %v, want %v", tt.path, tt.text, cut, got, s.found, tt.want)
				break
			}
		}
	}
}

// reference reads a path out of a decoded text.
func reference(v any, p path) (sum float64, found bool) {
	var walk func(v any, keys []string)
	walk = func(v any, keys []string) {
		if len(keys) > 0 {
			switch o := v.(type) {
			case map[string]any:
				if next, ok := o[keys[0]]; ok && keys[0] != each {
					walk(next, keys[1:])
				}
			case []any:
				if keys[0] == each {
					for _, e := range o {
						walk(e, keys[1:])
					}
				}
			}
			return
		}
		switch o := v.(type) {
		case json.Number:
			n, err := o.Float64()
			if p.mode == number && err == nil && n >= 0 && n <= maxAmount && len(o) <= 40 {
				sum, found = math.Min(sum+n, maxAmount), true
			}
		case []any:
			switch p.mode {
			case elements:
				sum, found = sum+float64(len(o)), true
			case characters:
				found = true
				for _, e := range o {
					if s, ok := e.(string); ok {
						sum += float64(len([]rune(s)))
					}
				}
			}
		case string:
			if p.mode == characters {
				sum, found = sum+float64(len([]rune(o))), true
			}
		}
	}
	walk(v, p.keys)
	return sum, found
}

// unique reports whether no object of the text has two keys of one name: the
// reference keeps the last of them, the scan the greatest.
func unique(d *json.Decoder) bool {
	tok, err := d.Token()
	if err != nil {
		return false
	}
	open, ok := tok.(json.Delim)
	if !ok {
		return true
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			key, err := d.Token()
			if err != nil || seen[key.(string)] {
				return false
			}
			seen[key.(string)] = true
		}
		if !unique(d) {
			return false
		}
	}
	_, err = d.Token()
	return err == nil
}

// depth of the deepest container.
func deep(v any) int {
	n := 0
	switch o := v.(type) {
	case map[string]any:
		for _, e := range o {
			n = max(n, deep(e))
		}
		return n + 1
	case []any:
		for _, e := range o {
			n = max(n, deep(e))
		}
		return n + 1
	}
	return 0
}

// FuzzScan: it finds what a JSON decoder finds, wherever the text is cut, and
// bears any bytes.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{"usage":{"n":3},"data":[1,{"n":2}],"input":["a\u00e9","b"]}`, `{"data":{"n":1}}`, `{"input":"\ud83d\ude00x"}`,
		`{"data":[[],[1]],"usage":null}`, `[`, `{"a`, `}{"usage":{"n":1}}`, `{"usage":{"n":1e2}}`, `{"data":[{"n":1},{"n":2.5}]}`,
	} {
		f.Add([]byte(s), uint64(1))
	}
	specs := []struct {
		path string
		mode mode
	}{{"usage.n", number}, {"data", elements}, {"data.#.n", number}, {"input", characters}, {"input.#", characters}, {"usage", number}, {"data.#", elements}}
	paths := make([]path, len(specs))
	for i, sp := range specs {
		var err error
		if paths[i], err = parsePath(sp.path, sp.mode); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		var whole, pieces scan
		whole.reset(paths)
		whole.feed(text)
		whole.end()
		pieces.reset(paths)
		rnd := rand.New(rand.NewPCG(seed, 1))
		for rest := text; len(rest) > 0; {
			n := 1 + rnd.IntN(min(len(rest), 7))
			pieces.feed(rest[:n])
			rest = rest[n:]
		}
		pieces.end()
		if whole.found != pieces.found || whole.values != pieces.values {
			t.Fatalf("%q: whole %v %v, in pieces %v %v", text, whole.found, whole.values, pieces.found, pieces.values)
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) != nil || !json.Valid(text) || !unique(json.NewDecoder(bytes.NewReader(text))) || deep(v) > maxDepth || bytes.Contains(text, []byte(`\u`)) && bytes.ContainsAny(text, "\xff\xfe") {
			return
		}
		if !bytes.Equal(text, bytes.ToValidUTF8(text, nil)) {
			return // the decoder replaces what is not UTF-8
		}
		if bytes.Contains(bytes.ToLower(text), []byte(`\ud`)) {
			return // nor do lone halves of pairs count alike
		}
		for i, p := range paths {
			want, found := reference(v, p)
			if got := whole.found&(1<<i) != 0; got != found || found && math.Abs(whole.values[i]-want) > 1e-6*want {
				t.Errorf("%s of %q: %v %v, want %v %v", specs[i].path, text, whole.values[i], got, want, found)
			}
		}
	})
}
