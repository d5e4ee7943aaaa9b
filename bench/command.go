package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"
)

// UpstreamCommand is `tollgate bench upstream`: the mock upstream on a port of
// its own, until it is interrupted.
type UpstreamCommand struct {
	Listen string   `default:"127.0.0.1:9090" placeholder:"ADDR" help:"Address to listen on; port 0 picks a free one."`
	Model  []string `placeholder:"NAME" help:"Model that /v1/models lists; may be repeated."`
}

// Run serves until ctx ends. kong gives it both: the command line binds its
// context as a context.Context.
func (c *UpstreamCommand) Run(ctx context.Context, k *kong.Context) error {
	return c.run(ctx, k.Stdout)
}

func (c *UpstreamCommand) run(ctx context.Context, out io.Writer) error {
	u := NewUpstream(UpstreamConfig{Models: c.Model})
	url, err := u.Start(c.Listen)
	if err != nil {
		return fmt.Errorf("%w: give another --listen address", err)
	}
	_, err = fmt.Fprintf(out, "mock upstream at %s\nwhat it answered: curl %s%s\n", url, url, pathStats)
	if err != nil {
		return errors.Join(err, u.Close())
	}
	<-ctx.Done()
	return u.Close()
}

// LoadCommand is `tollgate bench load`.
type LoadCommand struct {
	Demo  string `placeholder:"FILE" help:"Call the products of this demo.json, in the mix of the acceptance run."`
	Mix   string `placeholder:"NAME=WEIGHT,…" help:"With --demo: only these scenarios, in these shares."`
	Check bool   `help:"With --demo: compare what was charged with what was answered; exit 1 when they differ."`

	URL       string   `arg:"" optional:"" name:"url" help:"Call this URL."`
	Method    string   `short:"X" placeholder:"METHOD" help:"Request method; GET by default, POST with --data."`
	Header    []string `short:"H" sep:"none" placeholder:"NAME: VALUE" help:"Header to send; may be repeated."`
	Data      string   `short:"d" placeholder:"DATA" help:"Request body; @FILE reads it from a file."`
	Stream    bool     `help:"The answers are event streams that must be complete."`
	APIKey    string   `name:"api-key" env:"TOLLGATE_API_KEY" placeholder:"KEY" help:"Call with this API key."`
	AppCode   string   `name:"app-code" env:"TOLLGATE_APP_CODE" placeholder:"CODE" help:"Call with this AppCode."`
	AppKey    string   `name:"app-key" env:"TOLLGATE_APP_KEY" placeholder:"KEY" help:"Sign with this AppKey."`
	AppSecret string   `name:"app-secret" env:"TOLLGATE_APP_SECRET" placeholder:"SECRET" help:"Its AppSecret; prefer the environment."`

	Connections int           `short:"c" default:"64" help:"Connections."`
	Requests    int64         `short:"n" placeholder:"N" help:"Stop after so many calls."`
	Duration    time.Duration `placeholder:"10s" help:"Stop after so long; 10s when --requests is not given either."`
	Rate        float64       `placeholder:"N" help:"Open loop: start so many calls a second, whatever the answers do."`
	Warmup      time.Duration `placeholder:"1s" help:"Leave this time out of rate and latencies."`
	Timeout     time.Duration `default:"60s" help:"Longest time of one call."`
	Seed        uint64        `default:"1" help:"Order of the scenarios."`
	JSON        bool          `name:"json" help:"Print the result as JSON."`
}

// LoadReport is what `bench load --json` prints.
type LoadReport struct {
	LoadResult
	Books *Books `json:"books,omitempty"`
}

// ErrDrift is returned by `bench load --check` when the books do not balance.
var ErrDrift = errors.New("what was charged differs from what was answered")

// Run runs the load until its end or that of ctx.
func (c *LoadCommand) Run(ctx context.Context, k *kong.Context) error {
	return c.run(ctx, k.Stdout)
}

