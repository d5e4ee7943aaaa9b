// Command tollgate is an OpenAI-compatible API gateway and metering proxy with
// the marketplace around it. See README.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"tollgate/internal/cli"
)

func main() {
	// A second signal ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(cli.Main(ctx, os.Args[1:], cli.Streams{Out: os.Stdout, Err: os.Stderr}))
}
