package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"tollgate/internal/testkit/checkout"
	"tollgate/internal/testkit/process"
	"tollgate/internal/testkit/tollgate"
	"tollgate/internal/testkit/wait"
)

// prometheus is a running Prometheus that scrapes one node several times a
// second and evaluates the rules of deploy/prometheus.
type prometheus struct{ base string }

// startPrometheus starts one, with its data in a fresh folder.
func startPrometheus(t *testing.T, metricsURL string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	at, err := url.Parse(metricsURL)
	if err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(checkout.Root(t), "deploy", "prometheus")
	conf := fmt.Sprintf(`
global: {scrape_interval: 250ms, evaluation_interval: 250ms}
rule_files: [%q, %q]
scrape_configs:
  - job_name: tollgate
    static_configs: [{targets: [%q]}]
`, filepath.Join(rules, "recording.rules.yml"), filepath.Join(rules, "alerts.rules.yml"), at.Host)
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := fmt.Sprintf("127.0.0.1:%d", process.FreePort(t))
	process.Start(t, process.Spec{
		Path: process.Find(t, "prometheus", "prometheus"), Dir: dir,
		Args: []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + listen},
	})
	return &prometheus{base: "http://" + listen}
}

// query returns how many series expr has now.
func (p *prometheus) query(ctx context.Context, expr string) (series int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.base+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, fmt.Errorf("%s: %w", resp.Status, err)
	}
	if answer.Status != "success" {
		return 0, fmt.Errorf("%s: %s", resp.Status, answer.Error)
	}
	return len(answer.Data.Result), nil
}

// dashboard is what these tests read of a Grafana dashboard.
type dashboard struct {
	UID, Title string
	Templating struct {
		List []struct{ Name, Definition string }
	}
	Panels []struct {
		ID          int
		Title, Type string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr string }
	}
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(checkout.Root(t), "deploy", "grafana", "*.json"))
	if err != nil || len(files) < 4 {
		t.Fatalf("dashboards: %v, %v", files, err)
	}
	all := make(map[string]dashboard)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all[filepath.Base(f)] = d
	}
	return all
}

// metricNames finds the names of metrics in an expression or on a page of
// metrics: everything of ours, and of the Go and process collectors.
var metricNames = regexp.MustCompile(`\b(?:[a-z]+:)?(?:tollgate|gen_ai|go|process)[_:][a-z0-9_:]+\b`)

// served returns the names a page of metrics serves, histograms with the
// suffixes of their series.
func served(page []byte) map[string]bool {
	names := make(map[string]bool)
	for line := range strings.Lines(string(page)) {
		var name, kind string
		if _, err := fmt.Sscanf(line, "# TYPE %s %s", &name, &kind); err != nil {
			continue
		}
		names[name] = true
		if kind == "histogram" {
			names[name+"_bucket"], names[name+"_sum"], names[name+"_count"] = true, true, true
		}
	}
	return names
}

// labelNames are in queries but are no metrics.
var labelNames = []string{"gen_ai_token_type", "gen_ai_operation_name"}

