package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "tollgate.yaml")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultsAreValid(t *testing.T) {
	t.Parallel()
	c, err := Load(Input{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Fatalf("got %+v", c)
	}
}

func TestLaterSourcesWin(t *testing.T) {
	t.Parallel()
	in := Input{
		File:    write(t, "gateway:\n  max_body: 1MiB\n  read_timeout: 5s\n  listen: 127.0.0.1:1\nquota:\n  store: redis://a:1\n"),
		Environ: []string{"TOLLGATE_GATEWAY_MAX_BODY=2MiB", "TOLLGATE_GATEWAY_LISTEN=127.0.0.1:2", "TOLLGATE_GATEWAY_TRUSTED_PROXIES=10.0.0.0/8,192.168.0.0/16", "HOME=/x", "TOLLGATE_SERVICE_HOST=1.2.3.4", "TOLLGATE_APP_SECRET=x"},
		Flags:   map[string]string{"gateway.listen": "127.0.0.1:3"},
	}
	c, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	if c.Gateway.MaxBody != 2<<20 || c.Gateway.ReadTimeout != 5*time.Second || c.Gateway.Listen != "127.0.0.1:3" ||
		c.Quota.Store.Reveal() != "redis://a:1" || len(c.Gateway.TrustedProxies) != 2 {
		t.Fatalf("got %+v", c)
	}
}

func TestFaultsSayWhereAndWhatToDo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   Input
		want []string
	}{
		"unknown key":          {Input{File: write(t, "gateway:\n  max_bdy: 1MiB\n")}, []string{"gateway.max_bdy", "gateway.max_body"}},
		"unknown section":      {Input{File: write(t, "gatewy:\n  max_body: 1MiB\n")}, []string{"gatewy.max_body", "gateway.max_body"}},
		"unknown variable":     {Input{Environ: []string{"TOLLGATE_QOUTA_STORE=x"}}, []string{"TOLLGATE_QOUTA_STORE", "TOLLGATE_QUOTA_STORE"}},
		"no unit":              {Input{File: write(t, "gateway:\n  read_timeout: 5\n")}, []string{"read_timeout", "10s"}},
		"bad size":             {Input{Environ: []string{"TOLLGATE_GATEWAY_MAX_BODY=4MB"}}, []string{"max_body", "4MiB"}},
		"bad store":            {Input{Environ: []string{"TOLLGATE_QUOTA_STORE=mysql://x"}}, []string{"quota.store", "redis://"}},
		"bad role":             {Input{Flags: map[string]string{"role": "both"}}, []string{"role", "gateway"}},
		"file missing":         {Input{File: "/nonexistent/tollgate.yaml"}, []string{"/nonexistent/tollgate.yaml", "--config"}},
		"secret file missing":  {Input{Environ: []string{"TOLLGATE_FEED_SECRET=file:/nonexistent"}}, []string{"/nonexistent"}},
		"gateway without much": {Input{Flags: map[string]string{"role": "gateway"}}, []string{"admin.url", "TOLLGATE_FEED_SECRET", "quota.store"}},
		"zero":                 {Input{Environ: []string{"TOLLGATE_GATEWAY_HOLD_CAP=0"}}, []string{"gateway.hold_cap"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(tc.in)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not mention %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

func TestPrintLoadsBackAndMasks(t *testing.T) {
	t.Parallel()
	c, err := Load(Input{Environ: []string{"TOLLGATE_FEED_SECRET=hush-hush", "TOLLGATE_QUOTA_STORE=redis://user:pass@h:1/0?x=y"}})
	if err != nil {
		t.Fatal(err)
	}
	text := Print(c)
	for _, secret := range []string{"hush-hush", "pass", "x=y"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is shown: %s", secret, text)
		}
	}
	d, err := Load(Input{File: write(t, Print(Default()))})
	if err != nil {
		t.Fatal(err)
	}
	if !d.Gateway.PerCallSwitch.Equal(Default().Gateway.PerCallSwitch) {
		t.Error("per_call_switch changed")
	}
	d.Gateway.PerCallSwitch = Default().Gateway.PerCallSwitch
	for _, list := range []*[]string{&d.Gateway.TrustedProxies, &d.Gateway.ProxyProtocol, &d.Gateway.Allow, &d.Gateway.Deny} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if !reflect.DeepEqual(d, Default()) {
		t.Errorf("the printed defaults do not load back:\n%+v\n%+v", d, Default())
	}
}

func TestPostgreSQLOverASocket(t *testing.T) {
	t.Parallel()
	if _, err := Load(Input{Environ: []string{"TOLLGATE_SQL_STORE=postgres:///db?host=/run/postgresql"}}); err != nil {
		t.Fatal(err)
	}
}

func TestSecretFromFile(t *testing.T) {
	t.Parallel()
	p := write(t, "from a file\n")
	c, err := Load(Input{Environ: []string{"TOLLGATE_FEED_SECRET=file:" + p}})
	if err != nil || c.Feed.Secret.Reveal() != "from a file" {
		t.Fatalf("%v %q", err, c.Feed.Secret.Reveal())
	}
}

// TestEveryKeyHasItsComment keeps the doc comments: each leaf's default stands
// above it.
func TestEveryKeyHasItsComment(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"config.go", "admin.go"} {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(src), "\n")
		for i, l := range lines {
			if strings.Contains(l, "`koanf:\"") && !strings.Contains(lines[i-1], "//") && !strings.Contains(lines[i-1], "`koanf:\"") {
				t.Errorf("%s:%d: %s has no comment", name, i+1, strings.TrimSpace(l))
			}
		}
	}
}
