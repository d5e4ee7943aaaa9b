package compare

import (
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"os"
	"slices"
	"strings"
)

//go:embed report.html
var reportText string

var reportPage = template.Must(template.New("report").Funcs(template.FuncMap{
	"f1": func(f float64) string { return fmt.Sprintf("%.1f", f) },
	"f2": func(f float64) string { return fmt.Sprintf("%.2f", f) },
	"f0": func(f float64) string { return fmt.Sprintf("%.0f", f) },
}).Parse(reportText))

// page is what the report shows.
type page struct {
	*Report
	Plots []plot
}

// plot is a picture with its caption.
type plot struct {
	Title string
	Note  string
	SVG   template.HTML
}

// writeHTML writes the report as one file that needs nothing else.
func (r *Report) writeHTML(path string) error {
	p := page{Report: r}
	add := func(title, note string, svg string) {
		if svg != "" {
			p.Plots = append(p.Plots, plot{title, note, template.HTML(svg)}) //nolint:gosec // made below, its texts escaped
		}
	}
	add("Processor time per call, µs", "Closed loop; lower is better. The line in each bar spans the cheapest and the dearest round.",
		bars(r.of(scenarioClosed), func(x *Run) float64 { return x.CPU }, func(x *Run) [2]float64 { return x.CPUSpread }))
	add("Calls a second, one core", "Closed loop; higher is better. Where generator or upstream saturated it is a lower bound.",
		bars(r.of(scenarioClosed), func(x *Run) float64 { return x.RPS }, nil))
	add("Processor time per streamed chunk, µs", "Lower is better.",
		bars(r.of(scenarioStream), func(x *Run) float64 { return x.CPUChunk }, nil))
	add("Latency by percentile, µs", fmt.Sprintf("Open loop of %.0f calls/s, timed from the instant each call was due. Both axes are logarithmic.", r.Load.Rate),
		curves(r.of(scenarioOpen)))
	add("Memory, MB", "Resident, at the end of the closed loop.",
		bars(r.of(scenarioClosed), func(x *Run) float64 { return x.RSS }, nil))
	var b strings.Builder
	if err := reportPage.Execute(&b, p); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o644) //nolint:gosec // a report holds no secret
}

// of are the runs of one scenario.
func (r *Report) of(scenario string) []*Run {
	var list []*Run
	for i := range r.Runs {
		if r.Runs[i].Scenario == scenario {
			list = append(list, &r.Runs[i])
		}
	}
	return list
}

// label names a run in a plot.
func (r *Run) label() string {
	parts := []string{r.Target}
	if r.Target == nameTollgate {
		parts = append(parts, r.Auth, r.Store, r.Role)
	}
	return strings.Join(parts, " ")
}

var colours = []string{"#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#9c755f", "#bab0ac"}

// colour of a target: the same in every plot.
func colour(r *Run) string {
	names := []string{nameTollgate, nameFasthttp, nameNginx, nameHAProxy, nameRedis, namePortkey, nameDirect}
	return colours[max(0, slices.Index(names, r.Target))%len(colours)]
}

// bars draws one bar for each run that has the figure.
func bars(runs []*Run, value func(*Run) float64, spread func(*Run) [2]float64) string {
	runs = slices.DeleteFunc(slices.Clone(runs), func(x *Run) bool { return value(x) == 0 })
	if len(runs) == 0 {
		return ""
	}
	const left, width, row = 230, 560, 24
	most := 0.0
	for _, x := range runs {
		most = max(most, value(x))
	}
	// One that dwarfs the others is cut, and told by its figure.
	var values []float64
	for _, x := range runs {
		values = append(values, value(x))
	}
	scale := min(most, 6*median(values))
	at := func(v float64) float64 { return left + width*min(v, scale)/scale }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, left+width+90, row*len(runs)+8)
	for i, x := range runs {
		y := i*row + 4
		v := value(x)
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+14, template.HTMLEscapeString(x.label()))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"><title>%s: %.2f</title></rect>`,
			left, y, at(v)-left, row-7, colour(x), template.HTMLEscapeString(x.label()), v)
		if spread != nil {
			s := spread(x)
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="currentColor"/>`, at(s[0]), at(s[1]), y+8, y+8)
		}
		more := ""
		if v > scale {
			more = " …"
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s%s</text>`, at(v)+6, y+14, short(v), more)
	}
	b.WriteString("</svg>")
	return b.String()
}

func short(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// curves draws the latency of each run over the percentiles.
func curves(runs []*Run) string {
	runs = slices.DeleteFunc(slices.Clone(runs), func(x *Run) bool { return len(x.Latency) == 0 })
	if len(runs) == 0 {
		return ""
	}
	const left, top, width, height = 60, 10, 600, 300
	low, high := math.Inf(1), 1.0
	for _, x := range runs {
		for _, p := range x.Latency {
			low, high = min(low, float64(max(p.Micros, 1))), max(high, float64(p.Micros))
		}
	}
	lowLog, highLog := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high+1))
	y := func(us float64) float64 {
		return top + height*(1-(math.Log10(max(us, 1))-lowLog)/max(1, highLog-lowLog))
	}
	// Each nine takes the same room: 90, 99, 99.9, 99.99.
	xOf := func(q float64) float64 { return left + width*(-math.Log10(1-min(q, 99.99)/100))/4 }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img">`, left+width+260, top+height+30)
	for e := lowLog; e <= highLog; e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" class="grid"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			left, left+width, y(v), y(v), left-6, y(v)+4, short(v))
	}
	for _, q := range []float64{50, 90, 99, 99.9, 99.99} {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" class="grid"/><text x="%.1f" y="%d" text-anchor="middle">%g%%</text>`,
			xOf(q), xOf(q), top, top+height, xOf(q), top+height+18, q)
	}
	for i, x := range runs {
		var points []string
		for _, p := range x.Latency {
			points = append(points, fmt.Sprintf("%.1f,%.1f", xOf(p.Quantile), y(float64(p.Micros))))
		}
		c := colours[i%len(colours)]
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, strings.Join(points, " "), c)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/><text x="%d" y="%d">%s</text>`,
			left+width+14, top+i*20, c, left+width+32, top+i*20+11, template.HTMLEscapeString(x.label()))
	}
	b.WriteString("</svg>")
	return b.String()
}
