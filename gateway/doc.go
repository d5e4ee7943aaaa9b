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
//	serve     checks the head: fields.go, route.go, table.go
//	find      authenticates and finds the product: call.go, llm.go, auth.go
//	take      reads or prepares the body: body.go, payload.go
//	admit     holds the estimate and forwards: forward.go, request.go
//	relay     answers whole or as it comes: answer.go, relay.go, events.go
//	settle    judges, charges and records: judge.go, settle.go
//	drain     reads on when the client has left: drain.go
//
// Every path out of that line ends in settle or ensureResolved, each of which
// resolves the hold, and the call's resolved flag keeps it to one of them. The
// gateway's own answers come from one table, errors.go.
//
// fasthttp parses requests and writes answers. What it reads more leniently than
// an upstream might, or takes for whole though it broke off, is read again by
// our own code, and the comment there says why.
package gateway