func (c *LoadCommand) run(ctx context.Context, out io.Writer) error {
	scenarios, demo, err := c.scenarios()
	if err != nil {
		return err
	}
	in := LoadInput{
		Scenarios: scenarios, Connections: c.Connections, Requests: c.Requests, Duration: c.Duration,
		Rate: c.Rate, Warmup: c.Warmup, Timeout: c.Timeout, Seed: c.Seed,
	}
	if in.Requests == 0 && in.Duration == 0 {
		in.Duration = 10 * time.Second
	}
	if err := in.Validate(); err != nil {
		return err
	}
	var audit *Audit
	if c.Check {
		if audit, err = OpenAudit(ctx, demo, scenarios); err != nil {
			return err
		}
	}
	res, err := Load(ctx, in)
	if err != nil {
		return err
	}
	report := LoadReport{LoadResult: res}
	if audit != nil {
		b, err := audit.Close(context.WithoutCancel(ctx), scenarios, res) // also after Ctrl-C: what was called is charged
		if err != nil {
			return err
		}
		report.Books = &b
	}
	if err := c.print(out, &report); err != nil {
		return err
	}
	if report.Books != nil && !report.Books.OK {
		return ErrDrift
	}
	return nil
}

// scenarios returns what to call.
func (c *LoadCommand) scenarios() ([]Scenario, Demo, error) {
	switch {
	case c.Demo != "" && c.URL != "":
		return nil, Demo{}, errors.New("give --demo or a URL, not both")
	case c.Demo != "":
		d, err := ReadDemo(c.Demo)
		if err != nil {
			return nil, d, err
		}
		s, err := Mix(d.Scenarios(), c.Mix)
		return s, d, err
	case c.URL == "":
		return nil, Demo{}, errors.New("nothing to call: give --demo demo.json or a URL")
	case c.Check || c.Mix != "":
		return nil, Demo{}, errors.New("--check and --mix go with --demo")
	}
	s := Scenario{Name: "call", Method: strings.ToUpper(c.Method), URL: c.URL, Headers: c.Header, Body: c.Data, Stream: c.Stream}
	if name, ok := strings.CutPrefix(c.Data, "@"); ok {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, Demo{}, fmt.Errorf("--data: %w", err)
		}
		s.Body = string(b)
	}
	given := 0
	for _, a := range []Auth{{Kind: AuthAPIKey, Key: c.APIKey}, {Kind: AuthAppCode, Key: c.AppCode}, {Kind: AuthSignature, Key: c.AppKey, Secret: c.AppSecret}} {
		if a.Key != "" {
			s.Auth = a
			given++
		}
	}
	if given > 1 {
		return nil, Demo{}, errors.New("give one of --api-key, --app-code and --app-key, also counting TOLLGATE_API_KEY, TOLLGATE_APP_CODE and TOLLGATE_APP_KEY in the environment")
	}
	return []Scenario{s}, Demo{}, nil
}

func (c *LoadCommand) print(out io.Writer, r *LoadReport) error {
	if c.JSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "scenario\tcalls\t2xx\t4xx\t5xx\terrors\tstreams\trps\tp50 ms\tp99 ms\tp99.9 ms\t")
	row := func(name string, o Outcome) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d/%d\t%.0f\t%.2f\t%.2f\t%.2f\t\n", name, o.Requests, o.OK2xx, o.C4xx, o.C5xx,
			o.Errors, o.StreamsComplete, o.Streams, o.RPS, ms(o.P50us), ms(o.P99us), ms(o.P999us))
	}
	for _, name := range slices.Sorted(maps.Keys(r.ByName)) {
		row(name, r.ByName[name])
	}
	row("all", r.Outcome)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, class := range slices.Sorted(maps.Keys(r.Classes)) {
		fmt.Fprintf(out, "errors, %s: %d\n", class, r.Classes[class])
	}
	if r.Rate > 0 {
		fmt.Fprintf(out, "late calls: %d (no free connection); generator's own lag, p99: %.2f ms\n", r.Late, ms(r.LagP99us))
	}
	if b := r.Books; b != nil {
		verdict := "the books balance"
		if !b.OK {
			verdict = "THE BOOKS DO NOT BALANCE"
		}
		fmt.Fprintf(out, "%s: %d calls charged, %d answered 2xx by the mock, %d seen by the clients, drift %d\n",
			verdict, b.ChargedCalls, b.Mock2xx, b.Client2xx, b.Drift)
	}
	return nil
}

func ms(us int64) float64 { return float64(us) / 1000 }
