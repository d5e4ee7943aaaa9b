package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"tollgate/internal/apisign/signtest"
)

const (
	signKey    = "testAppKey0123456789abcdef"
	signSecret = "testAppSecret-9876543210"
	signAuth   = "Authorization: SDK-HMAC-SHA256 Access=" + signKey + ", SignedHeaders="
	sigV1      = "3ba8cf0fe831ff8396f25296cc047d9f275908f5bffc628e2b365493c17c0431" // vector V1
	sigV3      = "ed68e246a56d5d4ed9fd34334ff5df28813d0ae6bd0e0caa83c81c67868b2372" // vector V3
	sigV4      = "eed15b4990ae60edc89dad8e696aebf334407cd03bd384e52a4ff7da5298d2de" // vector V4
)

// runSign parses args as the command line of `tollgate sign` and runs it.
func runSign(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var c Sign
	var out bytes.Buffer
	parser, err := kong.New(&c, kong.Writers(&out, &out), kong.Exit(func(int) { t.Fatal("kong exits") }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		return "", err
	}
	now := func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	err = c.run(&out, strings.NewReader(stdin), now)
	return out.String(), err
}

// TestSignGolden holds the output to the test vectors of gateway-wire 1.8.
func TestSignGolden(t *testing.T) {
	t.Setenv("TOLLGATE_APP_KEY", signKey)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	write(t, secret, signSecret+"\n")
	t.Setenv("TOLLGATE_APP_SECRET", "file:"+secret)
	data := filepath.Join(dir, "it's data.json")
	write(t, data, `{"model":"m","messages":[]}`)
	demo := filepath.Join(dir, "demo.json")
	write(t, demo, `{"api":{"url":"https://api.example.com/v1","app_key":"`+signKey+`","app_secret":"`+signSecret+`"}}`)

	for _, tt := range []struct {
		name  string
		args  []string
		stdin string
		want  string
	}{
		{
			name: "headers of V1", args: []string{"--format", "headers", "https://api.example.com/v1/hello"},
			want: "X-Sdk-Date: 20260102T030405Z\n" + signAuth + "host;x-sdk-date, Signature=" + sigV1 + "\n",
		},
		{
			name: "curl of V1", args: []string{"https://api.example.com/v1/hello"},
			want: "curl -H 'X-Sdk-Date: 20260102T030405Z' -H '" + signAuth + "host;x-sdk-date, Signature=" + sigV1 + "' https://api.example.com/v1/hello\n",
		},
		{
			name: "V1 with the demo file", args: []string{"--demo", demo, "--format", "headers", "/hello"},
			want: "X-Sdk-Date: 20260102T030405Z\n" + signAuth + "host;x-sdk-date, Signature=" + sigV1 + "\n",
		},
		{
			name: "curl of V3: data literal", args: []string{"-H", "X-Stage: RELEASE", "-d", `{"model":"m","messages":[]}`, "https://api.example.com/v1/chat/completions"},
			want: "curl -H 'Content-Type: application/json' -H 'X-Stage: RELEASE' -H 'X-Sdk-Date: 20260102T030405Z' -H '" + signAuth +
				"content-type;host;x-sdk-date;x-stage, Signature=" + sigV3 + `' --data-raw '{"model":"m","messages":[]}' https://api.example.com/v1/chat/completions` + "\n",
		},
		{
			name: "curl of V3: data from a file whose name wants quoting", args: []string{"-X", "post", "-H", "X-Stage: RELEASE", "-d", "@" + data, "https://api.example.com/v1/chat/completions"},
			want: "curl -H 'Content-Type: application/json' -H 'X-Stage: RELEASE' -H 'X-Sdk-Date: 20260102T030405Z' -H '" + signAuth +
				"content-type;host;x-sdk-date;x-stage, Signature=" + sigV3 + "' --data-binary '@" + strings.ReplaceAll(data, "'", `'\''`) + "' https://api.example.com/v1/chat/completions\n",
		},
		{
			name: "V4: unsigned payload from standard input", args: []string{"--unsigned-payload", "-H", "Content-Type: text/plain", "-d", "@-", "https://api.example.com/upload"}, stdin: "hello",
			want: "curl -H 'Content-Type: text/plain' -H 'X-Sdk-Content-Sha256: UNSIGNED-PAYLOAD' -H 'X-Sdk-Date: 20260102T030405Z' -H '" + signAuth +
				"content-type;host;x-sdk-content-sha256;x-sdk-date, Signature=" + sigV4 + "' --data-raw hello https://api.example.com/upload\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := runSign(t, tt.stdin, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// TestSignDate proves that --date wins over the clock: the same instant gives
// the vector's signature, another one does not.
func TestSignDate(t *testing.T) {
	for date, same := range map[string]bool{"20260102T030405Z": true, "20260102T030406Z": false} {
		out, err := runSign(t, "", "--app-key", signKey, "--app-secret", signSecret, "--date", date, "https://api.example.com/v1/hello")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, "X-Sdk-Date: "+date) || strings.Contains(out, sigV1) != same {
			t.Errorf("--date %s: %s", date, out)
		}
	}
}

// TestSignErrors holds every error to name its remedy.
func TestSignErrors(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	write(t, empty, "\n")
	notDemo := filepath.Join(dir, "other.json")
	write(t, notDemo, "{}")
	with := func(args ...string) []string {
		return append([]string{"--app-key", signKey, "--app-secret", signSecret}, args...)
	}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no key", []string{"http://h/"}, "TOLLGATE_APP_KEY"},
		{"no secret", []string{"--app-key", signKey, "http://h/"}, "TOLLGATE_APP_SECRET"},
		{"no url", with(), "give the URL"},
		{"url without scheme", with("h/x"), "http://"},
		{"impossible key", []string{"--app-key", "a b", "--app-secret", "s", "http://h/"}, "AppKey"},
		{"date", with("--date", "2026-01-02", "http://h/"), "20060102T150405Z"},
		{"header without colon", with("-H", "X-A", "http://h/"), "Name: value"},
		{"header with a line break", with("-H", "X-A: b\r\nX-B: c", "http://h/"), "Name: value"},
		{"header the signature sets", with("-H", "authorization: x", "http://h/"), "signature sets"},
		{"data file missing", with("-d", "@"+filepath.Join(dir, "none"), "http://h/"), "none"},
		{"empty secret file", []string{"--app-key", signKey, "--app-secret", "file:" + empty, "http://h/"}, "is empty"},
		{"no demo file", []string{"--demo", filepath.Join(dir, "none.json")}, "serve --demo"},
		{"another file as demo", []string{"--demo", notDemo}, "serve --demo"},
		{"head with a body", with("-X", "HEAD", "-d", "x", "http://h/"), "HEAD"},
		{"zero byte", with("-d", "a\x00b", "http://h/"), "@FILE"},
		{"format", with("--format", "xml", "http://h/"), "curl"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := runSign(t, "", tt.args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q; output %s", err, tt.want, out)
			}
			if err != nil && strings.Contains(err.Error(), signSecret) {
				t.Error("the error shows the secret")
			}
		})
	}
}

// TestSignCurlRuns pastes the printed line into a real shell with a real curl
// and has a real server check the signature.
func TestSignCurlRuns(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: install it, this test runs the printed line", err)
		}
	}
	srv := signtest.New(t, signKey, signSecret)
	srv.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	dir := t.TempDir()
	data := filepath.Join(dir, "it's data")
	write(t, data, "line\nline\r\n\x00end")
	for _, tt := range []struct {
		name string
		args []string // the URL last, without scheme and host
		body int
	}{
		{"get", []string{"/v1/hello"}, 0},
		{"root", []string{""}, 0},
		{"query", []string{"/q?b=2&a=1&a=0&empty=&bare&zh=中文&plus=a+b&sp=a%20b&sl=a%2Fb"}, 0},
		{"braces and brackets", []string{"/q[1-2]?x={a,b}&y=$HOME`id`"}, 0},
		{"quotes", []string{"-H", "X-Note: it's \"$HOME\" `id` \\ 中文", "/q?x='"}, 0},
		{"escaped slash", []string{"/a%2Fb"}, 0},
		{"chinese path", []string{"/天气/a b"}, 0},
		{"double slash", []string{"//a//b/"}, 0},
		{"dots in a name", []string{"/.well-known/x..y"}, 0},
		{"two values", []string{"-H", "X-A: b", "-H", "X-A: a", "/"}, 0},
		{"host", []string{"-H", "Host: api.example.com", "/"}, 0},
		{"json", []string{"-d", `{"it's":"$1"}`, "/p"}, 13},
		{"at sign inside", []string{"-d", "x@y", "/p"}, 3},
		{"line breaks", []string{"-d", "a\nb\n", "/p"}, 4},
		{"empty body", []string{"-d", "", "/p"}, 0},
		{"file", []string{"-d", "@" + data, "/p"}, 15},
		{"unsigned", []string{"--unsigned-payload", "-d", "@" + data, "/p"}, 15},
		{"delete", []string{"-X", "DELETE", "/p"}, 0},
		{"put", []string{"-X", "PUT", "-d", "x", "/p"}, 1},
		{"get with body", []string{"-X", "GET", "-d", "x", "/p"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"--app-key", signKey, "--app-secret", signSecret}, tt.args...)
			args[len(args)-1] = srv.URL + args[len(args)-1]
			line, err := runSign(t, "", args...)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.TrimSpace(line)+" -sS --max-time 10 --noproxy '*'")
			cmd.Env = append(os.Environ(), "HOME=/wrong")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
			var a signtest.Answer
			if err := json.Unmarshal(out, &a); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
			if !a.OK || a.BodyBytes != tt.body {
				t.Errorf("%s\n%s", line, out)
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
