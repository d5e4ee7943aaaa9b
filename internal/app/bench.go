package app

import (
	"tollgate/bench"
	"tollgate/bench/accuracy"
)

// The commands of the bench package, for the command line.
type (
	// BenchUpstream is `tollgate bench upstream`.
	BenchUpstream = bench.UpstreamCommand
	// BenchLoad is `tollgate bench load`.
	BenchLoad = bench.LoadCommand
	// BenchAccuracy is `tollgate bench accuracy`.
	BenchAccuracy = accuracy.Command
)
