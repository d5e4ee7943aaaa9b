//go:build !race

package usage

import "testing"

func TestAppendRecordDoesNotAllocate(t *testing.T) {
	r := sample()
	dst := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(1000, func() { dst = AppendRecord(dst[:0], &r) }); n != 0 {
		t.Fatalf("AppendRecord allocates %v times", n)
	}
	var got Record
	src := AppendRecord(nil, &r)
	if err := DecodeRecord(src, &got); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() { _, _ = PeekFlags(src) }); n != 0 {
		t.Fatalf("PeekFlags allocates %v times", n)
	}
	if n := testing.AllocsPerRun(1000, func() { _ = DecodeRecord(src, &got) }); n != 0 {
		t.Fatalf("DecodeRecord into a record that holds the texts allocates %v times", n)
	}
}
