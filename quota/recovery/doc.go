// Package recovery brings a quota store back that lost what it was told: one
// that was emptied, put back to an earlier state, or replaced by a server that
// did not have the last writes.
//
// # Who leads
//
// The control plane does: it alone knows the grants. Each of its processes runs
// a Keeper; of several, the one that claims the rebuild in the SQL database does
// it. Gateways only report again what they know, which needs no order and no
// leader, because counters are merged by their maximum.
//
// # What is kept where
//
//	quota_store                the generation last given to the store, the server that
//	                           had it, and the claim of a rebuild under way
//	quota_checkpoint,          what each incarnation did on each subscription, merged
//	quota_checkpoint_counter   by maximum, copied from the store every few seconds
//
// # How a loss is noticed
//
// After each change of a grant the generation is raised, first in SQL, then as
// the store's mark, and only from a mark that was not lower before. A store
// whose mark is missing or lower than the last one known lost something. One
// whose server was started or replaced may have; then everything is compared,
// and only what is short is restored. The comparison is made at each start as
// well.
//
// # The rebuild
//
//  1. The generation is raised in SQL and the store's mark set to its negative:
//     gateways see that and refuse, with 503, what their leases do not cover.
//     Whoever dies from here on leaves a mark that is not whole, so the next
//     round, or the next process, does it all again.
//  2. Of each subscription that is short of a lot, of a version, or of use, all
//     lots are restored with the learning time, so that nothing new is leased
//     before every live node has reported; then the incarnations of the
//     checkpoint: closed ones with what they used, live ones with what they
//     hold, which a live node's own report only raises.
//  3. The mark is set to the generation if it is still its negative. If the
//     store was lost once more meanwhile it is not, and the rebuild begins
//     again.
//
// Use since the last checkpoint is told by the nodes: a live one repeats all its
// counters, a restarted one the closings of its earlier starts, from its
// journal. What a node used that stopped for good within the seconds between
// the last checkpoint and the loss comes back when its journal is replayed.
package recovery
