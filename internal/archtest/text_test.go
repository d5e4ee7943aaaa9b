package archtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tollgate/internal/testkit/checkout"
)

// oneMachine is text that only means something on the machine it was written
// on. The words are put together here so that this file does not match itself.
var oneMachine = []struct {
	what    string
	pattern *regexp.Regexp
	files   func(name string) bool // nil: all
}{
	{
		what:    "a path of one machine",
		pattern: regexp.MustCompile(`(^|[^A-Za-z0-9._~-])/(` + strings.Join([]string{"work", "root", "farm", "home/[a-z]+"}, "|") + `)/[A-Za-z.]`),
		files:   func(name string) bool { return !strings.HasSuffix(name, ".sum") },
	},
	{
		what:    "a download address in a lock file (set omit-lockfile-registry-resolved for npm)",
		pattern: regexp.MustCompile(`"resolved"\s*:`),
		files:   func(name string) bool { return filepath.Base(name) == "package-lock.json" },
	},
}

func TestTrackedFilesNameNoMachine(t *testing.T) {
	t.Parallel()
	root := checkout.Root(t)
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	var broken []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) { // removed, not yet committed
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		broken = append(broken, machineText(name, data)...)
	}
	report(t, broken)
}

// machineText returns where a tracked file names one machine.
func machineText(name string, data []byte) []string {
	if bytes.IndexByte(data, 0) >= 0 { // not text
		return nil
	}
	var broken []string
	for _, rule := range oneMachine {
		if rule.files != nil && !rule.files(name) {
			continue
		}
		for i, line := range bytes.Split(data, []byte("\n")) {
			if rule.pattern.Match(line) {
				broken = append(broken, fmt.Sprintf("%s:%d: %s: %s", name, i+1, rule.what, bytes.TrimSpace(line)))
			}
		}
	}
	return broken
}

// TestMachineTextIsSeen makes sure that the rules can fail.
func TestMachineTextIsSeen(t *testing.T) {
	t.Parallel()
	sep := "/"
	for _, tc := range []struct {
		name, text string
		want       int
	}{
		{name: "a.md", text: "in " + sep + "work/main", want: 1},
		{name: "a.md", text: "in " + sep + "root/.cache", want: 1},
		{name: "a.md", text: "in " + sep + "home/me/src", want: 1},
		{name: "a.md", text: "https://example.com" + sep + "work/with/us"},
		{name: "a.sh", text: "cd ../work/tree"},
		{name: "package-lock.json", text: `"resolved": "x"`, want: 1},
		{name: "other.json", text: `"resolved": "x"`},
		{name: "a.bin", text: "\x00" + sep + "work/main"},
	} {
		if got := machineText(tc.name, []byte(tc.text)); len(got) != tc.want {
			t.Errorf("%s %q: %q, want %d faults", tc.name, tc.text, got, tc.want)
		}
	}
}
