// Package bench measures Tollgate and stands in for the world around it.
//
// [Upstream] is the mock upstream: an OpenAI-compatible server and an echo of
// any other path, steered by request headers and exact about what it answered.
// Every test that needs an upstream uses it, and so does the demo.
//
// [Load] is the load generator: closed loops, open loops at a fixed rate free
// of coordinated omission, and mixes of scenarios whose outcome is counted call
// by call, so that a run can be compared with what was charged.
//
// README.md lists the steering headers and the commands.
package bench
