//go:build !race

package receipt

import "testing"

func TestAppendDoesNotAllocate(t *testing.T) {
	r := sample()
	k := NewKey("01K9KEY", secret)
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(500, func() { buf = k.Append(buf[:0], &r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
