package gateway

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

// keyTable is a directory with n API keys.
func keyTable(n int) (*directoryTable, *hasher) {
	h := newHasher([]byte("pepper"))
	t := &directoryTable{apiKeys: make(map[[32]byte]uint32), keyCache: newKeyCache[apiKey](n)}
	for i := range n {
		t.put(h.sum(keyText(i)), fmt.Sprint(i))
	}
	return t, h
}

// put adds an API key.
func (t *directoryTable) put(hash [32]byte, id string) {
	t.apiKeys[hash] = uint32(len(t.keyRows))
	t.keyRows = append(t.keyRows, apiKey{id: id})
}

func keyText(i int) []byte { return fmt.Appendf(nil, "sk-%048d", i) }

// TestKeyCache: what is remembered is what the map says, for more keys than
// there are slots, and unknown ones are never found (KEY-11).
func TestKeyCache(t *testing.T) {
	t.Parallel()
	const n = 500
	table, h := keyTable(n)
	table.keyCache = newKeyCache[apiKey](0) // 64 slots: they displace each other
	for range 3 {
		for i := range n {
			for range 2 {
				if k := table.findKey(h, keyText(i)); k == nil || k.id != fmt.Sprint(i) {
					t.Fatalf("key %d is taken for %v", i, k)
				}
			}
			for _, bad := range [][]byte{keyText(n + i), keyText(i)[:50], append(keyText(i), 'x'), nil, bytes.ToUpper(keyText(i))} {
				if k := table.findKey(h, bad); k != nil {
					t.Fatalf("%q is taken for key %s", bad, k.id)
				}
			}
		}
	}
	long := []byte(strings.Repeat("k", 200))
	if table.findKey(h, long) != nil {
		t.Error("an unknown long key is found")
	}
	table.put(h.sum(long), "long")
	if k := table.findKey(h, long); k == nil || k.id != "long" {
		t.Errorf("a long key is taken for %v", k)
	}
}

// TestFindCode: AppCodes are remembered like keys, apart from them.
func TestFindCode(t *testing.T) {
	t.Parallel()
	table, h := keyTable(1)
	table.appCodes, table.codeCache = map[[32]byte]*appCode{h.sum([]byte("code")): {id: "C"}}, newKeyCache[appCode](1)
	for range 2 {
		if a := table.findCode(h, []byte("code")); a == nil || a.id != "C" {
			t.Fatalf("the code is taken for %v", a)
		}
		if a := table.findCode(h, keyText(0)); a != nil {
			t.Fatalf("an API key is taken for code %s", a.id)
		}
		if k := table.findKey(h, []byte("code")); k != nil {
			t.Fatalf("a code is taken for key %s", k.id)
		}
	}
}

// TestKeyCacheHoldsNoKey: neither the text nor its bare hash lies in the cache,
// and invented keys displace nothing.
func TestKeyCacheHoldsNoKey(t *testing.T) {
	t.Parallel()
	table, h := keyTable(1)
	other, _ := keyTable(1)
	table.findKey(h, keyText(0))
	other.findKey(h, keyText(0))
	entry := func(t *directoryTable) (e *cachedKey[apiKey]) {
		for i := range t.keyCache.slots {
			if p := t.keyCache.slots[i].Load(); p != nil {
				e = p
			}
		}
		return e
	}
	e := entry(table)
	if e == nil {
		t.Fatal("nothing is remembered")
	}
	if two := entry(other).sum; e.sum[0] == two[0] || e.sum[1] == two[1] || e.sum[0] == e.sum[1] {
		t.Error("two caches, or both halves, hash a key alike: the seeds are not random")
	}
	if unsafe.Sizeof(*e) != 24 {
		t.Errorf("an entry has %d bytes: it holds more than a hash and a pointer", unsafe.Sizeof(*e))
	}
	for i := range 10_000 {
		table.findKey(h, keyText(i+1))
	}
	if entry(table) != e {
		t.Error("keys that do not exist displaced one that does")
	}
}

// TestFindKeyAllocates nothing once a key was seen.
func TestFindKeyAllocates(t *testing.T) {
	table, h := keyTable(10)
	text := keyText(3)
	if n := testing.AllocsPerRun(100, func() { table.findKey(h, text) }); n != 0 {
		t.Errorf("%v allocations a look-up", n)
	}
}

func BenchmarkFindKey(b *testing.B) {
	table, h := keyTable(10)
	text := keyText(3)
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			table.findKey(h, text)
		}
	})
	b.Run("hmac", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = table.apiKeys[h.sum(text)]
		}
	})
}
