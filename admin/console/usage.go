package console

import (
	"encoding/csv"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usageData is the usage page: what the address asks for, and the figures.
type usageData struct {
	figuresWire
	Range, Group, Subscription string
	Query                      string // the address's query, for links that keep it
	Bars                       []Bar
	Names                      map[string]string
	Key                        []string // billing items that occur, for columns
	Labels                     []string // of the rows
}

// The ranges and groups of the usage page, the default first.
var (
	usageRanges = []string{"24h", "7d", "30d"}
	usageGroups = []string{"hour", "day", "key", "api", "model", "status"}
	rangeHours  = map[string]int{"24h": 24, "7d": 7 * 24, "30d": 30 * 24}
)

// Ranges returns the ranges to choose from.
func (v *view) Ranges() []string { return usageRanges }

// Groups returns the groups to choose from.
func (v *view) Groups() []string { return usageGroups }

func usageView(v *view) (d usageData, err error) {
	pick := func(list []string, value string) string {
		if slices.Contains(list, value) {
			return value
		}
		return list[0]
	}
	f := v.r.Form
	d.Range, d.Group, d.Subscription = pick(usageRanges, f.Get("range")), pick(usageGroups, f.Get("group")), f.Get("subscription")
	q := url.Values{"range": {d.Range}, "group": {d.Group}}
	ask := url.Values{
		"from":     {v.c.now().UTC().Add(-time.Duration(rangeHours[d.Range]) * time.Hour).Truncate(time.Hour).Format(time.RFC3339)},
		"group_by": {d.Group}, "zone": {"Asia/Shanghai"},
	}
	if d.Subscription != "" {
		q.Set("subscription", d.Subscription)
		ask.Set("subscription_id", d.Subscription)
	}
	if d.Group != "hour" && d.Group != "day" {
		ask.Set("top", "100")
	}
	d.Query = q.Encode()
	if err := v.get("/usage?"+ask.Encode(), &d.figuresWire); err != nil {
		return d, err
	}
	for unit := range d.Total.Charged {
		d.Key = append(d.Key, unit)
	}
	slices.Sort(d.Key)
	d.Names = map[string]string{}
	if d.Group == "key" {
		var keys list[keyWire]
		if _, err := v.maybe("/api-keys?limit=100", &keys); err != nil {
			return d, err
		}
		for _, k := range keys.Items {
			d.Names[k.ID] = strings.TrimSpace(k.Description + " " + k.Prefix + "…" + k.Suffix)
		}
	}
	var amounts []int64
	for _, r := range d.Rows {
		label := r.Group
		switch {
		case r.Start != nil:
			label = r.Start.In(zone).Format("01-02 15:04 MST")
		case d.Names[r.Group] != "":
			label = d.Names[r.Group]
		}
		d.Labels = append(d.Labels, label)
		amounts = append(amounts, r.Requests)
	}
	if len(amounts) > 0 {
		d.Bars = columns(amounts, d.Labels)
	}
	return d, nil
}

func usagePage(v *view) error {
	d, err := usageView(v)
	if err != nil {
		return err
	}
	return v.show("usage", d)
}

func liveUsage(v *view) error {
	d, err := usageView(v)
	if err != nil {
		return err
	}
	return v.fragment("usage", "figures", d)
}

// usageCSV is the table as a file that spreadsheets open: with the mark that
// tells them the encoding, the zone in the name, and texts that they would take
// for formulas made inert.
func usageCSV(v *view) error {
	d, err := usageView(v)
	if err != nil {
		return err
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="usage-`+d.Range+`-`+d.Group+`-UTC+8.csv"`)
	if _, err := v.w.Write([]byte("\xef\xbb\xbf")); err != nil {
		return nil
	}
	w := csv.NewWriter(v.w)
	head := []string{v.W("group", d.Group) + " (UTC+8)", v.T("usage.requests"), v.T("usage.counted"), v.T("usage.errors")}
	for _, unit := range d.Key {
		head = append(head, v.W("unit", unit))
	}
	_ = w.Write(head)
	for i, r := range d.Rows {
		row := []string{inert(d.Labels[i]), strconv.FormatInt(r.Requests, 10), strconv.FormatInt(r.Counted, 10), strconv.FormatInt(r.Errors, 10)}
		for _, unit := range d.Key {
			row = append(row, strconv.FormatInt(r.Charged[unit], 10))
		}
		_ = w.Write(row)
	}
	w.Flush()
	return nil
}

// inert keeps a text from being run as a formula.
func inert(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

type callsData struct {
	list[recordWire]
	Names       map[string]string
	Status, Sub string
	More        string // query of the following part
}

func calls(v *view) error {
	var d callsData
	f := v.r.Form
	if id := strings.TrimSpace(f.Get("id")); id != "" {
		return v.to(at("/calls/%s", id))
	}
	ask := url.Values{"limit": {"50"}, "from": {v.c.now().UTC().Add(-30 * 24 * time.Hour).Format(time.RFC3339)}}
	keep := url.Values{}
	if d.Status = f.Get("status"); slices.Contains([]string{"2", "4", "5"}, d.Status) {
		ask.Set("status_class", d.Status)
		keep.Set("status", d.Status)
	}
	if d.Sub = f.Get("subscription"); d.Sub != "" {
		ask.Set("subscription_id", d.Sub)
		keep.Set("subscription", d.Sub)
	}
	if c := f.Get("cursor"); c != "" {
		ask.Set("cursor", c)
	}
	if err := v.get("/usage/requests?"+ask.Encode(), &d.list); err != nil {
		return err
	}
	if d.Next != "" {
		keep.Set("cursor", d.Next)
		d.More = keep.Encode()
	}
	var err error
	if d.Names, err = productNames(v); err != nil {
		return err
	}
	return v.show("calls", d)
}

// callPage answers "why this charge": the rule, the basis and what each lot
// paid.
func callPage(v *view) error {
	var d recordWire
	if err := v.get(at("/usage/requests/%s", v.r.PathValue("id")), &d); err != nil {
		return err
	}
	return v.show("call", d)
}

// Ms is microseconds as milliseconds.
func (v *view) Ms(us int64) string { return strconv.FormatFloat(float64(us)/1000, 'f', 1, 64) + " ms" }
