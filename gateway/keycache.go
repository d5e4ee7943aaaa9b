package gateway

import (
	"hash/maphash"
	"sync/atomic"
)

// keyCache remembers which API key, or AppCode, a text was, so that a call costs
// two fast keyed hashes, some 30 ns, in place of the HMAC with the pepper.
//
// It holds no key: an entry is 128 bits of two maphashes of the text, each under
// a random seed of its own that never leaves the process. Who wants to be taken
// for the owner of an entry must send another text with both hashes the same,
// knowing neither the seeds nor the owner's text: a chance of about 2^-120 for
// each call. Entries are compared in constant time. Only keys that exist are
// remembered, so that calls with invented ones displace nothing. The cache
// belongs to one directory table and is gone with it: a revoked key is not found
// in the next.
type keyCache[T any] struct {
	seeds [2]maphash.Seed
	slots []atomic.Pointer[cachedKey[T]] // a power of two
}

// cachedKey is never changed once it is stored.
type cachedKey[T any] struct {
	sum [2]uint64
	key *T
}

// maxCachedKeys bounds the slots: 16 MiB of pointers for a million keys, which
// take some hundred themselves, and 24 bytes for each that has called. Further
// keys displace each other and cost their HMAC now and then.
const maxCachedKeys = 1 << 21

// newKeyCache returns a cache for so many keys.
func newKeyCache[T any](keys int) *keyCache[T] {
	n := 64
	for n < 2*keys && n < maxCachedKeys {
		n *= 2
	}
	return &keyCache[T]{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, slots: make([]atomic.Pointer[cachedKey[T]], n)}
}

// find returns what the text stands for where that is remembered, and what to
// remember it by.
func (c *keyCache[T]) find(text []byte) (known *T, sum [2]uint64) {
	sum = [2]uint64{maphash.Bytes(c.seeds[0], text), maphash.Bytes(c.seeds[1], text)}
	if e := c.slot(sum).Load(); e != nil && (e.sum[0]^sum[0])|(e.sum[1]^sum[1]) == 0 {
		return e.key, sum
	}
	return nil, sum
}

func (c *keyCache[T]) slot(sum [2]uint64) *atomic.Pointer[cachedKey[T]] {
	return &c.slots[sum[0]&uint64(len(c.slots)-1)]
}

// remember keeps k for the text that find made sum of.
func (c *keyCache[T]) remember(sum [2]uint64, k *T) {
	c.slot(sum).Store(&cachedKey[T]{sum: sum, key: k})
}

// findKey returns the API key whose text it is given, nil when there is none.
func (t *directoryTable) findKey(h *hasher, text []byte) *apiKey {
	k, sum := t.keyCache.find(text)
	if k != nil {
		return k
	}
	if k = t.keyOf(h.sum(text)); k != nil {
		t.keyCache.remember(sum, k)
	}
	return k
}

// findCode returns the AppCode whose text it is given, nil when there is none.
func (t *directoryTable) findCode(h *hasher, text []byte) *appCode {
	a, sum := t.codeCache.find(text)
	if a != nil {
		return a
	}
	if a = t.appCodes[h.sum(text)]; a != nil {
		t.codeCache.remember(sum, a)
	}
	return a
}
