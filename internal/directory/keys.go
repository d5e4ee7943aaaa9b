package directory

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// The key block holds the API keys that have neither products nor a policy of
// their own, which nearly all of a large directory are: reading a million of
// them as JSON took seconds of processor time in each gateway at each change.
//
//	uvarint number of accounts, each: uvarint length, name
//	uvarint number of keys, each: uvarint account, uvarint length, id, 32 bytes hash

const hashSize = 32

// plainKey reports whether k belongs in the key block.
func plainKey(k *APIKey) bool {
	return k.Policy == nil && len(k.Products) == 0 && len(k.Hash) == hashSize
}

// splitKeys returns the key block of keys and the keys that are not in it.
func splitKeys(keys []APIKey) (block []byte, rest []APIKey) {
	places := make(map[string]uint64)
	var accounts []string
	n, size := 0, 0
	for i := range keys {
		k := &keys[i]
		if !plainKey(k) {
			rest = append(rest, *k)
			continue
		}
		n++
		size += len(k.ID) + hashSize + 2*binary.MaxVarintLen32
		if _, ok := places[k.Account]; !ok {
			places[k.Account] = uint64(len(accounts))
			accounts = append(accounts, k.Account)
			size += len(k.Account) + binary.MaxVarintLen32
		}
	}
	block = make([]byte, 0, size+2*binary.MaxVarintLen64)
	block = binary.AppendUvarint(block, uint64(len(accounts)))
	for _, a := range accounts {
		block = append(binary.AppendUvarint(block, uint64(len(a))), a...)
	}
	block = binary.AppendUvarint(block, uint64(n))
	for i := range keys {
		if k := &keys[i]; plainKey(k) {
			block = binary.AppendUvarint(block, places[k.Account])
			block = append(binary.AppendUvarint(block, uint64(len(k.ID))), k.ID...)
			block = append(block, k.Hash...)
		}
	}
	return block, rest
}

// keyReader reads a key block.
type keyReader struct {
	block []byte
	text  string // the same bytes: ids are parts of it
	at    int
	bad   bool
}

// number reads a number of at most most.
func (r *keyReader) number(most int) int {
	v, n := binary.Uvarint(r.block[r.at:])
	if n <= 0 || v > uint64(most) {
		r.bad = true
		return 0
	}
	r.at += n
	return int(v)
}

// take returns where the next n bytes begin.
func (r *keyReader) take(n int) (from int) {
	if n > len(r.block)-r.at {
		r.bad, n = true, 0
	}
	r.at += n
	return r.at - n
}

// appendKeys appends the keys of a block. Their hashes and ids lie in one piece
// of memory each, so that a million keys are three things to allocate.
func appendKeys(keys []APIKey, block []byte) ([]APIKey, error) {
	r := keyReader{block: block, text: string(block)}
	accounts := make([]string, 0, min(r.number(len(block)), 1<<16))
	n, _ := binary.Uvarint(block) // read well above, or bad
	for range n {
		if r.bad {
			break
		}
		size := r.number(math.MaxInt32)
		from := r.take(size)
		accounts = append(accounts, r.text[from:r.at])
	}
	count := r.number(len(block) / (hashSize + 2))
	if count > 0 && len(accounts) == 0 {
		r.bad, count = true, 0
	}
	keys = slices.Grow(keys, count)
	var pace Pacer
	for range count {
		pace.Step()
		account := r.number(len(accounts) - 1)
		size := r.number(math.MaxInt32)
		id := r.take(size)
		hash := r.take(hashSize)
		if r.bad {
			break
		}
		keys = append(keys, APIKey{ID: r.text[id : id+size], Account: accounts[account], Hash: block[hash:r.at:r.at]})
	}
	if r.bad || r.at != len(block) {
		return nil, fmt.Errorf("%w: its API keys are damaged at byte %d", errForm, r.at)
	}
	return keys, nil
}
