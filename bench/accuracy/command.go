package accuracy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	goredis "github.com/redis/go-redis/v9"
)

// Command is `tollgate bench accuracy`.
type Command struct {
	JSON  bool     `name:"json" help:"Print the result as JSON."`
	Quick bool     `help:"Fewer rounds: all trials in less than 50 seconds."`
	Only  []string `placeholder:"NAME,…" help:"Only these trials; --list names them."`
	List  bool     `help:"Name the trials and what each breaks, and run none."`
	Keep  bool     `help:"Keep the trials' files and tell where they are."`
	Seed  uint64   `default:"1" help:"Seed of the instants at which things are broken."`

	Program string `hidden:"" placeholder:"FILE" help:"Put this program on trial in place of this one."`
}

// ErrDrift is returned when a trial found drift, units sold twice, or broke a
// promise beside the books.
var ErrDrift = errors.New("a trial failed: what was charged differs from what must be, or a promise was broken")

// Run runs the trials until their end or that of ctx.
func (c *Command) Run(ctx context.Context, k *kong.Context) error {
	return c.run(ctx, k.Stdout, k.Stderr)
}

// bed is where trials run.
type bed struct {
	exe   string // the program on trial
	dir   string
	quick bool
	seed  uint64
}

// rand returns the random numbers of one trial: the same seed, the same ones.
func (b *bed) rand(name string) *rand.Rand {
	n := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(name) {
		n = (n ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(b.seed, n))
}

// rounds is how often a trial breaks something.
func (b *bed) rounds(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

func (c *Command) run(ctx context.Context, out, progress io.Writer) (err error) {
	list, err := pick(c.Only)
	if err != nil {
		return err
	}
	if c.List {
		for _, t := range list {
			if _, err := fmt.Fprintf(out, "%-18s %s\n", t.name, t.broke); err != nil {
				return err
			}
		}
		return nil
	}
	b := &bed{exe: c.Program, quick: c.Quick, seed: c.Seed}
	if b.exe == "" {
		if b.exe, err = os.Executable(); err != nil {
			return fmt.Errorf("the program to put on trial: %w", err)
		}
	}
	if b.exe, err = filepath.Abs(b.exe); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "tollgate-accuracy-"); err != nil {
		return err
	}
	if c.Keep {
		fmt.Fprintln(progress, "files of the trials:", b.dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	}
	goredis.SetLogger(silent{}) // what it complains of is what the trials do
	report := runAll(ctx, b, list, func(r *Result) {
		if !c.JSON {
			fmt.Fprintf(progress, "%s: %.1f s\n", r.Name, r.Seconds)
		}
	})
	write := report.writeTable
	if c.JSON {
		write = report.writeJSON
	}
	if err := write(out); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not all trials were run: %w", err)
	}
	if !report.OK() {
		return ErrDrift
	}
	return nil
}

// silent drops go-redis's complaints about servers that are away.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// pick returns the trials of those names, all for none.
func pick(names []string) ([]trial, error) {
	if len(names) == 0 {
		return trials, nil
	}
	var all []string
	for _, t := range trials {
		all = append(all, t.name)
	}
	var list []trial
	for _, name := range names {
		i := slices.Index(all, name)
		if i < 0 {
			return nil, fmt.Errorf("there is no trial %q: use some of %s", name, strings.Join(all, ", "))
		}
		list = append(list, trials[i])
	}
	return list, nil
}

// trial breaks one kind of thing.
type trial struct {
	name  string
	broke string
	run   func(ctx context.Context, b *bed, r *Result) error
	// heavy trials load the machine; the others mostly wait.
	heavy bool
}

// In quick mode trials run side by side: so many light ones, or a heavy one in
// place of two of them.
const (
	quickLanes = 4
	heavyLanes = 2
)

// runAll runs the trials and returns their results in the order of the list.
func runAll(ctx context.Context, b *bed, list []trial, done func(*Result)) Report {
	report := Report{Trials: make([]Result, len(list))}
	lanes := 1
	if b.quick {
		lanes = quickLanes
	}
	slots := make(chan struct{}, lanes)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i, t := range list {
		take := 1
		if t.heavy {
			take = min(heavyLanes, lanes)
		}
		for range take {
			slots <- struct{}{}
		}
		wg.Go(func() {
			r := &report.Trials[i]
			r.one(ctx, b, t)
			mu.Lock()
			done(r)
			mu.Unlock()
			for range take {
				<-slots
			}
		})
	}
	wg.Wait()
	return report
}

// trialLimit ends a trial that hangs.
const trialLimit = 10 * time.Minute

// one runs a trial. One that cannot run has failed.
func (r *Result) one(ctx context.Context, b *bed, t trial) {
	r.Name, r.Broke = t.name, t.broke
	began := time.Now()
	defer func() { r.Seconds = float64(time.Since(began).Milliseconds()) / 1000 }()
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	if err := ctx.Err(); err != nil {
		r.Reason = "not run: " + err.Error()
		return
	}
	if err := t.run(ctx, b, r); err != nil {
		r.OK = false
		r.Reason = strings.TrimPrefix(r.Reason+"; could not be run to its end: "+oneLine(err), "; ")
	}
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
