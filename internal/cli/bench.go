package cli

import "tollgate/internal/app"

// Bench is `tollgate bench`.
type Bench struct {
	Upstream app.BenchUpstream `cmd:"" help:"Run the mock upstream; request headers steer it, GET /mock/stats tells what it answered."`
	Load     app.BenchLoad     `cmd:"" help:"Send calls and count what came back; with --demo the demo's mix, compared with what was charged."`
	Accuracy app.BenchAccuracy `cmd:"" help:"Break a running Tollgate in every way it promises to survive, and compare what was charged with what must be; exit code 1 on any drift."`
	Compare  app.BenchCompare  `cmd:"" help:"Measure what a call costs beside other proxies: latency, processor time per call and per streamed chunk, memory, ratios."`
	Part     app.BenchPart     `cmd:"" hidden:"" help:"A process of bench compare."`
}
