package report

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample(language string) *Report {
	day := func(d int) *time.Time { t := time.Date(2026, 10, 31+d, 16, 0, 0, 0, time.UTC); return &t }
	totals := func(n int64) Totals {
		return Totals{Requests: n, Counted: n - 1, Errors: 1, Units: map[string]int64{"token": n * 1000}, Charged: map[string]int64{"call": n - 1, "token": n * 999}}
	}
	at := time.Date(2026, 11, 4, 1, 2, 3, 0, time.UTC)
	return &Report{
		Language: language, From: *day(0), To: *day(4), Made: at, Zone: "Asia/Shanghai", Subscriptions: []string{"SUB-1", "SUB-2"},
		Days:   Figures{AsOf: &at, Rows: []Row{{Start: day(0), Totals: totals(10)}, {Start: day(1), Totals: totals(1234)}, {Start: day(3), Totals: totals(2)}}, Total: totals(1246)},
		Groups: []Group{{By: "model", Figures: Figures{Rows: []Row{{Group: `<script>alert("x")</script>`, Totals: totals(7)}, {Totals: totals(3)}}}}, {By: "api"}},
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for _, language := range Languages {
		var b strings.Builder
		if err := Write(&b, sample(language)); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", language+".html")
		if *update {
			if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), b.String()); d != "" {
			t.Errorf("%s (-golden +now; -update writes it anew):\n%s", language, d)
		}
		// Well-formed, nothing from outside, and no name of a caller's is markup.
		dec := xml.NewDecoder(strings.NewReader(b.String()))
		dec.Entity = xml.HTMLEntity
		bars := 0
		for {
			tok, err := dec.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if e, ok := tok.(xml.StartElement); ok {
				switch e.Name.Local {
				case "rect":
					bars++
				case "script", "link", "img", "iframe":
					t.Errorf("the page holds a %s", e.Name.Local)
				}
			}
		}
		if bars != 4*3 {
			t.Errorf("%d bars, want 3 days in each of 4 charts", bars)
		}
		if strings.Contains(b.String(), "http://") || strings.Contains(b.String(), "https://") {
			t.Error("the page refers to something outside itself")
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	if err := Write(io.Discard, &Report{Language: "fr"}); err == nil || !strings.Contains(err.Error(), "en, zh") {
		t.Error(err)
	}
	if err := Write(io.Discard, &Report{Language: "en", Zone: "Mars/Olympus"}); err == nil || !strings.Contains(err.Error(), "IANA") {
		t.Error(err)
	}
	var b strings.Builder
	if err := Write(&b, &Report{Language: "en"}); err != nil || !strings.Contains(b.String(), "No calls") {
		t.Errorf("nothing: %v", err)
	}
}

// TestBars holds the drawing: the greatest day reaches the top, days without
// calls are gaps, and something is seen of the smallest.
func TestBars(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	c := bars("x", []point{{at, 1}, {at.AddDate(0, 0, 1), 0}, {at.AddDate(0, 0, 9), 1_000_000}})
	if c.Bars[0].Height != 1 || c.Bars[1].Height != 0 || c.Bars[2].Y != chartTop {
		t.Errorf("%+v", c.Bars)
	}
	if gap := c.Bars[2].X - c.Bars[0].X; gap < 600 || c.Bars[2].X+c.Bars[2].Width > chartWidth {
		t.Errorf("the tenth day is %d from the first: %+v", gap, c.Bars)
	}
}
