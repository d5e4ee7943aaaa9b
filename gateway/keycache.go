package gateway

import (
	"hash/maphash"
	"sync/atomic"
)

// keyCache remembers which API key a text was, so that a call costs two fast
// keyed hashes, some 30 ns, in place of the HMAC with the pepper.
//
// It holds no key: an entry is 128 bits of two maphashes of the text, each under
// a random seed of its own that never leaves the process. Who wants to be taken
// for the owner of an entry must send another text with both hashes the same,
// knowing neither the seeds nor the owner's text: a chance of about 2^-120 for
// each call. Entries are compared in constant time. Only keys that exist are
// remembered, so that calls with invented ones displace nothing. The cache
// belongs to one directory table and is gone with it: a revoked key is not found
// in the next.
type keyCache struct {
	seeds [2]maphash.Seed
	slots []atomic.Pointer[cachedKey] // a power of two
}

// cachedKey is never changed once it is stored.
type cachedKey struct {
	sum [2]uint64
	key *apiKey
}

// maxCachedKeys bounds the slots: 512 KiB of pointers, and 24 bytes for each
// entry. Further keys displace each other and cost their HMAC now and then.
const maxCachedKeys = 1 << 16

// newKeyCache returns a cache for so many keys.
func newKeyCache(keys int) *keyCache {
	n := 64
	for n < 2*keys && n < maxCachedKeys {
		n *= 2
	}
	return &keyCache{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, slots: make([]atomic.Pointer[cachedKey], n)}
}

// findKey returns the API key whose text it is given, nil when there is none.
func (t *directoryTable) findKey(h *hasher, text []byte) *apiKey {
	c := t.keyCache
	sum := [2]uint64{maphash.Bytes(c.seeds[0], text), maphash.Bytes(c.seeds[1], text)}
	slot := &c.slots[sum[0]&uint64(len(c.slots)-1)]
	if e := slot.Load(); e != nil && (e.sum[0]^sum[0])|(e.sum[1]^sum[1]) == 0 {
		return e.key
	}
	k := t.apiKeys[h.sum(text)]
	if k != nil {
		slot.Store(&cachedKey{sum: sum, key: k})
	}
	return k
}
