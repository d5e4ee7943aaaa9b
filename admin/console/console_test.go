package console

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// TestVendoredScript holds the hash of htmx.org 4.0.1, dist/htmx.min.js.
func TestVendoredScript(t *testing.T) {
	t.Parallel()
	text, err := files.ReadFile("static/htmx-4.0.1.min.js")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	if got := hex.EncodeToString(sum[:]); got != "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130" {
		t.Errorf("htmx has the hash %s", got)
	}
}

// TestWords: both languages have the same keys and placeholders, every text a
// page names is there, and no page has Chinese of its own.
func TestWords(t *testing.T) {
	t.Parallel()
	words, err := loadWords()
	if err != nil {
		t.Fatal(err)
	}
	holes := regexp.MustCompile(`%[sd]`)
	for key, en := range words["en"] {
		zh, ok := words["zh"][key]
		if !ok || zh == "" || en == "" {
			t.Errorf("%s lacks a text", key)
		}
		if a, b := fmt.Sprint(holes.FindAllString(en, -1)), fmt.Sprint(holes.FindAllString(zh, -1)); a != b {
			t.Errorf("%s: placeholders %s and %s", key, a, b)
		}
		if strings.ContainsFunc(en, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
			t.Errorf("%s: Chinese in the English text", key)
		}
	}
	if len(words["en"]) != len(words["zh"]) {
		t.Errorf("%d English and %d Chinese texts", len(words["en"]), len(words["zh"]))
	}
	var all strings.Builder
	err = fs.WalkDir(files, "templates", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	source := all.String()
	if strings.ContainsFunc(source, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
		t.Error("Chinese in a template")
	}
	for _, m := range regexp.MustCompile(`(?:\.T|\.Item "[^"]*") "([^"]+)"`).FindAllStringSubmatch(source, -1) {
		if words["en"][m[1]] == "" {
			t.Errorf("no text for %q", m[1])
		}
	}
	pages, err := loadPages()
	if err != nil {
		t.Fatal(err)
	}
	for page := range pages {
		if words["en"]["title."+page] == "" {
			t.Errorf("page %s has no title", page)
		}
	}
}

func TestUnitPrice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		price       string
		amount, per int64
		want        string
	}{
		{"99.00", 10_000, 1000, "9.90"},
		{"1", 3, 1000, "333.333333"},
		{"0", 5, 1000, "0.00"},
		{"99", 0, 1000, ""},
		{"9000000000000", 1, 1_000_000, ""},
	} {
		if got := unitPrice(c.price, c.amount, c.per); got != c.want {
			t.Errorf("unitPrice(%s, %d, %d) = %q, want %q", c.price, c.amount, c.per, got, c.want)
		}
	}
}

func TestPictures(t *testing.T) {
	t.Parallel()
	bars := stacked([]int64{1, 0, 499_999, 500_000}, 1_000_000)
	var end int64
	for _, b := range bars {
		if b.X != end || b.W < 1 {
			t.Errorf("bar %+v does not follow at %d", b, end)
		}
		end = b.X + b.W
	}
	if len(bars) != 3 || end > 1000 {
		t.Errorf("bars %+v", bars)
	}
	for _, b := range columns([]int64{0, 1, 1 << 62}, []string{"a", "b", "c"}) {
		if b.Y+b.H != 100 || b.H < 0 || b.H > 100 {
			t.Errorf("column %+v", b)
		}
	}
}

func TestSafety(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"/console/keys": "/console/keys", "": Base + "/", "https://evil.example/": Base + "/", "//evil.example/console/": Base + "/",
		"/console/\\evil": Base + "/", "/consoleevil": Base + "/",
	} {
		if got := local(next); got != want {
			t.Errorf("local(%q) = %q, want %q", next, got, want)
		}
	}
	for _, text := range []string{"=1+1", "+1", "-1", "@x"} {
		if inert(text) != "'"+text {
			t.Errorf("%q would be run by a spreadsheet", text)
		}
	}
	for host, want := range map[string]bool{"localhost:8081": false, "127.0.0.1:8081": false, "[::1]:80": false, "admin.example.com": true, "10.0.0.1:8081": true} {
		r := httptest.NewRequest("GET", "http://"+host+"/console/", nil)
		if got := (&Console{secure: "auto"}).isSecure(r); got != want {
			t.Errorf("cookies of %s secure = %v", host, got)
		}
	}
}
