package compare

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/alecthomas/kong"
	"github.com/redis/go-redis/v9"
	"github.com/valyala/fasthttp"
)

// Part is the hidden command the comparison runs its own processes with.
type Part struct {
	Kind     string `arg:"" enum:"upstream,load,fasthttp" help:"upstream, load or fasthttp."`
	Shape    string `placeholder:"JSON" help:"What the upstream answers."`
	Upstream string `placeholder:"ADDR" help:"Where the proxy forwards to."`
	Redis    string `placeholder:"ADDR" help:"Have the proxy ask this Redis before each call."`
}

// Run runs the part until its standard input ends.
func (c *Part) Run(ctx context.Context, k *kong.Context) error {
	return c.run(ctx, os.Stdin, k.Stdout)
}

func (c *Part) run(ctx context.Context, in io.Reader, out io.Writer) error {
	switch c.Kind {
	case "upstream":
		var s shape
		if err := json.Unmarshal([]byte(c.Shape), &s); err != nil {
			return fmt.Errorf("--shape: %w", err)
		}
		return serveUpstream(s, out)
	case "load":
		return serveOrders(in, out)
	}
	return c.proxy(ctx, in, out)
}

// proxyPorts are where a fasthttp proxy listens: it has one port that reads an
// answer whole, which is cheapest, and one that relays it as it comes, which
// streams need.
type proxyPorts struct {
	Whole  string `json:"whole"`
	Stream string `json:"stream"`
}

// proxy is the reverse proxy everything is measured against: fasthttp on both
// sides and nothing in between. With Redis it makes one round trip per call, as
// a gateway does that keeps its counters there.
func (c *Part) proxy(ctx context.Context, in io.Reader, out io.Writer) error {
	ask := func() error { return nil }
	if c.Redis != "" {
		client := redis.NewClient(&redis.Options{Addr: c.Redis})
		defer client.Close()
		ask = func() error { return client.Incr(ctx, "compare:calls").Err() }
	}
	var ports proxyPorts
	for _, p := range []struct {
		addr   *string
		stream bool
	}{{&ports.Whole, false}, {&ports.Stream, true}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*p.addr = ln.Addr().String()
		client := &fasthttp.HostClient{
			Addr: c.Upstream, MaxConns: 4096, NoDefaultUserAgentHeader: true, DisablePathNormalizing: true,
			StreamResponseBody: p.stream,
		}
		server := &fasthttp.Server{
			NoDefaultServerHeader: true, NoDefaultContentType: true, NoDefaultDate: true,
			Handler: func(ctx *fasthttp.RequestCtx) {
				if err := ask(); err != nil {
					ctx.Error(err.Error(), fasthttp.StatusServiceUnavailable)
					return
				}
				ctx.Request.Header.Del(fasthttp.HeaderConnection)
				if err := client.Do(&ctx.Request, &ctx.Response); err != nil {
					ctx.Error(err.Error(), fasthttp.StatusBadGateway)
					return
				}
				ctx.Response.Header.Del(fasthttp.HeaderConnection)
				ctx.Response.ImmediateHeaderFlush = p.stream
			},
		}
		go func() { _ = server.Serve(ln) }() // it ends with the process
	}
	if err := json.NewEncoder(out).Encode(ports); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	return err
}
