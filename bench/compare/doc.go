// Package compare measures what Tollgate costs beside other proxies.
//
// Every target stands between the same load generator and the same mock
// upstream and answers the same calls. The target is pinned to one core,
// generator, upstream and stores to another, each in a process of its own, so
// that the processor time of the target alone is what a call costs. Targets
// take turns in several rounds and the median of the rounds is reported, so
// that a disturbance of the machine touches all of them or none.
//
// Bare times say more of the machine than of the program: read the ratios.
package compare
