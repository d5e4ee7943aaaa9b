package console

import (
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

// Languages of the console, the default first.
var languages = []string{"en", "zh"}

// zone is the clock pages show, printed with every time.
var zone = time.FixedZone("UTC+8", 8*60*60)

func loadWords() (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	for _, lang := range languages {
		text, err := files.ReadFile("words/" + lang + ".json")
		if err != nil {
			return nil, err
		}
		var m map[string]string
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("console: words of %s: %w", lang, err)
		}
		out[lang] = m
	}
	return out, nil
}

// language is the one chosen, or else the first that the browser asks for.
func (c *Console) language(r *http.Request) string {
	if cookie, err := r.Cookie(langCookie); err == nil && c.words[cookie.Value] != nil {
		return cookie.Value
	}
	for part := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		tag, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		short, _, _ := strings.Cut(strings.ToLower(tag), "-")
		if c.words[short] != nil {
			return short
		}
	}
	return languages[0]
}

// loadPages parses each page with the layout.
func loadPages() (map[string]*template.Template, error) {
	base, err := template.New("").ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return nil, err
	}
	out := map[string]*template.Template{}
	for _, name := range names {
		page := strings.TrimSuffix(path.Base(name), ".html")
		if page == "layout" || page == "parts" {
			continue
		}
		t, err := template.Must(base.Clone()).ParseFS(files, name)
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		out[page] = t
	}
	return out, nil
}

// T is a text in the page's language.
func (v *view) T(key string, args ...any) string {
	text, ok := v.c.words[v.Lang][key]
	if !ok {
		text = key
	}
	if len(args) > 0 {
		return fmt.Sprintf(text, args...)
	}
	return text
}

// W is the text of a fixed set of values, such as states; one that has no text
// of its own stands for itself.
func (v *view) W(set string, value any) string {
	key := set + "." + fmt.Sprint(value)
	if text, ok := v.c.words[v.Lang][key]; ok {
		return text
	}
	return fmt.Sprint(value)
}

// Explain is what to do about an error: our own words, or the API's.
func (v *view) Explain() string {
	if text, ok := v.c.words[v.Lang]["error."+v.Error.Code]; ok {
		return text
	}
	return v.Error.Detail
}

// Time is an instant with its zone; a missing one is a dash.
func (v *view) Time(t any) string {
	switch t := t.(type) {
	case time.Time:
		if !t.IsZero() {
			return t.In(zone).Format("2006-01-02 15:04:05 MST")
		}
	case *time.Time:
		if t != nil {
			return v.Time(*t)
		}
	}
	return "–"
}

// N is a number with its thousands apart.
func (v *view) N(n int64) string {
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

// Is reports whether the page belongs to a section of the menu.
func (v *view) Is(section string) bool {
	p := strings.TrimPrefix(v.r.URL.Path, Base)
	return p == section || section != "/" && strings.HasPrefix(p, section+"/")
}

// HTMLLang is the language in the page's own tag.
func (v *view) HTMLLang() string {
	if v.Lang == "zh" {
		return "zh-CN"
	}
	return v.Lang
}

// menuItem is a line of the menu.
type menuItem struct {
	Path, Text string
	On         bool
}

// Item is a line of the menu.
func (v *view) Item(path, key string) menuItem { return menuItem{path, v.T(key), v.Is(path)} }

// Here is where choosing a language comes back to: this page, or home after a
// post, whose answer is not to be asked for again.
func (v *view) Here() string {
	if v.r.Method == http.MethodGet {
		return v.r.URL.RequestURI()
	}
	return Base + "/"
}

// Plus is i counted from 1.
func (v *view) Plus(i int) int { return i + 1 }

// OnceAgain is the key of the page's form: the one that was sent, where the
// form is shown again because of an error, so that a repeated try is the same
// try; a fresh one otherwise.
func (v *view) OnceAgain() string {
	if sent := v.r.PostFormValue("once"); sent != "" && v.Error != nil && v.Error.Status >= 500 {
		return sent
	}
	return v.Once
}

// StatusClasses are the filters of the request log.
func (v *view) StatusClasses() []string { return []string{"2", "4", "5"} }

// Validity is how long a package lasts.
func (v *view) Validity(months int, seconds int64) string {
	switch {
	case months > 0:
		return v.T("months", months)
	case seconds > 0:
		return (time.Duration(seconds) * time.Second).String()
	}
	return v.T("forever")
}
