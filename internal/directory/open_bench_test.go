package directory

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"
)

// manyKeys is a snapshot of n API keys.
func manyKeys(n int) *Snapshot {
	s := &Snapshot{Version: 7, Made: time.Unix(1.7e9, 0).UTC(), Region: "cn-north-4", Pepper: []byte("pepper of the benchmark")}
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, i))
		s.APIKeys = append(s.APIKeys, APIKey{ID: fmt.Sprintf("scale-key-%08d", i), Account: "01JD0000000000000000000000", Hash: sum[:]})
	}
	return s
}

// BenchmarkOpen opens a sealed snapshot of 100 000 API keys.
func BenchmarkOpen(b *testing.B) {
	sealed, err := Seal(manyKeys(100_000), "secret")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(len(sealed)))
	for b.Loop() {
		if _, err := Open(sealed, "secret"); err != nil {
			b.Fatal(err)
		}
	}
}
