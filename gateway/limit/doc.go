// Package limit bounds how fast, and how many at once, calls are admitted: per
// credential, subscription, product and source address.
//
// A Rule is data. A Table keeps the state of each key under a rule: token
// buckets of golang.org/x/time/rate and a count of running calls. State is made
// with a key's first call, dropped when the key has been idle, and bounded in
// number, so that a million credentials cost memory only while they call.
//
// A call takes from every rule it falls under or from none: what a refusal had
// taken already is given back, so a refused call is never counted. Tokens are
// reserved by estimate and corrected when the call ends; a call that used more
// leaves a debt that later calls wait for.
//
// In a cluster a rule of R is divided among the live nodes (cluster.go): each
// node spends its share without asking anybody, and a background exchange moves
// the shares to where the demand is.
package limit
