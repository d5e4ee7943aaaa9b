package cli

import "tollgate/internal/app"

// Bench is `tollgate bench`.
type Bench struct {
	Upstream app.BenchUpstream `cmd:"" help:"Run the mock upstream; request headers steer it, GET /mock/stats tells what it answered."`
	Load     app.BenchLoad     `cmd:"" help:"Send calls and count what came back; with --demo the demo's mix, compared with what was charged."`
}
