// Package gateway is the data plane: it matches a request to a product,
// authenticates it, holds what it may cost, forwards it, relays the answer as
// it comes, judges whether it counts and has it recorded.
//
// It knows nothing of money, SQL or the admin role. What it needs of them
// comes as an immutable directory snapshot; what it needs of the quota engine
// and the journal is declared in deps.go.
//
// A request's way through (design section 3):
//
//	Handler -> match (table.go) -> authenticate (auth.go) -> read and check the
//	body (payload.go) -> admit (call.go) -> forward (upstream package) ->
//	relay (answer.go, stream.go) -> settle (call.go)
//
// Every path out of that line ends in finish or drain, each of which resolves
// the hold exactly once.
package gateway
