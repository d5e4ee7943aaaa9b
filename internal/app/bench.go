package app

import (
	"tollgate/bench"
	"tollgate/bench/accuracy"
	"tollgate/bench/compare"
)

// The commands of the bench package, for the command line.
type (
	// BenchUpstream is `tollgate bench upstream`.
	BenchUpstream = bench.UpstreamCommand
	// BenchLoad is `tollgate bench load`.
	BenchLoad = bench.LoadCommand
	// BenchAccuracy is `tollgate bench accuracy`.
	BenchAccuracy = accuracy.Command
	// BenchCompare is `tollgate bench compare`.
	BenchCompare = compare.Command
	// BenchPart is `tollgate bench part`, which bench compare runs its own
	// processes with.
	BenchPart = compare.Part
)
