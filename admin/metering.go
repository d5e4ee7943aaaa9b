package admin

import (
	"slices"
	"strconv"
	"strings"

	"tollgate/internal/directory"
	"tollgate/internal/meter"
	"tollgate/internal/usage"
)

// Metering is what is measured of an LLM product's calls, how their parameters
// are checked, and whether its buyers see each other's upstream objects.
type Metering struct {
	Items      []directory.Item `json:"items,omitempty"`
	Parameters string           `json:"parameters,omitempty"` // empty, or directory.ParametersVLLM
	Objects    string           `json:"objects,omitempty"`    // empty, or directory.ObjectsShared
}

// check adds the faults of m.
func (m *Metering) check(f *faults) {
	f.check(len(m.Items) <= meter.MaxItems, "body.billing_items", "must hold at most "+strconv.Itoa(meter.MaxItems)+" items")
	for i, it := range m.Items {
		if err := meter.CheckItem(it); err != nil {
			field, text, _ := strings.Cut(err.Error(), ": ")
			f.add("body.billing_items["+strconv.Itoa(i)+"]."+field, text)
		}
	}
	f.check(slices.Contains([]string{"", directory.ParametersVLLM}, m.Parameters), "body.parameters", "must be vllm or empty")
	f.check(slices.Contains([]string{"", directory.ObjectsShared}, m.Objects), "body.objects", "must be shared or empty")
}

type wireItem struct {
	Unit   string             `json:"unit" enum:"token,input_token,output_token,image,second,character" doc:"The billing item."`
	Routes []string           `json:"routes,omitempty" maxItems:"32" doc:"Route families such as images or audio.speech, or path prefixes such as /agents/run; default: every route."`
	From   directory.ItemFrom `json:"from" enum:"answer,count,request,fixed" doc:"answer: the number at path of the answer, or of an event of it; count: how many elements the list there has; request: how many characters the text at path of the request has; fixed: amount for each counted call."`
	Path   string             `json:"path,omitempty" maxLength:"1024" doc:"Keys joined by dots; # for every element of a list, added up." example:"usage.image_count"`
	Per    int64              `json:"per,omitempty" minimum:"0" doc:"Divides the amount, rounding up: 1000 makes seconds of milliseconds."`
	Amount int64              `json:"amount,omitempty" minimum:"0" doc:"What a call costs by a fixed item; 0 makes it free."`
}

func wireItems(in []directory.Item) []wireItem {
	out := make([]wireItem, 0, len(in))
	for _, it := range in {
		out = append(out, wireItem{it.Unit.String(), it.Routes, it.From, it.Path, it.Per, it.Amount})
	}
	return out
}

// readItems reads the wire form. The schema admits known units only; another is
// left for check to find.
func readItems(in []wireItem) []directory.Item {
	out := make([]directory.Item, 0, len(in))
	for _, w := range in {
		unit, err := usage.ParseUnit(w.Unit)
		if err != nil {
			unit = usage.NumUnits
		}
		out = append(out, directory.Item{Unit: unit, Routes: w.Routes, From: w.From, Path: w.Path, Per: w.Per, Amount: w.Amount})
	}
	return out
}
