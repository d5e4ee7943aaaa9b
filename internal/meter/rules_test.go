package meter

import (
	"strings"
	"testing"

	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

// TestResult: defaults, alternatives, divisors, high-water marks over events.
func TestResult(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, route, path string
		items             []directory.Item
		texts             []string
		request           string
		unit              usage.Unit
		want              int64 // below 0: not found
		said              bool
	}{
		{name: "images by data", route: "images", texts: []string{`{"data":[{},{}]}`}, unit: usage.Image, want: 2},
		{name: "image_count goes before data", route: "images", texts: []string{`{"data":[{},{}],"usage":{"image_count":5}}`}, unit: usage.Image, want: 5},
		{name: "an explicit zero is zero", route: "images", texts: []string{`{"data":[{},{}],"usage":{"image_count":0}}`}, unit: usage.Image, want: 0},
		{name: "nothing said", route: "images", texts: []string{`{}`}, unit: usage.Image, want: -1},
		{name: "seconds round up", route: "audio.transcriptions", texts: []string{`{"duration":12.01}`}, unit: usage.Second, want: 13},
		{name: "usage.seconds first", route: "audio.translations", texts: []string{`{"duration":12.01,"usage":{"seconds":7}}`}, unit: usage.Second, want: 7},
		{name: "events are cumulative", route: "audio.transcriptions", texts: []string{`{"usage":{"seconds":3}}`, `{"usage":{"seconds":9}}`, `{"usage":{"seconds":null}}`}, unit: usage.Second, want: 9},
		{name: "characters of the input", route: "audio.speech", request: `{"input":"日本x"}`, unit: usage.Character, want: 3},
		{
			name: "milliseconds", route: "other", texts: []string{`{"transcripts":[{"content_duration_in_milliseconds":1200},{"content_duration_in_milliseconds":900}]}`},
			items: []directory.Item{{Unit: usage.Second, From: directory.ItemAnswer, Path: "transcripts.#.content_duration_in_milliseconds", Per: 1000}}, unit: usage.Second, want: 3, said: true,
		},
		{
			name: "a path prefix", route: "other", path: "/agents/run/7", texts: []string{`{"u":{"t":44}}`},
			items: []directory.Item{{Unit: usage.Token, Routes: []string{"/agents/run"}, From: directory.ItemAnswer, Path: "u.t"}}, unit: usage.Token, want: 44, said: true,
		},
		{
			name: "another path", route: "other", path: "/agents/runner", texts: []string{`{"u":{"t":44}}`},
			items: []directory.Item{{Unit: usage.Token, Routes: []string{"/agents/run"}, From: directory.ItemAnswer, Path: "u.t"}}, unit: usage.Token, want: -1,
		},
		{
			name: "fixed where nothing else is found", route: "files", texts: []string{`{}`},
			items: []directory.Item{{Unit: usage.Token, Routes: []string{"files"}, From: directory.ItemFixed, Amount: 100}}, unit: usage.Token, want: 100, said: true,
		},
		{
			name: "fixed behind what is found", route: "files", texts: []string{`{"n":3}`},
			items: []directory.Item{
				{Unit: usage.Token, From: directory.ItemFixed, Amount: 100}, {Unit: usage.Token, From: directory.ItemAnswer, Path: "n"},
			}, unit: usage.Token, want: 3, said: true,
		},
	} {
		p, err := Compile(tt.items)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		r := p.For(tt.route, []byte(tt.path))
		var tally Tally
		tally.Begin(r)
		for _, text := range tt.texts {
			tally.Text([]byte(text))
		}
		var request []byte
		if tt.request != "" {
			request = []byte(tt.request)
		}
		got := tally.Result(request)
		if got.Found[tt.unit] != (tt.want >= 0) || tt.want >= 0 && got.Units[tt.unit] != tt.want || got.Said[tt.unit] != tt.said {
			t.Errorf("%s: %+v, want %d", tt.name, got, tt.want)
		}
		if tt.want >= 0 && !r.Prices([]usage.Unit{tt.unit}) {
			t.Errorf("%s: not priced in %s", tt.name, tt.unit)
		}
	}
}

// TestPrices: which packages a route can be charged to.
func TestPrices(t *testing.T) {
	t.Parallel()
	p, err := Compile(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		route string
		unit  usage.Unit
		want  bool
	}{
		{"other", usage.Call, true},
		{"other", usage.Token, false},
		{"files", usage.Token, false},
		{"chat.completions", usage.Token, true},
		{"images", usage.Image, true},
		{"chat.completions", usage.Image, false},
		{"audio.speech", usage.Character, true},
		{"audio.speech", usage.Token, false},
		{"audio.transcriptions", usage.Second, true},
		{"batches", usage.OutputToken, false},
	} {
		if got := p.For(tt.route, nil).Prices([]usage.Unit{tt.unit}); got != tt.want {
			t.Errorf("%s by %s: %v", tt.route, tt.unit, got)
		}
	}
}

// TestCheckItem: what an item must not be is named.
func TestCheckItem(t *testing.T) {
	t.Parallel()
	ok := directory.Item{Unit: usage.Image, From: directory.ItemAnswer, Path: "usage.n"}
	if err := CheckItem(ok); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*directory.Item){
		"unit: ":           func(it *directory.Item) { it.Unit = usage.Call },
		"from: ":           func(it *directory.Item) { it.From = "usage" },
		"per: ":            func(it *directory.Item) { it.Per = -1 },
		"amount: ":         func(it *directory.Item) { it.Amount = 5 },
		"empty keys":       func(it *directory.Item) { it.Path = "usage..n" },
		"not be empty":     func(it *directory.Item) { it.Path = "" },
		"begin with a key": func(it *directory.Item) { it.Path = "#.n" },
		"neither a path":   func(it *directory.Item) { it.Routes = []string{"chat"} },
		"lower case":       func(it *directory.Item) { it.Routes = []string{"/Agents/"} },
		"fixed item":       func(it *directory.Item) { it.From = directory.ItemFixed },
		"at most 16":       func(it *directory.Item) { it.Path = strings.Repeat("a.", 16) + "a" },
	} {
		it := ok
		change(&it)
		if err := CheckItem(it); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q", err, want)
		}
	}
	if _, err := Compile(make([]directory.Item, MaxItems+1)); err == nil {
		t.Error("too many items were taken")
	}
}
