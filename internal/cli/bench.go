package cli

import (
	"context"
	"fmt"

	"tollgate/bench"
)

// Bench is `tollgate bench`.
type Bench struct {
	Upstream BenchUpstream `cmd:"" help:"Run the mock upstream; request headers steer it, GET /mock/stats tells what it answered."`
}

// BenchUpstream is `tollgate bench upstream`.
type BenchUpstream struct {
	Listen string `default:"127.0.0.1:9090" placeholder:"ADDR" help:"Address to listen on; port 0 picks a free one."`
}

// Run serves until the context ends.
func (c *BenchUpstream) Run(ctx context.Context, s Streams) error {
	u := bench.NewUpstream(bench.UpstreamConfig{})
	url, err := u.Start(c.Listen)
	if err != nil {
		return fmt.Errorf("%w: choose another port with --listen", err)
	}
	fmt.Fprintln(s.Out, url)
	<-ctx.Done()
	return u.Close()
}
