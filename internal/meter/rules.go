package meter

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	"tollgate/internal/directory"
	"tollgate/internal/usage"
)

func lowest(mask uint32) int { return bits.TrailingZeros32(mask) }

// Routes are the names of the route families an item may hold for.
var Routes = []string{
	"other", "chat.completions", "completions", "embeddings", "responses", "models", "moderations",
	"images", "audio.speech", "audio.transcriptions", "audio.translations", "messages", "rerank",
	"files", "uploads", "batches", "vector_stores", "realtime",
}

// MaxItems bounds the billing items of one product.
const MaxItems = maxPaths - 4 // room for the defaults of a route

// Defaults are the items that hold for every product that says nothing else of
// their unit and route.
var Defaults = []directory.Item{
	{Unit: usage.Image, Routes: []string{"images"}, From: directory.ItemAnswer, Path: "usage.image_count"},
	{Unit: usage.Image, Routes: []string{"images"}, From: directory.ItemCount, Path: "data"},
	{Unit: usage.Second, Routes: []string{"audio.transcriptions", "audio.translations"}, From: directory.ItemAnswer, Path: "usage.seconds"},
	{Unit: usage.Second, Routes: []string{"audio.transcriptions", "audio.translations"}, From: directory.ItemAnswer, Path: "duration"},
	{Unit: usage.Character, Routes: []string{"audio.speech", "embeddings", "moderations"}, From: directory.ItemRequest, Path: "input"},
}

// tokenRoutes are the families whose answers tell of tokens.
var tokenRoutes = []string{
	"chat.completions", "completions", "embeddings", "responses", "moderations", "images",
	"audio.transcriptions", "audio.translations", "messages", "rerank", "realtime",
}

// CheckItem returns what is wrong with an item, nil when nothing is.
func CheckItem(it directory.Item) error {
	if it.Unit >= usage.NumUnits || it.Unit == usage.Call {
		return errors.New("unit: must be token, input_token, output_token, image, second or character: calls are always counted")
	}
	if len(it.Routes) > 32 {
		return errors.New("routes: must be at most 32")
	}
	for _, r := range it.Routes {
		if strings.HasPrefix(r, "/") {
			if len(r) < 2 || len(r) > 256 || strings.HasSuffix(r, "/") || strings.Contains(r, "//") || strings.ContainsAny(r, "?#% ") || r != strings.ToLower(r) {
				return fmt.Errorf("routes: %q must be a path in lower case, such as /agents/run, without slash at the end, query or escapes", r)
			}
		} else if !slices.Contains(Routes, r) {
			return fmt.Errorf("routes: %q is neither a path that begins with / nor one of %s", r, strings.Join(Routes, ", "))
		}
	}
	if it.Per < 0 || it.Per > 1e12 {
		return errors.New("per: must be from 1 to 1000000000000, or left out")
	}
	if it.Amount < 0 || it.Amount > 1e12 || it.From != directory.ItemFixed && it.Amount != 0 {
		return errors.New("amount: belongs to fixed items, from 0 to 1000000000000")
	}
	switch it.From {
	case directory.ItemFixed:
		if it.Path != "" || it.Per != 0 {
			return errors.New("path: does not belong to a fixed item, nor does per")
		}
	case directory.ItemAnswer, directory.ItemCount, directory.ItemRequest:
		if _, err := parsePath(it.Path, modeOf(it.From)); err != nil {
			return fmt.Errorf("path: %w", err)
		}
	default:
		return errors.New("from: must be answer, count, request or fixed")
	}
	return nil
}

func modeOf(f directory.ItemFrom) mode {
	switch f {
	case directory.ItemCount:
		return elements
	case directory.ItemRequest:
		return characters
	}
	return number
}

// Plan is the rules of one product. It is immutable.
type Plan struct {
	byName map[string]*Rules
	items  []directory.Item
	paths  bool // some item names a path: routes are looked up by it too
}

// Compile makes the plan of a product with the given items.
func Compile(items []directory.Item) (*Plan, error) {
	if len(items) > MaxItems {
		return nil, fmt.Errorf("%d billing items: have at most %d", len(items), MaxItems)
	}
	p := &Plan{byName: make(map[string]*Rules, len(Routes)), items: items}
	for i, it := range items {
		if err := CheckItem(it); err != nil {
			return nil, fmt.Errorf("billing item %d: %w", i, err)
		}
		p.paths = p.paths || slices.ContainsFunc(it.Routes, func(r string) bool { return r[0] == '/' })
	}
	for _, name := range Routes {
		p.byName[name] = newRules(name, func(it directory.Item) bool { return len(it.Routes) == 0 || slices.Contains(it.Routes, name) }, items)
	}
	return p, nil
}

// For returns the rules of a route: its family's name and its path behind the
// base URL, in the plainest spelling.
func (p *Plan) For(name string, path []byte) *Rules {
	if !p.paths {
		return p.byName[name]
	}
	holds := func(it directory.Item) bool {
		return len(it.Routes) == 0 || slices.ContainsFunc(it.Routes, func(r string) bool {
			return r == name || r[0] == '/' && strings.HasPrefix(string(path), r) && (len(path) == len(r) || path[len(r)] == '/')
		})
	}
	for _, it := range p.items {
		for _, r := range it.Routes {
			if r[0] == '/' && holds(directory.Item{Routes: []string{r}}) {
				return newRules(name, holds, p.items)
			}
		}
	}
	return p.byName[name]
}

