package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Totals are sums over calls, as the admin API's GET /usage writes them.
type Totals struct {
	Requests int64            `json:"requests"`
	Counted  int64            `json:"counted"`
	Errors   int64            `json:"errors"`
	Units    map[string]int64 `json:"units"`
	Charged  map[string]int64 `json:"charged"`
	Overrun  map[string]int64 `json:"overrun"`
}

// Row is one group of Figures.
type Row struct {
	Group string     `json:"group"`
	Start *time.Time `json:"start"`
	Totals
}

// Figures are one answer of GET /usage.
type Figures struct {
	From  time.Time  `json:"from"`
	To    time.Time  `json:"to"`
	AsOf  *time.Time `json:"as_of"`
	Rows  []Row      `json:"rows"`
	Total Totals     `json:"total"`
}

// Report is what is drawn.
type Report struct {
	Language      string // zh or en
	From, To      time.Time
	Made          time.Time
	Zone          string   // of days
	Subscriptions []string // empty: all that the reader may see
	Days          Figures  // grouped by day
	Groups        []Group
}

// Group is a table of the greatest groups of one kind.
type Group struct {
	By string // model, api, key, status, …
	Figures
}

//go:embed report.html
var page string

// words are the texts of the page.
var words = map[string]map[string]string{
	"en": {
		"title": "Usage report", "from": "From", "to": "to", "made": "Made", "asof": "Newest call in the figures", "subs": "Subscriptions", "all": "all",
		"requests": "Requests", "counted": "Charged calls", "errors": "Errors", "units": "Units measured", "charged": "Units charged to packages", "overrun": "Beyond packages",
		"day": "Day", "perday": "Requests per day", "errday": "Errors per day", "chargedday": "Units charged per day", "total": "Total", "group": "Group", "empty": "No calls in this time.",
		"model": "By model", "api": "By API", "key": "By key", "status": "By status", "subscription": "By subscription", "basis": "By basis", "none": "(none)",
	},
	"zh": {
		"title": "用量报告", "from": "自", "to": "至", "made": "生成时间", "asof": "数据中最新调用的时间", "subs": "订阅", "all": "全部",
		"requests": "请求数", "counted": "计费调用", "errors": "错误数", "units": "计量用量", "charged": "套餐扣减用量", "overrun": "套餐外用量",
		"day": "日期", "perday": "每日请求数", "errday": "每日错误数", "chargedday": "每日扣减用量", "total": "合计", "group": "分组", "empty": "该时段内没有调用。",
		"model": "按模型", "api": "按 API", "key": "按密钥", "status": "按状态码", "subscription": "按订阅", "basis": "按计量依据", "none": "（空）",
	},
}

// Languages are those a report can be written in.
var Languages = []string{"en", "zh"}

// Write draws the report.
func Write(w io.Writer, r *Report) error {
	text, ok := words[r.Language]
	if !ok {
		return fmt.Errorf("report: language %q: use one of %s", r.Language, strings.Join(Languages, ", "))
	}
	zone, err := time.LoadLocation(r.Zone)
	if err != nil {
		return fmt.Errorf("report: zone %q: use an IANA time zone, such as Asia/Shanghai", r.Zone)
	}
	t, err := template.New("report").Funcs(template.FuncMap{
		"t": func(key string) string {
			if s, ok := text[key]; ok {
				return s
			}
			return key
		},
		"time": func(at time.Time) string { return at.In(zone).Format("2006-01-02 15:04:05 -07:00") },
		"date": func(at *time.Time) string {
			if at == nil {
				return ""
			}
			return at.In(zone).Format(time.DateOnly)
		},
		"n":     thousands,
		"units": showUnits,
		"join":  func(list []string) string { return strings.Join(list, ", ") },
	}).Parse(page)
	if err != nil {
		return err
	}
	series := func(title string, of func(*Totals) int64) chart {
		points := make([]point, len(r.Days.Rows))
		for i := range r.Days.Rows {
			row := &r.Days.Rows[i]
			points[i] = point{Value: of(&row.Totals)}
			if row.Start != nil {
				points[i].At = row.Start.In(zone)
			}
		}
		return bars(title, points)
	}
	data := struct {
		*Report
		Charts []chart
	}{r, []chart{series(text["perday"], func(t *Totals) int64 { return t.Requests }), series(text["errday"], func(t *Totals) int64 { return t.Errors })}}
	for _, unit := range slices.Sorted(maps.Keys(r.Days.Total.Charged)) {
		data.Charts = append(data.Charts, series(text["chargedday"]+": "+unit, func(t *Totals) int64 { return t.Charged[unit] }))
	}
	return t.Execute(w, data)
}

// thousands writes n with commas.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

func showUnits(u map[string]int64) string {
	parts := make([]string, 0, len(u))
	for _, name := range slices.Sorted(maps.Keys(u)) {
		parts = append(parts, name+" "+thousands(u[name]))
	}
	return strings.Join(parts, ", ")
}
