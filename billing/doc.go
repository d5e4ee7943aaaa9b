// Package billing turns goods into orders, orders into money moved in a ledger,
// and paid orders into lots of units in the quota store.
//
// Its README says what it owns and which invariants hold. In short: every
// transaction of the ledger sums to zero and is never changed, only reversed; a
// balance is the sum of its entries; an order is paid, recorded and its lots
// made in one database transaction; and each lot reaches the quota store at
// least once, whatever dies in between, where a version takes effect once.
//
// The package is part of the control plane: nothing here is called while a
// gateway serves a request.
package billing
