package report

import "time"

// point is one day.
type point struct {
	At    time.Time
	Value int64
}

// bar is a point's place in the drawing.
type bar struct {
	X, Y, Width, Height int
	Label, Value        string
}

// chart is a bar chart with its geometry worked out, for the template to draw.
type chart struct {
	Title  string
	Bars   []bar
	Most   string // value at the top line
	First  string
	Last   string
	Width  int
	Height int
	Base   int // y of the axis
}

// Geometry in SVG units.
const (
	chartWidth, chartHeight = 720, 180
	chartTop, chartBase     = 24, 150
	chartLeft               = 8
)

// bars lays the points out over whole days: a day without calls leaves a gap.
func bars(title string, points []point) chart {
	c := chart{Title: title, Width: chartWidth, Height: chartHeight, Base: chartBase}
	if len(points) == 0 {
		return c
	}
	first, most := points[0].At, int64(1)
	day := func(t time.Time) int {
		y, m, d := t.Date()
		fy, fm, fd := first.Date()
		return int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Sub(time.Date(fy, fm, fd, 0, 0, 0, 0, time.UTC)) / (24 * time.Hour))
	}
	for _, p := range points {
		most = max(most, p.Value)
	}
	days := day(points[len(points)-1].At) + 1
	slot := float64(chartWidth-2*chartLeft) / float64(days)
	for _, p := range points {
		h := int(float64(chartBase-chartTop) * float64(p.Value) / float64(most))
		if p.Value > 0 {
			h = max(h, 1)
		}
		c.Bars = append(c.Bars, bar{
			X: chartLeft + int(slot*float64(day(p.At))), Y: chartBase - h, Width: min(max(int(slot*0.8), 1), 60), Height: h,
			Label: p.At.Format(time.DateOnly), Value: thousands(p.Value),
		})
	}
	c.Most, c.First, c.Last = thousands(most), c.Bars[0].Label, c.Bars[len(c.Bars)-1].Label
	return c
}
