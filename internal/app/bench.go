package app

import "tollgate/bench"

// The commands of the bench package, for the command line.
type (
	// BenchUpstream is `tollgate bench upstream`.
	BenchUpstream = bench.UpstreamCommand
	// BenchLoad is `tollgate bench load`.
	BenchLoad = bench.LoadCommand
)
