//go:build !race

package journal

import "testing"

func TestAppendDoesNotAllocate(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{SegmentSize: 1 << 20})
	payload := make([]byte, 160)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := j.Append(KindUsage, payload); err != nil {
			t.Fatal(err)
		}
		if err := j.CanAdmit(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("Append allocates %v times", n)
	}
}
