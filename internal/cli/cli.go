package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// commands is the whole command line.
type commands struct {
	Serve   Serve   `cmd:"" help:"Run Tollgate: gateway, admin API, or both."`
	Bench   Bench   `cmd:"" help:"Mock upstream and load generator."`
	Sign    Sign    `cmd:"" help:"Sign a request with an AppKey and AppSecret; prints a curl line or headers."`
	Verify  Verify  `cmd:"" help:"Compare journal, quota store and usage store; exit code 1 on any difference."`
	Journal Journal `cmd:"" help:"Read a gateway's journal."`
	Report  Report  `cmd:"" help:"Write reports."`
	Receipt Receipt `cmd:"" help:"Check receipts of calls."`
	Config  Config  `cmd:"" help:"Check or print the configuration."`
	Migrate Migrate `cmd:"" help:"Bring the SQL store to the schema of this binary; serve does it by itself."`
}

// Streams are what a command talks to.
type Streams struct {
	Out, Err io.Writer
}

// Main runs the command line and returns the exit code: 0 when all went well, 1
// when the command failed, 2 when it was not understood.
func Main(ctx context.Context, args []string, s Streams) int {
	var c commands
	exited := -1
	p, err := kong.New(&c,
		kong.Name("tollgate"),
		kong.Description("OpenAI-compatible API gateway and metering proxy with the marketplace around it."),
		kong.Writers(s.Out, s.Err),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s),
	)
	if err != nil {
		fmt.Fprintln(s.Err, "tollgate:", err)
		return 2
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := p.Parse(args)
	if exited >= 0 {
		return exited // --help
	}
	if err != nil {
		fmt.Fprintf(s.Err, "tollgate: %s: see tollgate --help\n", err)
		return 2
	}
	if err := k.Run(); err != nil {
		fmt.Fprintln(s.Err, "tollgate:", oneLine(err))
		return 1
	}
	return 0
}

// oneLine joins the lines of joined errors: an operator's error is one line.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}

// environ is the real environment.
func environ() []string { return os.Environ() }
