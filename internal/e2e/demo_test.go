package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tollgate/internal/testkit/process"
	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// TestDemoJSON holds the contract of demo.json: complete, for its owner only.
func TestDemoJSON(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	info, err := os.Stat(filepath.Join(n.Dir(), "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("demo.json has the mode %o, want 600", got)
	}
	for _, field := range empty(reflect.ValueOf(n.Demo), "") {
		t.Errorf("demo.json lacks %s", field)
	}
	if n.Demo.LLM.Unit != "call" || n.Demo.LLMTokens.Unit != "token" {
		t.Errorf("units %q and %q, want call and token", n.Demo.LLM.Unit, n.Demo.LLMTokens.Unit)
	}
	for _, subscription := range []string{n.Demo.LLM.SubscriptionID, n.Demo.LLMTokens.SubscriptionID, n.Demo.API.SubscriptionID} {
		q, err := readQuota(t.Context(), t, n, subscription)
		if err != nil {
			t.Fatal(err)
		}
		if q.Granted < 10_000 || q.Granted != q.Remaining+q.Leased {
			t.Errorf("a fresh subscription: %+v, want packages of 10000 units, nothing used", q)
		}
	}
}

// empty returns the names of the zero fields below v.
func empty(v reflect.Value, path string) []string {
	var names []string
	for i := range v.NumField() {
		name := path + v.Type().Field(i).Name
		switch field := v.Field(i); {
		case field.Kind() == reflect.Struct:
			names = append(names, empty(field, name+".")...)
		case field.IsZero():
			names = append(names, name)
		}
	}
	return names
}

// TestPrintedLinesWork runs what `serve --demo` prints to try, as a newcomer
// would paste it.
func TestPrintedLinesWork(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	curl := process.Find(t, "curl", "curl")
	var lines []string
	wait.Until(t, 10*time.Second, "the lines to try", func(context.Context) error {
		if lines = curlLines(n.Process().Output()); len(lines) == 0 {
			return fmt.Errorf("no line to try in:\n%s", n.Process().Output())
		}
		return nil
	})
	for _, want := range []string{"sign --demo", "X-Apig-AppCode", "OpenAI(base_url=\"" + n.Demo.LLM.BaseURL} {
		if !strings.Contains(n.Process().Output(), want) {
			t.Errorf("the printed text does not tell of %s", want)
		}
	}
	for _, line := range lines {
		if program, rest, ok := strings.Cut(line, " sign "); ok && program == "go run ." {
			signed, exit := process.Run(t, time.Minute, process.Spec{
				Path: "/bin/sh", Args: []string{"-c", tollgate.Binary(t) + " sign " + strings.TrimSuffix(rest, "| sh")}, Dir: t.TempDir(),
			})
			if line = strings.TrimSpace(signed.Stdout()); exit != 0 || !strings.HasPrefix(line, "curl ") {
				t.Errorf("%s\nended with code %d: %s", rest, exit, signed.Output())
				continue
			}
		}
		// The status goes where the body cannot be mistaken for it.
		line = strings.Replace(line, "curl ", curl+` -sS --fail-with-body -o /dev/null -w '%{http_code}' `, 1)
		p, exit := process.Run(t, time.Minute, process.Spec{Path: "/bin/sh", Args: []string{"-c", line}, Dir: t.TempDir()})
		if exit != 0 || p.Stdout() != "200" {
			t.Errorf("%s\nended with code %d: %s", line, exit, p.Output())
		}
	}
}

// curlLines returns the commands in a text that call something, continuation
// lines joined.
func curlLines(text string) []string {
	var lines []string
	for scanner := bufio.NewScanner(strings.NewReader(strings.ReplaceAll(text, "\\\n", " "))); scanner.Scan(); {
		line := strings.TrimPrefix(strings.TrimSpace(scanner.Text()), "$ ")
		if strings.HasPrefix(line, "curl ") || strings.HasPrefix(line, "go run . sign ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestRestartKeepsEverything proves that a second start on the same data, after
// a drain and after a kill, neither loses nor seeds anything again.
func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 100})
	before := n.Demo
	calls := int64(0)
	for round, end := range []func(){
		func() {
			if exit := n.Terminate(); exit != 0 {
				t.Fatalf("SIGTERM: exit code %d, want 0", exit)
			}
		},
		n.Kill,
		n.Kill,
	} {
		for range 5 {
			if status := chat(t, n.Demo.LLM, nil); status != http.StatusOK {
				t.Fatalf("round %d: status %d", round, status)
			}
			calls++
		}
		// A counted call is in the journal before its last byte leaves, so it
		// survives even when nothing was settled yet.
		end()
		n.Restart()
		q := waitUsed(t, n, n.Demo.LLM.SubscriptionID, calls)
		if q.Granted != 100 {
			t.Errorf("round %d: %d units granted, want the 100 of the first start", round, q.Granted)
		}
	}
	same := []string{before.OperatorToken, before.BuyerToken, before.SellerToken, before.LLM.APIKey, before.LLM.SubscriptionID, before.API.AppKey, before.API.AppSecret, before.API.AppCode}
	now := []string{n.Demo.OperatorToken, n.Demo.BuyerToken, n.Demo.SellerToken, n.Demo.LLM.APIKey, n.Demo.LLM.SubscriptionID, n.Demo.API.AppKey, n.Demo.API.AppSecret, n.Demo.API.AppCode}
	if diff := cmp.Diff(same, now); diff != "" {
		t.Errorf("the restart changed credentials: %s", diff)
	}
	before.LLM.BaseURL = n.Demo.LLM.BaseURL // the port is another
	if status := chat(t, before.LLM, nil); status != http.StatusOK {
		t.Errorf("the key of the first start: status %d", status)
	}
}

// TestCtrlCDrains proves that an interrupted node finishes what runs, takes
// nothing new, and ends with 0.
func TestCtrlCDrains(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Units: 100})
	req := chatRequest(t, n.Demo.LLM, streamBody, steer{"X-Mock-Chunks": "40", "X-Mock-Chunk-Delay": "50ms"})
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := bufio.NewReader(resp.Body)
	if _, err := body.ReadString('\n'); err != nil { // it runs
		t.Fatal(err)
	}
	var done bool
	finished := make(chan error, 1)
	go func() {
		for {
			line, err := body.ReadString('\n')
			if strings.TrimSpace(line) == "data: [DONE]" {
				done = true
			}
			if err != nil {
				finished <- err
				return
			}
		}
	}()
	if exit := n.Interrupt(); exit != 0 {
		t.Errorf("Ctrl-C: exit code %d, want 0", exit)
	}
	if err := <-finished; err.Error() != "EOF" || !done {
		t.Errorf("the running stream ended with %v, [DONE] seen: %v", err, done)
	}
	if _, err := http.Get(n.Demo.GatewayURL + "/healthz"); err == nil {
		t.Error("the ended node still answers")
	}
	n.Restart()
	waitUsed(t, n, n.Demo.LLM.SubscriptionID, 1)
}

// TestDataFolderIsPrivate: keys, journals and snapshots are for their owner.
func TestDataFolderIsPrivate(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{Dir: filepath.Join(t.TempDir(), "data")})
	err := filepath.WalkDir(n.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if others := info.Mode().Perm() & 0o077; others != 0 && info.Mode().IsRegular() {
			t.Errorf("%s is open to others: mode %o", strings.TrimPrefix(path, n.Dir()), info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
