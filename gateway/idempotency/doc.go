// Package idempotency keeps the answers of calls that carried an
// Idempotency-Key, so that the same call again gets the same answer and is not
// charged again (draft-ietf-httpapi-idempotency-key-header).
//
// A key is the caller's credential, the method, the request target and the
// header together; the body's fingerprint tells a repetition from another call
// under the same key. The first call runs; while it does, a repetition is
// Running (409); with another body it is Mismatch (422); afterwards it is
// Replay. Only complete 2xx answers within the size limit are kept: what failed
// was not charged and may simply be tried again.
//
// What is kept is bounded in bytes and in time, in this node's memory (Local),
// or in Redis for all nodes (subpackage redisanswers). The charge is in the
// journal before the answer is kept: a node that dies between the two, or
// before, has forgotten the key, and the repetition runs, and is charged, as a
// call of its own: at once where the key was in the node's memory, and in Redis
// when the dead node's short lease of it ends. Until then it is told 409.
package idempotency
