// Package admin is the control plane's HTTP side: identity and permissions, the
// REST API under /api/v1, the catalogue of products with their upstreams, the
// buyers' applications and keys, and the directory feed that tells gateways
// about all of it.
//
// What it owns, in its own tables: accounts, bearer tokens, products and
// upstreams, applications with AppKeys, AppCodes and bindings, API keys, the
// hashing pepper, and the directory's version. Orders, money and subscriptions
// are billing's, units are quota's, usage rows are metering's: it reaches them
// by the interfaces of deps.go.
//
// Invariants:
//
//   - Every change a gateway must see bumps the directory's version in the same
//     transaction. That row is also the lock that makes counted limits (KEY-4,
//     50 applications, 5 AppCodes) exact under concurrency.
//   - A secret leaves once, when it is made, or by an explicit, audited reveal.
//     Lists, logs and error texts show a mask.
//   - What an actor may not see answers 404, as if it did not exist; what its
//     role may never do answers 403.
//   - Errors become problems (RFC 9457) in problem.go and nowhere else.
package admin
