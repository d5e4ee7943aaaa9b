package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// Command is `tollgate bench compare`.
type Command struct {
	JSON  bool     `name:"json" help:"Print the result as JSON."`
	Quick bool     `help:"Two short rounds: all in less than 50 seconds, with more noise."`
	Only  []string `placeholder:"NAME,…" help:"Only these targets: direct, fasthttp, nginx, haproxy, redis-proxy, portkey, tollgate-gateway, tollgate-embedded, tollgate-redis; tollgate for the last three."`

	Rounds      int           `placeholder:"N" help:"Rounds the targets take turns in; 7 by default, 2 with --quick."`
	Duration    time.Duration `placeholder:"2s" help:"Length of one measurement."`
	Connections int           `default:"64" help:"Connections of the closed loop."`
	Streams     int           `default:"128" help:"Connections of the stream scenario."`
	Rate        float64       `placeholder:"N" help:"Calls a second of the open loop; by default half of what Tollgate reaches in the closed one."`
	AnswerSize  int           `default:"1024" help:"Bytes of an answer that is not streamed."`
	Chunks      int           `default:"50" help:"Chunks of a stream."`
	ChunkDelay  time.Duration `default:"5ms" help:"Time between two chunks of a stream."`

	Scale bool `help:"In place of other proxies: what a call costs against 1, 1 000 and 1 000 000 credentials, 1 and 50 lots of the subscription, 1 and 10 000 products, and how a directory of that size loads and is replaced under load. Takes 3 GB of memory."`

	Report  string `placeholder:"FILE" help:"Write a report with plots as one HTML file there."`
	Install bool   `help:"Install nginx, haproxy, redis-server and Portkey's gateway where they are missing, by apt-get and npm."`
	Portkey string `placeholder:"DIR" help:"Folder npm installed Portkey's gateway into; by default in the user's cache folder."`

	sizes []Scale // of a test

	Program string `hidden:"" placeholder:"FILE" help:"Measure this program in place of this one."`
}

// Run runs the comparison until its end or that of ctx.
func (c *Command) Run(ctx context.Context, k *kong.Context) error {
	return c.run(ctx, k.Stdout, k.Stderr)
}

// quickBudget is when --quick begins no further round; what is under way then
// and the end of the processes fit into 50 seconds.
const quickBudget = 30 * time.Second

func (c *Command) plan() (plan, error) {
	p := plan{rounds: 7, warmup: 500 * time.Millisecond, duration: 2 * time.Second, connections: c.Connections, streams: c.Streams, rate: c.Rate, streamRounds: 5}
	if c.Quick {
		p = plan{quick: true, rounds: 3, warmup: 60 * time.Millisecond, duration: 250 * time.Millisecond, connections: c.Connections, streams: c.Streams, rate: c.Rate, streamRounds: 2, budget: quickBudget}
	}
	if c.Rounds > 0 {
		p.rounds, p.streamRounds = c.Rounds, c.Rounds
	}
	if c.Duration > 0 {
		p.duration = c.Duration
	}
	var faults []error
	for _, v := range []struct {
		flag string
		bad  bool
		want string
	}{
		{"--rounds", c.Rounds < 0, "must be above 0"},
		{"--duration", c.Duration < 0, "must be above 0"},
		{"--connections", c.Connections < 1 || c.Connections > 4096, "must be from 1 to 4096"},
		{"--streams", c.Streams < 1 || c.Streams > 4096, "must be from 1 to 4096"},
		{"--rate", c.Rate < 0, "must not be below 0"},
		{"--answer-size", c.AnswerSize < 1 || c.AnswerSize > 1<<20, "must be from 1 to 1048576"},
		{"--chunks", c.Chunks < 1 || c.Chunks > 10_000, "must be from 1 to 10000"},
		{"--chunk-delay", c.ChunkDelay < time.Millisecond || c.ChunkDelay > time.Second, "must be from 1ms to 1s"},
	} {
		if v.bad {
			faults = append(faults, fmt.Errorf("%s %s", v.flag, v.want))
		}
	}
	return p, errors.Join(faults...)
}