// Rules are what is measured of a call of one route, beside calls and the usage
// object of the OpenAI surface.
type Rules struct {
	answer, request []rule
	fixed           []directory.Item
	answerPaths     []path
	requestPaths    []path
	priced          [usage.NumUnits]bool
	said            [usage.NumUnits]bool // by an item of the product
}

type rule struct {
	unit usage.Unit
	per  float64
	path int
	rank int // among all items: the first that finds something counts
}

func newRules(name string, holds func(directory.Item) bool, items []directory.Item) *Rules {
	r := &Rules{}
	r.priced[usage.Call] = true
	for _, u := range []usage.Unit{usage.Token, usage.InputToken, usage.OutputToken} {
		r.priced[u] = slices.Contains(tokenRoutes, name)
	}
	for i, it := range items {
		if holds(it) {
			r.add(it, i)
			r.said[it.Unit] = true
		}
	}
	for i, it := range Defaults {
		if !r.said[it.Unit] && slices.Contains(it.Routes, name) {
			r.add(it, len(items)+i)
		}
	}
	return r
}

func (r *Rules) add(it directory.Item, rank int) {
	r.priced[it.Unit] = true
	if it.From == directory.ItemFixed {
		r.fixed = append(r.fixed, it)
		return
	}
	p, err := parsePath(it.Path, modeOf(it.From))
	if err != nil {
		return // it was checked
	}
	per := float64(max(it.Per, 1))
	if it.From == directory.ItemRequest {
		r.request = append(r.request, rule{it.Unit, per, len(r.requestPaths), rank})
		r.requestPaths = append(r.requestPaths, p)
		return
	}
	r.answer = append(r.answer, rule{it.Unit, per, len(r.answerPaths), rank})
	r.answerPaths = append(r.answerPaths, p)
}

// Prices reports whether a call of the route can be measured in one of units.
func (r *Rules) Prices(units []usage.Unit) bool {
	return slices.ContainsFunc(units, func(u usage.Unit) bool { return r.priced[u] })
}

// Reads reports whether answers are read for one of units by a path.
func (r *Rules) Reads(units []usage.Unit) bool {
	for i := range r.answer {
		if slices.Contains(units, r.answer[i].unit) {
			return true
		}
	}
	return false
}

// Measures reports whether anything but calls and the usage object is measured
// for one of units, or by an item of the product: the tokens of two items may
// make a third unit.
func (r *Rules) Measures(units []usage.Unit) bool {
	if r.said != [usage.NumUnits]bool{} || r.Reads(units) {
		return true
	}
	for i := range r.request {
		if slices.Contains(units, r.request[i].unit) {
			return true
		}
	}
	return slices.ContainsFunc(r.fixed, func(it directory.Item) bool { return slices.Contains(units, it.Unit) })
}

// Tally collects what one call used. The zero Tally is not ready: use Begin.
type Tally struct {
	rules  *Rules
	scan   scan
	values [maxPaths]float64
	found  uint32
	open   bool
}

// Begin makes t ready for a call of the rules' route.
func (t *Tally) Begin(r *Rules) { *t = Tally{rules: r, scan: t.scan} }

// Ready reports whether Begin was called.
func (t *Tally) Ready() bool { return t.rules != nil }

// Text takes one whole JSON text of the answer: a plain answer, or the data of
// one event. Amounts of several texts are cumulative: the greatest counts.
func (t *Tally) Text(b []byte) {
	if len(t.rules.answer) == 0 {
		return
	}
	t.Feed(b)
	t.End()
}

// Feed takes the next piece of a JSON text that End ends.
func (t *Tally) Feed(b []byte) {
	if len(t.rules.answer) == 0 {
		return
	}
	if !t.open {
		t.scan.reset(t.rules.answerPaths)
		t.open = true
	}
	t.scan.feed(b)
}

// End takes the end of a text.
func (t *Tally) End() {
	if !t.open {
		return
	}
	t.open = false
	t.scan.end()
	for m := t.scan.found; m != 0; m &= m - 1 {
		i := lowest(m)
		t.values[i] = math.Max(t.values[i], t.scan.values[i])
	}
	t.found |= t.scan.found
}

// Result is what was measured: the amounts found, and which units they are of.
type Result struct {
	Units usage.Units
	Found [usage.NumUnits]bool
	Said  [usage.NumUnits]bool // by an item of the product, which outranks the usage object
}

// Result ends the tally. request is the request's body, nil where it is not
// JSON or not in memory.
func (t *Tally) Result(request []byte) (r Result) {
	t.End()
	var rank [usage.NumUnits]int
	take := func(u usage.Unit, at int, amount int64) {
		if r.Found[u] && rank[u] < at {
			return
		}
		r.Found[u], r.Units[u], rank[u] = true, amount, at
		r.Said[u] = t.rules.said[u]
	}
	apply := func(rules []rule, values *[maxPaths]float64, found uint32) {
		for _, ru := range rules {
			if found&(1<<ru.path) != 0 {
				take(ru.unit, ru.rank, int64(math.Ceil(values[ru.path]/ru.per)))
			}
		}
	}
	apply(t.rules.answer, &t.values, t.found)
	if len(t.rules.request) > 0 && request != nil {
		t.scan.reset(t.rules.requestPaths)
		t.scan.feed(request)
		t.scan.end()
		apply(t.rules.request, &t.scan.values, t.scan.found)
	}
	for i, it := range t.rules.fixed {
		take(it.Unit, math.MaxInt-len(t.rules.fixed)+i, it.Amount) // where nothing else was found
	}
	return r
}
