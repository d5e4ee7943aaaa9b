package cli

import "tollgate/bench"

// Bench is `tollgate bench`.
type Bench struct {
	Upstream bench.UpstreamCommand `cmd:"" help:"Run the mock upstream; request headers steer it, GET /mock/stats tells what it answered."`
	Load     bench.LoadCommand     `cmd:"" help:"Send calls and count what came back; with --demo the demo's mix, compared with what was charged."`
}