func (c *Command) run(ctx context.Context, out, progress io.Writer) (err error) {
	began := time.Now()
	p, err := c.plan()
	if err != nil {
		return err
	}
	wanted, err := pickStarters(c.Only)
	if err != nil {
		return err
	}
	b, err := c.bed()
	if err != nil {
		return err
	}
	defer func() {
		b.close()
		err = errors.Join(err, os.RemoveAll(b.dir))
	}()
	if c.JSON {
		progress = io.Discard
	}
	if c.Install {
		if err := install(ctx, b.portkeyDir, progress); err != nil {
			return err
		}
	}
	if err := b.open(ctx); err != nil {
		return err
	}
	report := Report{Machine: describeMachine(), Runs: []Run{}}
	r := &runner{bed: b, plan: p, progress: progress, began: began}
	if c.Scale {
		return c.scale(ctx, r, &report, out)
	}
	if r.targets, report.Skipped, err = b.start(ctx, wanted); err != nil {
		return err
	}
	if len(r.targets) == 0 {
		return fmt.Errorf("nothing to measure: %s", report.Skipped[0].Reason)
	}
	runs, rate, err := r.all(ctx)
	if err != nil {
		return err
	}
	report.Runs = runs
	report.Load = r.load(rate)
	report.ratios()
	report.notes()
	return c.tell(&report, out)
}

// load says what every target was given.
func (r *runner) load(rate float64) Load {
	b, p := r.bed, r.plan
	return Load{
		Connections: p.connections, Streams: p.streams, Rate: rate, AnswerBytes: len(b.shape.answer()), Chunks: b.shape.flushes(),
		ChunkDelay: b.shape.Delay.String(), Rounds: p.rounds, Seconds: p.duration.Seconds(), Cores: b.cores,
	}
}

// tell writes the report where it is wanted.
func (c *Command) tell(report *Report, out io.Writer) error {
	if c.Report != "" {
		if err := report.writeHTML(c.Report); err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	if c.JSON {
		return report.writeJSON(out)
	}
	return report.writeTable(out)
}

// scale measures the sizes.
func (c *Command) scale(ctx context.Context, r *runner, report *Report, out io.Writer) (err error) {
	r.bed.patience = 3 * time.Minute
	list := sizes
	if c.sizes != nil {
		list = c.sizes
	}
	if report.Scale, err = r.scale(ctx, list); err != nil {
		return err
	}
	report.Load = r.load(0)
	report.notes()
	for _, x := range report.Scale {
		if x.Errors > 0 {
			report.Notes = append(report.Notes, fmt.Sprintf("%d credentials, %d lots, %d products: %d calls failed: %s", x.Credentials, x.Lots, x.Products, x.Errors, x.FirstError))
		}
	}
	return c.tell(report, out)
}

// bed prepares the place everything runs in.
func (c *Command) bed() (*bed, error) {
	b := &bed{exe: c.Program, portkeyDir: c.Portkey, shape: shape{Answer: c.AnswerSize, Chunks: c.Chunks, Delay: c.ChunkDelay}}
	var err error
	if b.cores, err = pickCores(); err != nil {
		return nil, err
	}
	if b.exe == "" {
		if b.exe, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("the program to measure: %w", err)
		}
	}
	if b.exe, err = filepath.Abs(b.exe); err != nil {
		return nil, err
	}
	if b.portkeyDir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			cache = os.TempDir()
		}
		b.portkeyDir = filepath.Join(cache, "tollgate", "portkey")
	}
	b.dir, err = os.MkdirTemp("", "tollgate-compare-")
	return b, err
}

// notes tells what the figures are not to be trusted for.
func (r *Report) notes() {
	note := func(format string, args ...any) { r.Notes = append(r.Notes, fmt.Sprintf(format, args...)) }
	var limited []string
	for _, x := range r.Runs {
		if x.Scenario == scenarioClosed && x.Saturated != "gateway" && x.Target != nameDirect {
			limited = append(limited, strings.TrimSpace(x.Target+" "+x.Auth))
		}
		if x.Errors > 0 {
			note("%s %s, %s: %d calls failed: %s", x.Target, x.Auth, x.Scenario, x.Errors, x.FirstError)
		}
		if x.Scenario == scenarioOpen && x.Lag99 > 100 {
			note("%s %s: the generator itself came up to %d µs (p99) late to calls that were due, which is part of their latency", x.Target, x.Auth, x.Lag99)
		}
	}
	if len(limited) > 0 {
		note("generator and upstream were the limit for %s: their calls/s are a lower bound, the processor time per call stands", strings.Join(limited, ", "))
	}
	if r.Machine.Cores > 0 && loadOf(r.Machine.Load) > float64(r.Machine.Cores)/2 {
		note("the machine was busy with other work when it began (load %s): trust the ratios of processor time, not the latencies", r.Machine.Load)
	}
}

func loadOf(average string) float64 {
	var one float64
	_, _ = fmt.Sscan(average, &one) // an unknown load is none
	return one
}
