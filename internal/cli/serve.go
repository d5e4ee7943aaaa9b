package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"tollgate/internal/app"
	"tollgate/internal/config"
)

// Serve is `tollgate serve`.
type Serve struct {
	Settings
	Demo         bool   `help:"Seed a demo marketplace once and write demo.json into the data folder."`
	DemoUnits    int64  `placeholder:"N" help:"Size of each demo package; 10000 by default."`
	DemoUpstream string `placeholder:"URL" help:"Send the demo products there instead of to the built-in mock upstream."`
}

// Settings are the flags that stand for configuration keys.
type Settings struct {
	ConfigFile    string `name:"config" placeholder:"FILE" env:"TOLLGATE_CONFIG" help:"YAML configuration; tollgate config print shows every key."`
	Role          string `placeholder:"all|gateway|admin" help:"What this process does; all by default."`
	Data          string `placeholder:"DIR" help:"Folder of everything this process keeps; ./tollgate-data by default."`
	GatewayListen string `placeholder:"ADDR" help:"Address of the gateway; 127.0.0.1:8080 by default, port 0 picks a free one."`
	AdminListen   string `placeholder:"ADDR" help:"Address of admin API, metrics and health; 127.0.0.1:8081 by default."`
	AdminURL      string `placeholder:"URL" help:"Where a gateway of role gateway finds the admin role; both need TOLLGATE_FEED_SECRET."`
	Node          string `placeholder:"NAME" help:"Name of this gateway; kept in the data folder by default."`
}

// load reads the configuration: defaults, file, environment, flags.
func (s *Settings) load() (config.Config, error) {
	flags := make(map[string]string)
	for path, v := range map[string]string{
		"role": s.Role, "data": s.Data, "gateway.listen": s.GatewayListen,
		"admin.listen": s.AdminListen, "admin.url": s.AdminURL, "node": s.Node,
	} {
		if v != "" {
			flags[path] = v
		}
	}
	return config.Load(config.Input{File: s.ConfigFile, Environ: environ(), Flags: flags})
}

// clockFileEnv names the file that moves the wall clock of a program under test
// (the trial clock-jump of tollgate bench accuracy); see app.ShiftedClock.
const clockFileEnv = "TOLLGATE_TEST_CLOCK_FILE"

// Run serves until the context ends.
func (c *Serve) Run(ctx context.Context, s Streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	if c.Demo && cfg.Role == config.RoleGateway {
		return fmt.Errorf("--demo needs the admin role: start the gateway without it")
	}
	if c.DemoUnits < 0 {
		return fmt.Errorf("--demo-units %d is below 0", c.DemoUnits)
	}
	log := logger(cfg.Log, s.Err)
	var now func() time.Time
	if file := os.Getenv(clockFileEnv); file != "" {
		clock, err := app.NewShiftedClock(ctx, file)
		if err != nil {
			return err
		}
		now = clock.Now
		log.Warn("the wall clock follows a file: this is for tests only", "file", file)
	}
	return app.Run(ctx, cfg, app.Options{
		Now:  now,
		Demo: c.Demo, DemoUnits: c.DemoUnits, DemoUpstream: c.DemoUpstream,
		Log:   log,
		Ready: func(i app.Info) { greet(s.Out, cfg, i) },
	})
}

func logger(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // checked by the configuration
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.String(slog.TimeKey, a.Value.Time().UTC().Format(time.RFC3339Nano))
		}
		return a
	}}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// greet prints where the program listens and, with the demo, what to try.
func greet(w io.Writer, cfg config.Config, i app.Info) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("Tollgate is ready.")
	if i.GatewayURL != "" {
		line("  gateway        %s", i.GatewayURL)
	}
	if i.GatewayHTTPSURL != "" {
		line("  gateway https  %s", i.GatewayHTTPSURL)
	}
	if cfg.Role == config.RoleGateway {
		line("  metrics        %s/metrics   (/healthz and /readyz beside it)", i.AdminURL)
	} else {
		line("  console        %s/console/", i.AdminURL)
		line("  admin API      %s/api/v1   (openapi.json, /metrics and /healthz beside it)", i.AdminURL)
	}
	d := i.Demo
	if d == nil {
		return
	}
	line("  demo.json      %s/demo.json", strings.TrimRight(cfg.Data, "/"))
	if i.GatewayURL == "" {
		return
	}
	line(`
Try, in another terminal:

  # OpenAI wire format, with curl
  curl %[1]s/chat/completions \
    -H "Authorization: Bearer %[2]s" -H "Content-Type: application/json" \
    -d '{"model":"%[3]s","messages":[{"role":"user","content":"Hello"}]}'

  # an OpenAI SDK (Python)
  from openai import OpenAI
  client = OpenAI(base_url="%[1]s", api_key="%[2]s")
  print(client.chat.completions.create(model="%[3]s", messages=[{"role": "user", "content": "Hello"}]))

  # a signed call (AppKey and AppSecret from demo.json)
  go run . sign --demo %[4]s/demo.json %[5]s | sh

  # the same API with an AppCode, over https only
  curl --cacert %[4]s/tls-self-signed.crt -H "X-Apig-AppCode: %[6]s" %[7]s

  # what is left of the package
  curl -H "Authorization: Bearer %[8]s" %[9]s/api/v1/subscriptions/%[10]s/quota

Ctrl-C stops it; nothing is lost.`,
		d.LLM.BaseURL, d.LLM.APIKey, d.LLM.Model, strings.TrimRight(cfg.Data, "/"), d.API.URL, d.API.AppCode,
		d.API.HTTPSURL, d.BuyerToken, d.AdminURL, d.LLM.SubscriptionID)
}