// ruleFile is what these tests read of a file of rules and of their tests.
type ruleFile struct {
	Groups []struct {
		Rules []struct {
			Record, Alert, Expr string
			Labels, Annotations map[string]string
		}
	}
	Tests []struct {
		Alerts []struct {
			Alertname string
			Exp       []any `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

func readRules(t *testing.T, name string) (r ruleFile) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(checkout.Root(t), "deploy", "prometheus", name))
	if err == nil {
		err = yaml.Unmarshal(text, &r)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r
}

// TestDashboardsShowARunningNode: after some traffic every query of every panel
// is answered by a real Prometheus that scrapes a real node, with series in it.
// A name, a label or a function that does not exist shows here as an empty or
// refused query.
func TestDashboardsShowARunningNode(t *testing.T) {
	t.Parallel()
	n := tollgate.Start(t, tollgate.Options{})
	p := startPrometheus(t, n.Demo.AdminURL)
	traffic := func() {
		for _, headers := range []steer{nil, {"X-Mock-Status": "503"}, {"X-Mock-Status": "404"}} {
			chat(t, n.Demo.LLM, headers)
		}
		chatStatus(t, n.Demo.LLMTokens, streamBody, nil)
		bad := n.Demo.LLM
		bad.APIKey = "sk-wrong"
		chat(t, bad, nil)
	}
	traffic()
	_, page := send(t, http.DefaultClient, newRequest(t, n.Demo.AdminURL+"/metrics", "", nil))
	names := served(page)
	for _, r := range rules(t) {
		if r.Record != "" {
			names[r.Record] = true
		}
	}
	values := strings.NewReplacer("$__rate_interval", "5s", "$instance", ".*", "$product", ".*")
	wait.Until(t, 30*time.Second, "two scrapes of the traffic", func(ctx context.Context) error {
		traffic()
		if got, err := p.query(ctx, `sum(rate(tollgate_requests_total[5s])) > 0`); err != nil || got == 0 {
			return fmt.Errorf("%d series, %w", got, err)
		}
		return nil
	})
	for file, d := range dashboards(t) {
		if d.UID == "" || d.Title == "" {
			t.Errorf("%s has no uid or no title", file)
		}
		var exprs []string
		for _, panel := range d.Panels {
			if panel.Type != "row" && len(panel.Targets) == 0 {
				t.Errorf("%s: panel %q asks nothing", file, panel.Title)
			}
			if panel.GridPos.X+panel.GridPos.W > 24 || panel.GridPos.H == 0 {
				t.Errorf("%s: panel %q does not fit the grid: %+v", file, panel.Title, panel.GridPos)
			}
			for _, target := range panel.Targets {
				exprs = append(exprs, target.Expr)
			}
		}
		for _, expr := range exprs {
			for _, name := range metricNames.FindAllString(expr, -1) {
				if !names[name] && !slices.Contains(labelNames, name) {
					t.Errorf("%s: no metric %s is served: %s", file, name, expr)
				}
			}
			wait.Until(t, 20*time.Second, "series for "+expr, func(ctx context.Context) error {
				traffic() // rates need calls within their window
				got, err := p.query(ctx, values.Replace(expr))
				if err == nil && got == 0 {
					err = fmt.Errorf("no series")
				}
				return err
			})
		}
		for _, v := range d.Templating.List {
			var metric, label string
			if m := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Definition); m != nil {
				metric, label = m[1], m[2]
			} else if v.Definition != "" {
				t.Errorf("%s: variable %s: %s is not understood here", file, v.Name, v.Definition)
				continue
			} else {
				continue
			}
			if got, err := p.query(t.Context(), fmt.Sprintf(`count by (%s) (%s{%s!=""})`, label, metric, label)); err != nil || got == 0 {
				t.Errorf("%s: variable %s has no values: %v", file, v.Name, err)
			}
		}
	}
	// The rules are evaluated without an error by the same Prometheus.
	var state struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	wait.Until(t, 20*time.Second, "every rule evaluated", func(ctx context.Context) error {
		req := newRequest(t, p.base+"/api/v1/rules", "", nil).WithContext(ctx)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&state); err != nil {
			return err
		}
		count := 0
		for _, g := range state.Data.Groups {
			for _, r := range g.Rules {
				count++
				if r.Health != "ok" {
					return fmt.Errorf("rule %s is %s: %s", r.Name, r.Health, r.LastError)
				}
			}
		}
		if want := len(rules(t)); count != want {
			return fmt.Errorf("%d rules, want %d", count, want)
		}
		return nil
	})
	for _, r := range rules(t) {
		for _, name := range metricNames.FindAllString(r.Expr, -1) {
			if !names[name] && !slices.Contains(labelNames, name) {
				t.Errorf("rule %s%s asks for %s, which is not served", r.Record, r.Alert, name)
			}
		}
	}
}

// rule is a recording or an alerting rule.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

// rules returns every rule of deploy/prometheus.
func rules(t *testing.T) (all []rule) {
	t.Helper()
	for _, file := range []string{"recording.rules.yml", "alerts.rules.yml"} {
		for _, g := range readRules(t, file).Groups {
			for _, r := range g.Rules {
				all = append(all, rule(r))
			}
		}
	}
	return all
}

// TestRules: promtool finds the rules right, each alert fires in one of their
// tests and is silent in another, and names a runbook that is there.
func TestRules(t *testing.T) {
	t.Parallel()
	promtool := process.Find(t, "promtool", "prometheus")
	dir := filepath.Join(checkout.Root(t), "deploy", "prometheus")
	for _, args := range [][]string{
		{"check", "rules", "recording.rules.yml", "alerts.rules.yml"},
		{"check", "config", "prometheus.yml"},
		{"test", "rules", "rules.test.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("FAILED")) {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	fires, silent := make(map[string]bool), make(map[string]bool)
	for _, test := range readRules(t, "rules.test.yml").Tests {
		for _, a := range test.Alerts {
			if len(a.Exp) > 0 {
				fires[a.Alertname] = true
			} else {
				silent[a.Alertname] = true
			}
		}
	}
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: fires in a test %v, is silent in one %v", r.Alert, fires[r.Alert], silent[r.Alert])
		}
		if s := r.Labels["severity"]; s != "page" && s != "ticket" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if _, err := os.Stat(filepath.Join(dir, "..", "runbooks", filepath.Base(r.Annotations["runbook"]))); err != nil || r.Annotations["runbook"] == "" {
			t.Errorf("%s: its runbook: %v", r.Alert, err)
		}
	}
}
