package notify

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden texts anew")

// TestGoldenTexts: every kind reads in both languages as it did when somebody
// last looked at it.
func TestGoldenTexts(t *testing.T) {
	t.Parallel()
	for _, lang := range Languages {
		var b strings.Builder
		for _, k := range Kinds {
			text, err := render(k.Name, lang, k.Sample)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "=== %s (%s, %s)\n%s\n\n%s\n\n", k.Name, k.Category, k.Rule, text.Subject, text.Body)
		}
		file := filepath.Join("testdata", "texts."+lang+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), b.String()); d != "" {
			t.Error(d)
		}
	}
}

// fields finds the variables of a template.
var fields = regexp.MustCompile(`\.([a-z_]+)`)

// TestTextsAgree: both languages tell the same variables, Chinese stands in the
// Chinese ones only, each kind has a category, and no sample is missing or idle.
func TestTextsAgree(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds {
		if _, ok := category(k.Category); !ok {
			t.Errorf("%s: category %q is none", k.Name, k.Category)
		}
		used := map[string]map[string]bool{}
		for _, lang := range Languages {
			b, err := templateFiles.ReadFile("templates/" + k.Name + "." + lang + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			used[lang] = map[string]bool{}
			for _, action := range regexp.MustCompile(`\{\{[^}]*\}\}`).FindAllString(string(b), -1) {
				for _, f := range fields.FindAllStringSubmatch(action, -1) {
					used[lang][f[1]] = true
				}
			}
			han := strings.IndexFunc(string(b), func(r rune) bool { return unicode.Is(unicode.Han, r) }) >= 0
			if han != (lang == "zh") {
				t.Errorf("%s.%s: Chinese in it: %v", k.Name, lang, han)
			}
		}
		if d := cmp.Diff(used["zh"], used["en"]); d != "" {
			t.Errorf("%s: the languages differ:\n%s", k.Name, d)
		}
		for name := range used["en"] {
			if _, ok := k.Sample[name]; !ok {
				t.Errorf("%s: no sample of %s", k.Name, name)
			}
		}
	}
	if d := cmp.Diff(keys(words["zh"]), keys(words["en"])); d != "" {
		t.Errorf("words:\n%s", d)
	}
}

func keys(m map[string]string) map[string]bool {
	all := map[string]bool{}
	for k := range m {
		all[k] = true
	}
	return all
}

func TestOverflowAndStopReadDifferently(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"low_quota", "used_up"} {
		for _, lang := range Languages {
			stop, err := render(kind, lang, alertSample(false))
			if err != nil {
				t.Fatal(err)
			}
			over, err := render(kind, lang, alertSample(true))
			if err != nil {
				t.Fatal(err)
			}
			pay := map[string]string{"zh": "按量付费", "en": "pay-per-use"}[lang]
			if stop.Body == over.Body || !strings.Contains(over.Body, pay) || strings.Contains(stop.Body, pay) {
				t.Errorf("ALERT-26, %s in %s:\n%s\n%s", kind, lang, stop.Body, over.Body)
			}
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	if _, err := render("top_up", "en", map[string]any{"amount": int64(1)}); err == nil {
		t.Error("a text without its balance")
	}
	if _, err := render("top_up", "fr", nil); err == nil {
		t.Error("a language nobody wrote")
	}
	data := map[string]any{"order": "1", "product": "Evil\r\nBcc: all@example.com", "spec": "x", "amount": int64(1), "balance": int64(2)}
	text, err := render("order_paid", "en", data)
	if err != nil || strings.ContainsAny(text.Subject, "\r\n") {
		t.Errorf("subject %q, %v", text.Subject, err)
	}
}

func TestGroup(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 1 << 62: "4,611,686,018,427,387,904"} {
		if got := group(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
